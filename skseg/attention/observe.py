"""Collects the attention of trained networks to the objects and images of a split."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from skseg.attention.records import GrowthMethod
from skseg.attention.selection import Floats, Selection, SelectionCollector, unit_attention
from skseg.attention.targets import (
    Target,
    blurred_targets,
    cropped_targets,
    growth_blurs,
    original_targets,
    read_split,
    redrawn_targets,
)
from skseg.data import DatasetSpec, Pair
from skseg.errors import UserError
from skseg.evaluation.evaluate import check_classes
from skseg.inference import best_device, padded_side
from skseg.nn import Unit, attention_units, record_attention
from skseg.pixels import normalize
from skseg.progress import track
from skseg.training.task import SegmentationTask
from skseg.types import Image, Mask
from skseg.viz import Example, shrink

_BATCH_SIZE = 8  # windows


@dataclass(frozen=True)
class TargetAttention:
    """One network's attention to N targets on I images, at F factors, in U units of M branches.

    Attributes:
        image: Int [N], index of the image that a target is on.
        label: Int [N], class index of the target.
        size: Int [N], size bin of the target.
        weights: [N, F, U, M], mean over channels.
        largest: For each unit [I, F, C], the weight of the largest kernel, averaged over an
            image's targets; images without a target are left out.
    """

    image: NDArray[np.int64]
    label: NDArray[np.int64]
    size: NDArray[np.int64]
    weights: Floats
    largest: list[Floats]


class ImageAttention(NamedTuple):
    """One network's prediction of a whole image, and its attention.

    Attributes:
        sample: The image, its ground truth and the prediction.
        weights: [U, M], mean over channels.
    """

    sample: Example
    weights: Floats


@dataclass(frozen=True)
class Observations:
    """The attention of one network, or of several repetitions of one.

    Attributes:
        units: The units, by depth.
        growth: How objects grew.
        window: Side of the windows, in pixels.
        images: Names of the images.
        original: For each network, its attention to every object at its original size.
        grown: For each network, its attention to objects at each of `targets.FACTORS`.
        blurred: For each network, its attention to the same objects sharp, and as blurred as
            enlarging makes them; None where growing does not blur.
        whole: The first network's attention to each whole image.
        selections: Each network's attention to whole images.
    """

    units: list[Unit]
    growth: GrowthMethod
    window: int
    images: list[str]
    original: list[TargetAttention]
    grown: list[TargetAttention]
    blurred: list[TargetAttention] | None
    whole: list[ImageAttention]
    selections: list[Selection]


def selecting_units(model: nn.Module) -> list[Unit]:
    """Return the SK units whose branches have kernels of different spans, by depth.

    Raises:
        UserError: There is none, or they have different numbers of branches.

    Example:
        >>> from skseg.nn import SKConv2d
        >>> [unit.spans for unit in selecting_units(nn.Sequential(SKConv2d(16, 16)))]
        [(3, 5)]
    """
    units = [unit for unit in attention_units(model) if len(set(unit.spans)) > 1]
    if not units:
        raise UserError("the network has no SK unit that selects among kernels of different sizes")
    if len({len(unit.spans) for unit in units}) > 1:
        raise UserError("the network's SK units have different numbers of branches")
    return units


def compute_attention(
    task: SegmentationTask, images: Sequence[Image], units: Sequence[Unit]
) -> list[Floats]:
    """Compute each unit's attention to images of one size.

    Args:
        task: A trained model in eval mode.
        images: B images, [H, W, 3] uint8 RGB.
        units: Units of the network.

    Returns:
        For each unit [B, M, C]; attention by region is averaged over the regions.
    """
    batch = torch.cat([normalize(p, task.mean, task.std, task.device)[None] for p in images])
    with torch.inference_mode(), record_attention(task.model) as recorded:
        task(batch)
    return unit_attention(recorded, units)


class _TargetCollector:
    """Collects one network's attention to targets, image by image."""

    def __init__(self, task: SegmentationTask, units: list[Unit]) -> None:
        self.task = task
        self.units = units
        self.targets: list[tuple[int, int, int]] = []
        self.weights: list[Floats] = []
        self.largest: list[list[Floats]] = [[] for _ in units]

    def add(self, image: int, targets: list[Target]) -> None:
        """Add the targets of one image, given by its index."""
        if not targets:
            return
        windows = [window for target in targets for window in target.windows]
        parts = [
            compute_attention(self.task, windows[i : i + _BATCH_SIZE], self.units)
            for i in range(0, len(windows), _BATCH_SIZE)
        ]
        by_unit = [  # each [targets, F, M, C]
            np.concatenate(of_unit).reshape(len(targets), -1, *of_unit[0].shape[1:])
            for of_unit in zip(*parts, strict=True)
        ]
        self.targets += [(image, target.label, target.size) for target in targets]
        self.weights.append(np.stack([a.mean(3) for a in by_unit], axis=2))
        for kept, unit, a in zip(self.largest, self.units, by_unit, strict=True):
            kept.append(a[:, :, unit.largest].mean(0))

    def result(self) -> TargetAttention:
        """Return what was collected from at least one target."""
        image, label, size = np.asarray(self.targets, np.int64).T
        largest = [np.stack(kept) for kept in self.largest]
        return TargetAttention(image, label, size, np.concatenate(self.weights), largest)


def observe_attention(
    tasks: Sequence[SegmentationTask],
    spec: DatasetSpec,
    root: Path,
    split: str,
    growth: GrowthMethod | None = None,
    window: int | None = None,
    max_images: int | None = None,
    scale: float = 1.0,
) -> Observations:
    """Collect networks' attention to objects at their original size and growing, and to images.

    Args:
        tasks: Trained models that differ only in their weights, see `skseg.load_model`.
        spec: The data set.
        root: Its directory.
        split: One of its splits.
        growth: "redraw" draws scenes again with a larger central object; "crop" crops and resizes,
            as the paper does. By default "redraw" for drawn scenes and "crop" for others.
        window: Side of the windows around objects, in pixels of the scaled image; by default half
            its shorter side, rounded up to a size that the network accepts.
        max_images: Number of images, evenly spread over the split; by default all.
        scale: Factor on the sides of the images, for networks that were trained on smaller ones.
            Sizes of objects are those in the original image.

    Raises:
        UserError: An argument is invalid, a network has no SK units, the networks have different
            settings or other classes than the data set, or no object fits into a window.
    """
    units = selecting_units(tasks[0].model)
    for task in tasks:
        check_classes(task, spec)
        if unlike := [key for key, value in task.spec.items() if value != tasks[0].spec[key]]:
            raise UserError(
                "the checkpoints must be of one network and data set; they differ in "
                f"{', '.join(unlike)}"
            )
        task.to(best_device()).eval()
    units = _used_units(tasks[0], units)
    pairs = _spread(spec.pairs(root, split), max_images)
    growth = _check_growth(growth, spec)
    if not 0 < scale < float("inf"):
        raise UserError(f"`scale` must be above 0, not {scale:g}")
    window = _check_window(window, tasks[0], spec, pairs[0], scale)
    original = [_TargetCollector(task, units) for task in tasks]
    grown = [_TargetCollector(task, units) for task in tasks]
    blurred = [_TargetCollector(task, units) for task in tasks]
    selections = [SelectionCollector(task, units, scale) for task in tasks]
    whole = []
    for i, (pair, image, mask) in enumerate(_read("attention", spec, pairs, window, scale)):
        _add(original, i, original_targets(image, mask, window, scale))
        if growth == "redraw":
            _add(grown, i, redrawn_targets(root, split, pair.name, window, scale))
        else:
            _add(grown, i, cropped_targets(image, mask, window, scale))
            if growth_blurs(scale):
                _add(blurred, i, blurred_targets(image, mask, window, scale))
        added = [collector.add(image, mask) for collector in selections]
        predicted, attention = added[0]
        sample = shrink(Example(pair.name, image, mask, predicted), 512)
        whole.append(ImageAttention(sample, np.stack([a.mean(1) for a in attention])))
    if not original[0].targets:
        raise UserError(f"{root}, split {split!r}: no object of 16x16 pixels or more")
    if not grown[0].targets:
        raise UserError(
            f"{root}, split {split!r}: no object of 16x16 pixels or more fits, doubled, into a "
            f"`window` of {window} pixels; choose a larger one"
        )
    for _, image, mask in _read("fixed attention", spec, pairs, window, scale):
        for collector in selections:
            collector.add_fixed(image, mask)
    return Observations(
        units=units,
        growth=growth,
        window=window,
        images=[pair.name for pair in pairs],
        original=[collector.result() for collector in original],
        grown=[collector.result() for collector in grown],
        blurred=[collector.result() for collector in blurred] if blurred[0].targets else None,
        whole=whole,
        selections=[collector.result() for collector in selections],
    )


def _read(
    description: str, spec: DatasetSpec, pairs: list[Pair], window: int, scale: float
) -> Iterable[tuple[Pair, Image, Mask]]:
    """Read the images with a progress bar."""
    return track(read_split(spec, pairs, window, scale), description, len(pairs))


def _used_units(task: SegmentationTask, units: list[Unit]) -> list[Unit]:
    """Return the units that the decoder uses; a shallow one leaves out the last stages."""
    side = task.input_rule.minimum
    with torch.inference_mode(), record_attention(task.model) as recorded:
        task(torch.zeros(1, 3, side, side, device=task.device))
    return [unit for unit in units if unit.name in recorded]


def _add(collectors: list[_TargetCollector], image: int, targets: list[Target]) -> None:
    for collector in collectors:
        collector.add(image, targets)


def _spread(pairs: list[Pair], count: int | None) -> list[Pair]:
    if count is None or count >= len(pairs):
        return pairs
    if count < 1:
        raise UserError(f"`max_images` must be at least 1, not {count}")
    return [pairs[i] for i in np.linspace(0, len(pairs) - 1, count).astype(int)]


def _check_growth(growth: GrowthMethod | None, spec: DatasetSpec) -> GrowthMethod:
    if growth is None:
        return "redraw" if spec.is_drawn else "crop"
    if growth not in get_args(GrowthMethod):
        raise UserError(
            f"`growth` must be one of {', '.join(get_args(GrowthMethod))}, not {growth!r}"
        )
    if growth == "redraw" and not spec.is_drawn:
        raise UserError(
            "`growth` can be 'redraw' only for the drawn scenes of streets, not for "
            f"{spec.name}; use 'crop'"
        )
    return growth


def _check_window(
    window: int | None, task: SegmentationTask, spec: DatasetSpec, first: Pair, scale: float
) -> int:
    multiple, minimum = task.input_rule
    if window is None:
        half = int(min(spec.read_mask(first.mask).shape) * scale) // 2
        return padded_side(half, task.input_rule)
    if window < minimum or window % multiple:
        raise UserError(
            f"`window` must be a multiple of {multiple}, at least {minimum}, not {window}"
        )
    return window
