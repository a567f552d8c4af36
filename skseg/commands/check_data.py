"""Look through a data set before training on it; exit 1 if something would fail."""

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.console import Console

from skseg.data import default_root, get_dataset
from skseg.data.checking import check_split, class_table, contact_sheet
from skseg.errors import exits_on_mistakes
from skseg.viz import write_png


@exits_on_mistakes
def main(args: list[str] | None = None) -> int:
    """Run the command; return its exit code, 1 if there are problems."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data.name", dest="name", required=True, help="data set")
    parser.add_argument("--data.root", dest="root", type=Path, help="its folder; data/NAME")
    parser.add_argument("--splits", nargs="+", default=["train", "val"], help="train and val")
    parser.add_argument("--sheet", type=Path, help="picture of samples to write: NAME.png")
    parser.add_argument("--samples", type=int, default=8, help="in the picture, of each split")
    flags = parser.parse_args(args)
    root = flags.root or default_root(flags.name)
    spec = get_dataset(flags.name, root)
    reports = [check_split(spec, root, split) for split in flags.splits]
    console = Console()
    console.print(class_table(reports, spec.classes.names))
    for report in reports:
        sizes = ", ".join(f"{n} of {w}x{h}" for (h, w), n in report.sizes.most_common(5))
        more = len(report.sizes) - 5
        print(f"{report.split}: {len(report.good)} images ({sizes}{', ...' * (more > 0)})")
        share = report.void / max(1, report.void + int(report.counts.sum()))
        print(f"{report.split}: {100 * share:.2f} % of the pixels are void")
    problems = [problem for report in reports for problem in report.problems]
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    shown = [
        report.good[i]
        for report in reports
        for i in np.linspace(0, len(report.good) - 1, min(flags.samples, len(report.good))).astype(
            int
        )
    ]
    if flags.sheet and shown:
        write_png(flags.sheet, contact_sheet(spec, shown))
        print(f"samples {flags.sheet}")
    print(f"{len(problems)} problems" if problems else "no problems")
    return 1 if problems else 0
