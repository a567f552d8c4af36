"""Whether the masks of the training set have the labels that the class table promises."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skseg.data.dataset import DatasetSpec, Pair
from skseg.errors import UserError
from skseg.progress import track
from skseg.types import VOID, Mask

_ENOUGH = 50  # masks whose share of void stands for all


@dataclass(frozen=True)
class LabelCounts:
    """Pixels of masks.

    Attributes:
        classes: Pixels of each class, int64 [K].
        void: Pixels without a class.
        masks: Number of masks.
    """

    classes: NDArray[np.int64]
    void: int
    masks: int

    def __add__(self, other: "LabelCounts") -> "LabelCounts":
        """Return the counts of both."""
        return LabelCounts(
            self.classes + other.classes, self.void + other.void, self.masks + other.masks
        )

    @property
    def void_share(self) -> float:
        """Share of the pixels without a class."""
        return self.void / max(1, self.void + int(self.classes.sum()))


def count_labels(mask: Mask, num_classes: int) -> LabelCounts:
    """Count the pixels of each class and of void in a mask.

    Args:
        mask: uint8 [H, W] class indices.
        num_classes: Number of classes.

    Example:
        >>> counts = count_labels(np.array([[0, 1, 1, 255]], np.uint8), num_classes=3)
        >>> counts.classes.tolist(), counts.void
        ([1, 2, 0], 1)
    """
    pixels = np.bincount(mask.ravel(), minlength=256).astype(np.int64)
    return LabelCounts(pixels[:num_classes], int(pixels[num_classes:].sum()), 1)


def no_labels(num_classes: int) -> LabelCounts:
    """Return the counts of no mask."""
    return LabelCounts(np.zeros(num_classes, np.int64), 0, 0)


def label_problems(spec: DatasetSpec, counts: LabelCounts) -> list[str]:
    """Return what is wrong with the labels of a training set that its user describes.

    Args:
        spec: The data set.
        counts: The labels of its training masks.

    Returns:
        At most two lines: classes without a pixel, and more void than labels.
    """
    own = spec.own_labels
    if own is None or own.is_sparse or counts.masks == 0:
        return []
    problems = []
    missing = [index for index, pixels in enumerate(counts.classes) if not pixels]
    void = f"{100 * counts.void_share:.1f} % of the pixels are void"
    meant = "if this is meant, write `sparse: true` in classes.yaml"
    if missing:
        names = ", ".join(repr(spec.classes.names[index]) for index in missing)
        hint = f", and {void}" if counts.void else ""
        if counts.void and len(missing) == 1 and VOID not in own.values:
            values = [VOID if i in missing else value for i, value in enumerate(own.values)]
            hint += f"; if {VOID} in the masks is this class, write `values: {values}`"
        problems.append(f"no training mask has a pixel of class {names}{hint}; {meant}")
    if counts.void_share > 0.5:
        problems.append(f"{void} in the training masks; {meant}")
    return problems


def check_labels(spec: DatasetSpec, pairs: Sequence[Pair]) -> None:
    """Refuse a training set that lacks a class or whose pixels are mostly void.

    Only data sets whose labels a user describes are checked, see `DatasetSpec.own_labels`. Masks
    are read in random order until each class has been found and void is not more than half, after
    50 masks at the least: a few in most data sets, all of them only where a class is missing or
    very rare.

    Args:
        spec: The data set.
        pairs: The pairs of its training set.

    Raises:
        UserError: A class has no pixel, or more than half of all pixels are void.
    """
    if spec.own_labels is None or spec.own_labels.is_sparse:
        return
    counts = no_labels(len(spec.classes))
    order = np.random.default_rng(0).permutation(len(pairs))
    for index in track(order.tolist(), "checking labels"):
        counts += count_labels(spec.read_mask(pairs[index].mask), len(spec.classes))
        if counts.masks >= _ENOUGH and counts.classes.all() and counts.void_share <= 0.5:
            return
    if problems := label_problems(spec, counts):
        raise UserError("; ".join(problems))
