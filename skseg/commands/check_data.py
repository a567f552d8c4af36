"""`skseg check_data`: check a data set before training on it."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from skseg.commands.flags import DataFlags
from skseg.commands.parser import run_command
from skseg.commands.runs import find_data
from skseg.data import Pair, get_dataset
from skseg.data.checking import check_split, class_table, contact_sheet
from skseg.viz import write_png


def check_data(
    ckpt_path: Path | None = None,
    *,
    data: DataFlags,
    splits: Sequence[str] = ("train", "val"),
    sheet: Path | None = None,
    samples: int = 8,
) -> int:
    """Check a data set before training on it; exit with code 1 if training would fail.

    Prints classes, sizes and class weights, and one line for each problem.

    Examples:
        skseg check_data --data.name camvid --data.root data/camvid
        skseg check_data runs/demo --sheet samples.png

    Args:
        ckpt_path: Folder of a run, or a checkpoint in it, whose data set is checked.
        data: The data set.
        splits: Splits to check.
        sheet: Image to write, NAME.png, that shows samples with their masks.
        samples: Number of samples of each split in the sheet.
    """
    name, root, _ = find_data(data, [ckpt_path] if ckpt_path else [])
    spec = get_dataset(name, root)
    reports = [check_split(spec, root, split) for split in splits]
    console = Console(markup=False, emoji=False)  # paths and names are only text
    if any(report.good for report in reports):
        console.print(class_table(reports, spec.classes.names))
    for report in reports:
        sizes = ", ".join(f"{n} of {w}x{h}" for (h, w), n in report.sizes.most_common(5))
        more = len(report.sizes) - 5
        if len(report.good) < len(report.pairs):
            print(f"{report.split}: {len(report.good)} of {len(report.pairs)} images can be used")
        if report.good:
            print(f"{report.split}: {len(report.good)} images ({sizes}{', ...' * (more > 0)})")
            void = f"{100 * report.labels.void_share:.2f} % of the pixels are void"
            print(f"{report.split}: {void}")
        if report.left_out:
            print(f"{report.split}: {report.left_out}")
    problems = [problem for report in reports for problem in report.problems]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    shown = [pair for report in reports for pair in _spread(report.good, samples)]
    if sheet and shown:
        write_png(sheet, contact_sheet(spec, shown))
        print(f"samples {sheet}")
    count = len(problems)
    print(f"{count} problem{'s' * (count > 1)}" if problems else "no problems")
    return 1 if problems else 0


def _spread(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """Return at most `count` pairs, evenly spread."""
    indices = np.linspace(0, len(pairs) - 1, min(count, len(pairs))).astype(int)
    return [pairs[i] for i in indices]


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code, 1 if there are problems."""
    return run_command(check_data, args)
