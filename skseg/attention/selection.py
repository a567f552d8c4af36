"""How much attention depends on the image, and the score without that dependence."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skseg.attention.records import SelectionRecord, VariationRecord
from skseg.inference import InferenceSettings, predict
from skseg.metrics import count_by_class, count_pixels, miou
from skseg.metrics.bootstrap import Values
from skseg.metrics.estimates import estimate
from skseg.nn import Unit, fix_attention, record_attention
from skseg.training.task import SegmentationTask
from skseg.types import Image, Mask

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Selection:
    """One network's attention to I whole images, and its predictions with free and fixed attention.

    Attributes:
        largest: For each unit [I, C], the weight of the largest kernel.
        counts: Int [I, K, 3], hits, pixels of truth and of prediction, by class.
        counts_fixed: The same with each unit's attention fixed at its mean over the images.
    """

    largest: list[Floats]
    counts: NDArray[np.int64]
    counts_fixed: NDArray[np.int64]


class SelectionCollector:
    """Collects a `Selection`: pass all images to `add`, and then all again to `add_fixed`.

    Args:
        task: A trained model in eval mode.
        units: The units to record. All units of the network are fixed.
        scale: Factor on the sides of the images.
    """

    def __init__(self, task: SegmentationTask, units: Sequence[Unit], scale: float) -> None:
        self.task = task
        self.units = units
        self.settings = InferenceSettings(scales=(scale,))
        self.largest: list[list[Floats]] = [[] for _ in units]
        self.sums: dict[str, Tensor] = {}
        self.counts: list[NDArray[np.int64]] = []
        self.counts_fixed: list[NDArray[np.int64]] = []

    def add(self, image: Image, mask: Mask) -> tuple[Mask, list[Floats]]:
        """Predict an image.

        Returns:
            The predicted class indices [H, W], and each unit's attention [M, C].
        """
        with record_attention(self.task.model) as recorded:
            predicted = predict(self.task, image, self.settings).indices
        for name, weights in recorded.items():
            mean = mean_over_regions(weights)[0].double()
            self.sums[name] = self.sums.get(name, torch.zeros_like(mean)) + mean
        by_unit = unit_attention(recorded, self.units)
        for kept, unit, attention in zip(self.largest, self.units, by_unit, strict=True):
            kept.append(attention[0, unit.largest])
        self.counts.append(self._count(mask, predicted))
        return predicted, [attention[0] for attention in by_unit]

    def add_fixed(self, image: Image, mask: Mask) -> None:
        """Predict an image with each unit's attention fixed at its mean over the added images."""
        means = {name: total / len(self.counts) for name, total in self.sums.items()}
        with fix_attention(self.task.model, means):
            predicted = predict(self.task, image, self.settings).indices
        self.counts_fixed.append(self._count(mask, predicted))

    def _count(self, mask: Mask, predicted: Mask) -> NDArray[np.int64]:
        return count_by_class(count_pixels(mask, predicted, len(self.task.class_names)))

    def result(self) -> Selection:
        """Return what was collected from at least one image."""
        largest = [np.stack(kept) for kept in self.largest]
        return Selection(largest, np.stack(self.counts), np.stack(self.counts_fixed))


def mean_over_regions(attention: Tensor) -> Tensor:
    """Average attention [B, M, C, h, w] over regions; return [B, M, C], as of other units."""
    return attention.flatten(3).mean(3) if attention.ndim > 3 else attention


def unit_attention(recorded: dict[str, Tensor], units: Sequence[Unit]) -> list[Floats]:
    """Return each unit's attention [B, M, C] from the dict of `skseg.nn.record_attention`."""
    return [mean_over_regions(recorded[unit.name].float()).cpu().numpy() for unit in units]


def describe_selection(
    networks: Sequence[Selection], units: Sequence[Unit], seed: int = 0
) -> SelectionRecord:
    """Measure how attention varies, and how much its dependence on the image adds to mIoU.

    Attention that selects by content varies over images. Attention that varies only over channels
    is a mixture of kernels that training has fixed.

    Args:
        networks: One network, or several repetitions of one.
        units: The units, by depth.
        seed: Seed of the bootstrap.
    """
    stages = dict.fromkeys(unit.stage for unit in units)
    # Absent classes are left out: the IoU of one is 0 as soon as one pixel is predicted as it.
    occurs = networks[0].counts[..., 1].sum(0) > 0
    counts = [  # [I, 2, K, 3]
        np.stack([n.counts, n.counts_fixed], axis=1)[:, :, occurs].astype(np.float64)
        for n in networks
    ]

    def difference(means: Values) -> Values:
        both = miou(means)
        return np.asarray(both[:, 0] - both[:, 1])

    return {
        "variation": {stage: _variation(networks, units, stage, seed) for stage in stages},
        "miou": estimate(counts, seed, lambda means: miou(means[:, 0])).plain(),
        "miou_fixed": estimate(counts, seed, lambda means: miou(means[:, 1])).plain(),
        "difference": estimate(counts, seed, difference).plain(),
    }


def _variation(
    networks: Sequence[Selection], units: Sequence[Unit], stage: str, seed: int
) -> VariationRecord:
    chosen = [i for i, unit in enumerate(units) if unit.stage == stage]
    weights = [
        np.concatenate([n.largest[i] for i in chosen], axis=1).astype(np.float64) for n in networks
    ]
    moments = [np.stack([w, w**2], axis=1) for w in weights]  # [I, 2, C]

    def over_images(means: Values) -> Values:
        variance = means[:, 1] - means[:, 0] ** 2
        return np.asarray(np.sqrt(variance.mean(-1).clip(0)))

    return {
        "over_images": estimate(moments, seed, over_images).plain(),
        "over_channels": estimate(moments, seed, lambda means: means[:, 0].std(-1)).plain(),
    }
