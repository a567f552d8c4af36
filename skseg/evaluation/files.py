"""The files of an evaluation's results."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from skseg.evaluation.evaluate import Evaluation
from skseg.evaluation.page import render_page
from skseg.files import whole_file
from skseg.metrics import ComparisonRecord, EvaluationRecord, miou
from skseg.metrics.tables import COLUMNS, percent
from skseg.training.task import SegmentationTask
from skseg.viz import plot_examples, save_figure


def write_evaluation(
    output: Path,
    evaluation: Evaluation,
    task: SegmentationTask,
    comparison: ComparisonRecord | None = None,
) -> None:
    """Write all results of an evaluation to a folder.

    These are `evaluation.json` (fractions, undefined is null), `evaluation.csv` and `evaluation.md`
    (scores by class), `images.csv` (mIoU by image), `report.html`, which needs no other file,
    `predictions.png`, and `comparison.json` if there is a comparison.

    Args:
        output: The folder, created if missing.
        evaluation: The results.
        task: The model, for its classes and colors.
        comparison: A result of `skseg.evaluation.evaluate.compare` whose second model this is.

    Raises:
        OSError: A file cannot be written.
    """
    record = evaluation.record
    _write_json(output / "evaluation.json", record)
    by_class = [[name, *(record[key][name] for key in COLUMNS)] for name in record["iou"]]
    _write_csv(output / "evaluation.csv", ["class", *COLUMNS], by_class)
    by_image = zip(evaluation.names, miou(evaluation.counts).tolist(), strict=True)
    _write_csv(output / "images.csv", ["image", "miou"], by_image)
    with whole_file(output / "evaluation.md") as part:
        part.write_text(markdown(record), encoding="utf-8")
    if comparison is not None:
        _write_json(output / "comparison.json", comparison)
    with whole_file(output / "report.html") as part:
        page = render_page(evaluation, task.class_names, task.colors, comparison)
        part.write_text(page, encoding="utf-8")
    picture = plot_examples(evaluation.samples, task.class_names, task.colors)
    save_figure(picture, output / "predictions.png")


def markdown(record: EvaluationRecord) -> str:
    """Tabulate the record of an evaluation in Markdown, in percent; a dash where undefined."""
    lines = [
        "| class | " + " | ".join(COLUMNS.values()) + " |",
        "|---|" + "---:|" * len(COLUMNS),
    ]
    for name in record["iou"]:
        lines.append(f"| {name} | {' | '.join(percent(record[key][name]) for key in COLUMNS)} |")
    low, high = record["miou_interval"] or (None, None)
    facts = {
        "mIoU": f"{percent(record['miou'])} (95 % interval {percent(low)} to {percent(high)})",
        "pixel accuracy": percent(record["pixel_accuracy"]),
        "mean accuracy": percent(record["mean_accuracy"]),
        "frequency-weighted IoU": percent(record["frequency_weighted_iou"]),
        "boundary IoU, mean": percent(record["boundary_miou"]),
        "boundary F, mean": percent(record["boundary_mean_f"]),
        "calibration error": percent(record["calibration_error"]),
    }
    lines += ["", *(f"- {name}: {value}" for name, value in facts.items())]
    return f"{record['data']} {record['split']}, {record['images']} images, percent\n\n" + (
        "\n".join(lines) + "\n"
    )


def _write_json(path: Path, record: EvaluationRecord | ComparisonRecord) -> None:
    with whole_file(path) as part:
        part.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
