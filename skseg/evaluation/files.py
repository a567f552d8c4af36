"""The files of an evaluation's results."""

import csv
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path

from skseg.errors import UserError
from skseg.evaluation.evaluate import Evaluation
from skseg.evaluation.page import render_page
from skseg.inference import InferenceSettings
from skseg.metrics import ComparisonRecord, EvaluationRecord, miou
from skseg.metrics.tables import COLUMNS, markdown_text, percent
from skseg.training.checkpoints import WeightsSource
from skseg.training.task import SegmentationTask
from skseg.viz import plot_examples, save_figure

_RECORD = "evaluation.json"
_COMPARISON = "comparison.json"
_RESULTS = (
    *(_COMPARISON, "evaluation.csv", "evaluation.md", "images.csv", "report.html"),
    "predictions.png",
)


def write_evaluation(
    output: Path,
    evaluation: Evaluation,
    task: SegmentationTask,
    comparison: ComparisonRecord | None = None,
) -> None:
    """Write all results of an evaluation to a folder, in place of an earlier evaluation's.

    These are `evaluation.json` (fractions, undefined is null), `evaluation.csv` and `evaluation.md`
    (scores by class), `images.csv` (mIoU by image), `report.html`, which needs no other file,
    `predictions.png`, and `comparison.json` if there is a comparison.

    They appear together when all are written. Other files in the folder stay.

    Args:
        output: The folder, created if missing.
        evaluation: The results.
        task: The model, for its classes and colors.
        comparison: A result of `skseg.evaluation.evaluate.compare` whose second model this is.

    Raises:
        OSError: A file cannot be written.
    """
    with _replaced_folder(output) as folder:
        _write_files(folder, evaluation, task, comparison)


def _write_files(
    folder: Path,
    evaluation: Evaluation,
    task: SegmentationTask,
    comparison: ComparisonRecord | None,
) -> None:
    record = evaluation.record
    _write_json(folder / _RECORD, record)
    by_class = [[name, *(record[key][name] for key in COLUMNS)] for name in record["iou"]]
    _write_csv(folder / "evaluation.csv", ["class", *COLUMNS], by_class)
    by_image = zip(evaluation.names, miou(evaluation.counts).tolist(), strict=True)
    _write_csv(folder / "images.csv", ["image", "miou"], by_image)
    (folder / "evaluation.md").write_text(markdown(record, evaluation.source), encoding="utf-8")
    if comparison is not None:
        _write_json(folder / _COMPARISON, comparison)
    page = render_page(evaluation, task.class_names, task.colors, comparison)
    (folder / "report.html").write_text(page, encoding="utf-8")
    picture = plot_examples(evaluation.samples, task.class_names, task.colors)
    save_figure(picture, folder / "predictions.png")


@contextmanager
def _replaced_folder(output: Path) -> Iterator[Path]:
    """Yield an empty folder, whose files move to `output` when the block ends without an error.

    Files that are no results of an evaluation stay in `output`. A process that is killed leaves
    the earlier evaluation, or none: the record comes last.
    """
    output = output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=output))
    try:
        yield part
        for name in (_RECORD, _COMPARISON):  # the new evaluation may have no comparison
            (output / name).unlink(missing_ok=True)
        for file in sorted(part.iterdir(), key=lambda file: file.name == _RECORD):
            file.replace(output / file.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def results_folder(
    checkpoint: Path, data: str | None, split: str, settings: InferenceSettings
) -> str:
    """Name a folder such that each evaluation of a run has its own.

    Args:
        checkpoint: The checkpoint's file; `last.ckpt` adds nothing to the name.
        data: The data set, if it is not the one that the run was trained on.
        split: The split.
        settings: How images go through the network; what is not the default adds to the name.

    Example:
        >>> results_folder(Path("last.ckpt"), None, "val", InferenceSettings())
        'evaluation-val'
        >>> settings = InferenceSettings(window=(512, 1024), flip=True)
        >>> results_folder(Path("best.ckpt"), "camvid", "test", settings)
        'evaluation-best-test-on-camvid-window512x1024-flip'
    """
    parts = ["evaluation", *([checkpoint.stem] if checkpoint.stem != "last" else []), split]
    parts += ["on", data] if data else []
    for field in fields(settings):
        value = getattr(settings, field.name)
        if value != field.default:
            values = value if isinstance(value, tuple) else [value]
            joined = "x".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)
            parts.append(field.name if value is True else f"{field.name}{joined}")
    return "-".join(parts).replace("/", "-")


def check_output(
    output: Path, data: str, root: Path, split: str, settings: InferenceSettings
) -> None:
    """Raise UserError if a folder holds an evaluation that a new one would not repeat.

    Args:
        output: The folder.
        data: The new evaluation's data set.
        root: Folder of the data set.
        split: The split.
        settings: How images go through the network.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"`output` {output}: is a file")
    try:
        earlier = json.loads((output / _RECORD).read_text(encoding="utf-8"))
        assert isinstance(earlier, dict)
    except (OSError, ValueError, AssertionError):
        strange = [name for name in _RESULTS if (output / name).exists()]
        if strange:
            raise UserError(
                f"`output` {output} has {strange[0]}, but no evaluation that it belongs to; choose "
                "another folder, or set `overwrite`"
            ) from None
        return
    new = {"data": data, "split": split, "root": str(root.resolve())}
    new["inference"] = json.loads(json.dumps(asdict(settings)))
    for key, value in new.items():
        if key in earlier and earlier[key] != value:
            raise UserError(
                f"`output` {output} holds an evaluation with {key} {earlier[key]}, not {value}; "
                "choose another folder, or set `overwrite`"
            )


def markdown(record: EvaluationRecord, source: WeightsSource | None = None) -> str:
    """Tabulate the record of an evaluation in Markdown, in percent; a dash where undefined.

    Args:
        record: The record.
        source: Which weights were evaluated.
    """
    lines = [
        "| class | " + " | ".join(COLUMNS.values()) + " |",
        "|---|" + "---:|" * len(COLUMNS),
    ]
    for name in record["iou"]:
        cells = (percent(record[key][name]) for key in COLUMNS)
        lines.append(f"| {markdown_text(name)} | {' | '.join(cells)} |")
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
    weights = f", {source}" if source else ""
    title = f"{record['data']} {record['split']}, {record['images']} images{weights}, percent"
    return "\n".join([title, "", *lines]) + "\n"


def _write_json(path: Path, record: EvaluationRecord | ComparisonRecord) -> None:
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
