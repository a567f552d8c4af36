"""Plot the validation mIoU of runs over training steps; write the numbers to a CSV file."""

import argparse
import csv
from pathlib import Path

from matplotlib.figure import Figure


def read_curve(run: Path) -> list[tuple[int, float]]:
    """Return (steps, val/miou in %) of every validation in a run folder's metrics.csv."""
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/miou")]
    return [(int(row["step"]) + 1, 100 * float(row["val/miou"])) for row in rows]


def draw(curves: dict[str, list[tuple[int, float]]]) -> Figure:
    figure = Figure(figsize=(6.4, 4), dpi=100, layout="constrained")
    axes = figure.subplots()
    for name, curve in curves.items():
        steps, scores = zip(*curve, strict=True)
        axes.plot(steps, scores, marker="o", markersize=4, label=f"{name}: {scores[-1]:.1f}")
    axes.set_xlabel("training steps")
    axes.set_ylabel("validation mIoU, %")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, title="run and its last score", title_fontsize=9)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders of fit.py")
    parser.add_argument(
        "--output", type=Path, default="curves.png", help="picture; the CSV file has its name"
    )
    args = parser.parse_args()
    curves = {}
    for run in args.runs:
        if not (run / "metrics.csv").is_file():
            parser.error(f"{run} is not a run folder: it has no metrics.csv")
        if not (curve := read_curve(run)):
            parser.error(f"{run} has no validation yet")
        curves[run.name] = curve
    args.output.parent.mkdir(parents=True, exist_ok=True)
    draw(curves).savefig(args.output)
    with args.output.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "steps", "val_miou"])
        writer.writerows(
            [name, step, f"{score:.2f}"] for name, curve in curves.items() for step, score in curve
        )


if __name__ == "__main__":
    main()
