"""What the SK units of trained networks attend to: every number, in one pass over a split."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import nn

from skseg.attention.selection import Floats, Selection, SelectionReader, attention_of
from skseg.attention.targets import (
    Target,
    blurred_targets,
    cropped_targets,
    growth_blurs,
    read_split,
    redrawn_targets,
    still_targets,
)
from skseg.data import STREETS, DatasetSpec, Pair
from skseg.errors import UserError
from skseg.evaluation.evaluate import check_classes
from skseg.inference import best_device, normalize, padded_side
from skseg.nn import Unit, attention_units, record_attention
from skseg.training.task import SegmentationTask
from skseg.viz import Image, Sample, shrink

Growing = Literal["redraw", "crop"]

_BATCH = 8  # windows at a time


@dataclass(frozen=True)
class Attention:
    """One network's attention to N targets on I images, at F factors, in U units of M branches.

    Attributes:
        image: int [N], which image a target is on, from 0.
        label: int [N], its class index.
        size: int [N], its bin of size.
        weights: [N, F, U, M], mean over channels.
        largest: for each unit [I, F, C], the weight of the largest kernel, averaged over an
            image's targets; images without a target are left out.
    """

    image: NDArray[np.int64]
    label: NDArray[np.int64]
    size: NDArray[np.int64]
    weights: Floats
    largest: list[Floats]


class Whole(NamedTuple):
    """A whole image through one network.

    Attributes:
        sample: the image, truth and prediction.
        weights: [U, M], mean over channels.
    """

    sample: Sample
    weights: Floats


@dataclass(frozen=True)
class Observations:
    """What was seen of networks with the same units.

    Attributes:
        units: by depth.
        growing: how targets grew.
        side: of a window, in pixels.
        images: names of the images looked at.
        still: for each network, its attention to every object as it is.
        grown: for each network, its attention to objects at each of `targets.FACTORS`.
        blurred: for growth by cropping, each network's attention to the same objects as they are,
            and blurred as much as enlarging blurs them; else None.
        whole: each image through the first network.
        selections: each network's attention to whole images.
    """

    units: list[Unit]
    growing: Growing
    side: int
    images: list[str]
    still: list[Attention]
    grown: list[Attention]
    blurred: list[Attention] | None
    whole: list[Whole]
    selections: list[Selection]


def find_units(model: nn.Module) -> list[Unit]:
    """Find the SK units that weigh kernels of different spans, in the order of depth.

    Raises:
        UserError: there is none, or they differ in the number of branches.
    """
    units = [unit for unit in attention_units(model) if len(set(unit.spans)) > 1]
    if not units:
        raise UserError("the network has no SK unit that weighs kernels of different sizes")
    if len({len(unit.spans) for unit in units}) > 1:
        raise UserError("the network's SK units have different numbers of branches")
    return units


def read_attention(
    task: SegmentationTask, pictures: Sequence[Image], units: Sequence[Unit]
) -> list[Floats]:
    """Run pictures of one size through a network.

    Args:
        task: a trained model in eval mode.
        pictures: B times [H, W, 3] uint8 RGB.
        units: of the network.

    Returns:
        The attention [B, M, C] of each unit, that of units which attend by region averaged over
        the regions.
    """
    batch = torch.cat([normalize(p, task.mean, task.std, task.device) for p in pictures])
    with torch.inference_mode(), record_attention(task.model) as recorded:
        task(batch)
    return attention_of(recorded, units)


class _Reader:
    """Gathers one network's attention to targets, image by image."""

    def __init__(self, task: SegmentationTask, units: list[Unit]) -> None:
        self.task = task
        self.units = units
        self.targets: list[tuple[int, int, int]] = []
        self.weights: list[Floats] = []
        self.largest: list[list[Floats]] = [[] for _ in units]

    def add(self, image: int, targets: list[Target]) -> None:
        """Look at an image's targets."""
        if not targets:
            return
        windows = [window for target in targets for window in target.windows]
        parts = [
            read_attention(self.task, windows[i : i + _BATCH], self.units)
            for i in range(0, len(windows), _BATCH)
        ]
        read = [
            np.concatenate(of_unit).reshape(len(targets), -1, *of_unit[0].shape[1:])
            for of_unit in zip(*parts, strict=True)
        ]  # by unit [targets, F, M, C]
        self.targets += [(image, target.label, target.size) for target in targets]
        self.weights.append(np.stack([a.mean(3) for a in read], axis=2))
        for kept, unit, a in zip(self.largest, self.units, read, strict=True):
            kept.append(a[:, :, unit.largest].mean(0))

    def result(self) -> Attention:
        """All that was gathered; at least one target."""
        image, label, size = np.asarray(self.targets, np.int64).T
        largest = [np.stack(kept) for kept in self.largest]
        return Attention(image, label, size, np.concatenate(self.weights), largest)


def observe(
    tasks: Sequence[SegmentationTask],
    spec: DatasetSpec,
    root: Path,
    split: str,
    growing: Growing | None = None,
    side: int | None = None,
    max_images: int | None = None,
    scale: float = 1.0,
) -> Observations:
    """Show networks the objects of a split as they are, growing, and whole images.

    Args:
        tasks: trained models that differ by their weights alone, see `skseg.load_model`.
        spec: the data set.
        root: its directory.
        split: one of its splits.
        growing: "redraw" draws scenes again with the central object grown, "crop" crops and
            enlarges, as the paper does; None redraws where the scenes are drawn ones.
        side: of the windows around objects, in pixels of the scaled image; half its shorter side,
            rounded up to what the network takes, when None.
        max_images: how many images to look at, evenly spread over the split; all when None.
        scale: factor on the sides of the images, for networks that were trained on smaller ones.
            Sizes of objects are those on the image as it is.

    Raises:
        UserError: networks without SK units or of different settings, other classes than the data
            set's, no such data, or no object that fits into a window.
    """
    units = find_units(tasks[0].model)
    for task in tasks:
        check_classes(task, spec)
        if unlike := [key for key, value in task.spec.items() if value != tasks[0].spec[key]]:
            raise UserError(
                f"the checkpoints are no repetitions of one another: {', '.join(unlike)} differ"
            )
        task.to(best_device()).eval()
    units = _that_run(tasks[0], units)
    pairs = _spread(spec.pairs(root, split), max_images)
    growing = _check_growing(growing, spec, root)
    if not 0 < scale < float("inf"):
        raise UserError(f"--scale is above 0, got {scale:g}")
    side = _check_side(side, tasks[0], spec, pairs[0], scale)
    still = [_Reader(task, units) for task in tasks]
    grown = [_Reader(task, units) for task in tasks]
    blurred = [_Reader(task, units) for task in tasks]
    whole = []
    everywhere = [SelectionReader(task, units, scale) for task in tasks]
    for i, (pair, image, mask) in enumerate(_read("attention", spec, pairs, side, scale)):
        _add(still, i, still_targets(image, mask, side, scale))
        if growing == "redraw":
            _add(grown, i, redrawn_targets(root, split, pair.name, side, scale))
        else:
            _add(grown, i, cropped_targets(image, mask, side, scale))
            if growth_blurs(scale):
                _add(blurred, i, blurred_targets(image, mask, side, scale))
        seen = [reader.see(image, mask) for reader in everywhere]
        predicted, read = seen[0]
        sample = shrink(Sample(pair.name, image, mask, predicted), 512)
        whole.append(Whole(sample, np.stack([a.mean(1) for a in read])))
    if not still[0].targets:
        raise UserError(f"{root}, split {split!r}: no object of 16x16 pixels or more")
    if not grown[0].targets:
        raise UserError(
            f"{root}, split {split!r}: no object of 16x16 pixels or more fits, doubled, into a "
            f"window of {side} pixels; give a larger --window"
        )
    for _, image, mask in _read("fixed attention", spec, pairs, side, scale):
        for reader in everywhere:
            reader.see_fixed(image, mask)
    names = [pair.name for pair in pairs]
    control = [reader.result() for reader in blurred] if blurred[0].targets else None
    as_is, growth = ([reader.result() for reader in readers] for readers in (still, grown))
    selections = [reader.result() for reader in everywhere]
    return Observations(units, growing, side, names, as_is, growth, control, whole, selections)


def _read(
    what: str, spec: DatasetSpec, pairs: list[Pair], side: int, scale: float
) -> Iterable[tuple[Pair, Image, Image]]:
    return track(read_split(spec, pairs, side, scale), what, len(pairs), transient=True)


def _that_run(task: SegmentationTask, units: list[Unit]) -> list[Unit]:
    """The units that a decoder uses; a shallow one leaves the last stages out."""
    side = task.input_rule.minimum
    with torch.inference_mode(), record_attention(task.model) as recorded:
        task(torch.zeros(1, 3, side, side, device=task.device))
    return [unit for unit in units if unit.name in recorded]


def _add(readers: list[_Reader], image: int, targets: list[Target]) -> None:
    for reader in readers:
        reader.add(image, targets)


def _spread(pairs: list[Pair], count: int | None) -> list[Pair]:
    if count is None or count >= len(pairs):
        return pairs
    if count < 1:
        raise UserError(f"--max_images is at least 1, got {count}")
    return [pairs[i] for i in np.linspace(0, len(pairs) - 1, count).astype(int)]


def _check_growing(growing: Growing | None, spec: DatasetSpec, root: Path) -> Growing:
    if growing is None:
        return "redraw" if spec.name == STREETS.name else "crop"
    if growing not in get_args(Growing):
        raise UserError(f"--growth is one of {', '.join(get_args(Growing))}, got {growing!r}")
    if growing == "redraw" and spec.name != STREETS.name:
        raise UserError(f"--growth redraw draws scenes of {STREETS.name} again, not {spec.name}")
    return growing


def _check_side(
    side: int | None, task: SegmentationTask, spec: DatasetSpec, first: Pair, scale: float
) -> int:
    multiple, minimum = task.input_rule
    if side is None:
        half = int(min(spec.read_mask(first.mask).shape) * scale) // 2
        return padded_side(half, task.input_rule)
    if side < minimum or side % multiple:
        raise UserError(
            f"--window {side}: the network takes multiples of {multiple}, from {minimum} on"
        )
    return side
