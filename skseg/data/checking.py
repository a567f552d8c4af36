"""Check the files of a data set before training: sizes, class shares, and what is wrong."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from skseg.data.class_weights import inverse_log_weights
from skseg.data.dataset import DatasetSpec, Pair, read_pair
from skseg.data.headers import palette_problems
from skseg.data.labels import LabelCounts, count_labels, label_problems, no_labels
from skseg.errors import UserError
from skseg.progress import track
from skseg.types import Image
from skseg.viz import overlay


@dataclass
class SplitReport:
    """The result of checking one split.

    Attributes:
        split: Name of the split.
        pairs: Image and mask of each sample, sorted by name.
        labels: The labels of the masks that could be read.
        good: The pairs that could be read.
        sizes: Number of images of each (height, width) in pixels.
        problems: One line for each problem that training would fail on.
        left_out: What does not belong to the split, in a line; empty if nothing.
    """

    split: str
    pairs: list[Pair]
    labels: LabelCounts
    good: list[Pair] = field(default_factory=list)
    sizes: Counter[tuple[int, ...]] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    left_out: str = ""

    @property
    def counts(self) -> NDArray[np.int64]:
        """Pixels of each class in the masks that could be read, int64 [K]."""
        return self.labels.classes


def check_split(spec: DatasetSpec, root: Path, split: str) -> SplitReport:
    """Read all files of a split as training does.

    Args:
        spec: The data set.
        root: Its directory.
        split: One of its splits.

    Returns:
        The report. Problems are listed in it; none is raised.
    """
    report = SplitReport(split, [], no_labels(len(spec.classes)))
    try:
        report.pairs, report.problems, report.left_out = spec.list_pairs(root, split)
    except UserError as error:
        report.problems.append(str(error).partition(f"\n{spec.help}")[0])
    for pair in track(report.pairs, split):
        try:
            _, mask = read_pair(spec, pair)
        except UserError as error:
            report.problems.append(str(error))
            continue
        report.sizes[mask.shape] += 1
        report.good.append(pair)
        report.labels += count_labels(mask, len(spec.classes))
    report.problems += palette_problems(spec, report.good)
    if split == "train":
        report.problems += label_problems(spec, report.labels)
    return report


def class_table(reports: list[SplitReport], class_names: Sequence[str]) -> Table:
    """Tabulate the share of each class in the labeled pixels, by split, with loss weights.

    Args:
        reports: One or more reports; the weights are those of the first.
        class_names: A name for each class.
    """
    table = Table(title="share of the labeled pixels, %")
    table.add_column("class")
    for report in reports:
        table.add_column(report.split, justify="right")
    table.add_column("weight", justify="right")
    weights = inverse_log_weights(torch.from_numpy(reports[0].counts)).tolist()
    shares = [100 * report.counts / max(1, report.counts.sum()) for report in reports]
    for index, name in enumerate(class_names):
        table.add_row(Text(name), *(f"{s[index]:.3f}" for s in shares), f"{weights[index]:.2f}")
    table.caption = f"weights, 1 / ln(1.02 + share), of {reports[0].split}"
    return table


def contact_sheet(spec: DatasetSpec, pairs: Sequence[Pair], columns: int = 4) -> Image:
    """Show samples in a grid, each image above a copy with its mask painted over.

    Args:
        spec: The data set.
        pairs: One or more samples of it.
        columns: Number of columns of the grid.

    Returns:
        [H, W, 3] uint8 RGB.
    """
    width, height = 320, 240  # of a tile, in pixels; images keep their shape
    rows = -(-len(pairs) // columns)
    sheet = np.zeros((2 * rows * height, min(columns, len(pairs)) * width, 3), np.uint8)
    for i, pair in enumerate(pairs):
        image, mask = read_pair(spec, pair)
        factor = min(width / mask.shape[1], height / mask.shape[0])
        size = [max(1, round(side * factor)) for side in (mask.shape[1], mask.shape[0])]
        small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        labels = np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST), np.uint8)
        top, left = 2 * height * (i // columns), width * (i % columns)
        for tile in (small, overlay(small, labels, spec.classes.colors)):
            sheet[top : top + size[1], left : left + size[0]] = tile
            top += height
    return sheet
