"""What it is worth that attention follows the image: how far it does, and the score without."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skseg.inference import InferenceSettings, predict
from skseg.metrics import count_by_class, count_pixels, miou
from skseg.metrics.bootstrap import Values
from skseg.metrics.estimates import estimate
from skseg.nn import Unit, fix_attention, record_attention
from skseg.training.task import SegmentationTask
from skseg.viz import Image

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Selection:
    """One network's attention to I whole images, and its predictions with it and without.

    Attributes:
        largest: for each unit [I, C], the weight of the largest kernel.
        counts: int [I, K, 3], hits, pixels of truth and of prediction, by class.
        counts_fixed: the same, where each unit weighs by its mean attention over the images.
    """

    largest: list[Floats]
    counts: NDArray[np.int64]
    counts_fixed: NDArray[np.int64]


class SelectionReader:
    """Shows a network whole images; all of them once, and then all again with fixed attention.

    Args:
        task: a trained model in eval mode.
        units: those to read; all of the network's are fixed.
        scale: factor on the sides of the images.
    """

    def __init__(self, task: SegmentationTask, units: Sequence[Unit], scale: float) -> None:
        self.task = task
        self.units = units
        self.settings = InferenceSettings(scales=(scale,))
        self.largest: list[list[Floats]] = [[] for _ in units]
        self.sums: dict[str, Tensor] = {}
        self.counts: list[NDArray[np.int64]] = []
        self.counts_fixed: list[NDArray[np.int64]] = []

    def see(self, image: Image, mask: Image) -> tuple[Image, list[Floats]]:
        """Return the class indices [H, W] of an image, and each unit's attention [M, C]."""
        with record_attention(self.task.model) as recorded:
            predicted = predict(self.task, image, self.settings).indices
        for name, attention in recorded.items():
            attention = over_regions(attention)[0].double()
            self.sums[name] = self.sums.get(name, torch.zeros_like(attention)) + attention
        read = attention_of(recorded, self.units)
        for kept, unit, a in zip(self.largest, self.units, read, strict=True):
            kept.append(a[0, unit.largest])
        self.counts.append(self._count(mask, predicted))
        return predicted, [a[0] for a in read]

    def see_fixed(self, image: Image, mask: Image) -> None:
        """Predict an image with every unit's mean attention."""
        means = {name: total / len(self.counts) for name, total in self.sums.items()}
        with fix_attention(self.task.model, means):
            predicted = predict(self.task, image, self.settings).indices
        self.counts_fixed.append(self._count(mask, predicted))

    def _count(self, mask: Image, predicted: Image) -> NDArray[np.int64]:
        return count_by_class(count_pixels(mask, predicted, len(self.task.class_names)))

    def result(self) -> Selection:
        """All that was seen; at least one image."""
        largest = [np.stack(kept) for kept in self.largest]
        return Selection(largest, np.stack(self.counts), np.stack(self.counts_fixed))


def over_regions(attention: Tensor) -> Tensor:
    """Average attention over the regions of units that attend by region: [B, M, C]."""
    return attention.flatten(3).mean(3) if attention.ndim > 3 else attention


def attention_of(recorded: dict[str, Tensor], units: Sequence[Unit]) -> list[Floats]:
    """Return each unit's attention [B, M, C] from what `record_attention` recorded."""
    return [over_regions(recorded[unit.name].float()).cpu().numpy() for unit in units]


def describe_selection(
    networks: Sequence[Selection], units: Sequence[Unit], seed: int = 0
) -> dict[str, Any]:
    """Describe how attention varies, and what its following the image is worth.

    Attention that selects by what an image holds varies over images; what varies over channels
    alone is a mixture of kernels that training has fixed.

    Args:
        networks: one, or several that are repetitions of each other.
        units: by depth.
        seed: of the bootstrap.

    Returns:
        `variation`: for each stage the standard deviation of the largest kernel's weight
        `over_images`, of one channel's, averaged over channels (root mean square), and
        `over_channels`, of their means over images. `miou`, 0 to 1, over the classes that occur in
        truth, with attention as it is,
        `miou_fixed`, with each unit's mean over the images instead, and `difference`, the first
        minus the second.
    """
    stages = dict.fromkeys(unit.stage for unit in units)
    # A class that never occurs counts as 0 as soon as one pixel is taken for it, in either pass.
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
) -> dict[str, Any]:
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
