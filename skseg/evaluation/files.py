"""The files that an evaluation leaves behind."""

import csv
import json
from pathlib import Path

from skseg.evaluation.evaluate import Evaluation
from skseg.evaluation.page import render_page
from skseg.metrics import ComparisonRecord, EvaluationRecord, miou
from skseg.metrics.tables import COLUMNS, percent
from skseg.training.task import SegmentationTask
from skseg.viz import plot_examples


def write_evaluation(
    output: Path,
    evaluation: Evaluation,
    task: SegmentationTask,
    comparison: ComparisonRecord | None = None,
) -> None:
    """Write all results of an evaluation to a folder.

    `evaluation.json` (fractions, undefined is null), `evaluation.csv` and `evaluation.md` (scores
    by class), `images.csv` (mIoU by image), `report.html`, which needs no other file,
    `predictions.png`, and `comparison.json` where there is one.

    Args:
        output: folder, made if missing.
        evaluation: what to write.
        task: the model, for its classes and colours.
        comparison: a result of `skseg.evaluation.evaluate.compare`, whose second model this is.
    """
    output.mkdir(parents=True, exist_ok=True)
    record = evaluation.record
    _write_json(output / "evaluation.json", record)
    with (output / "evaluation.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", *COLUMNS])
        writer.writerows([name, *(record[key][name] for key in COLUMNS)] for name in record["iou"])
    with (output / "images.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "miou"])
        writer.writerows(zip(evaluation.names, miou(evaluation.counts).tolist(), strict=True))
    (output / "evaluation.md").write_text(markdown(record))
    if comparison is not None:
        _write_json(output / "comparison.json", comparison)
    (output / "report.html").write_text(
        render_page(evaluation, task.class_names, task.colors, comparison), encoding="utf-8"
    )
    picture = plot_examples(evaluation.samples, task.class_names, task.colors)
    picture.savefig(output / "predictions.png")


def markdown(record: EvaluationRecord) -> str:
    """Tabulate a full evaluation record in Markdown, in percent; a dash where undefined."""
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
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
