"""`skseg evaluate`: score a checkpoint on a split."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from skseg.commands.flags import DataFlags, InferenceFlags
from skseg.commands.parser import run_command
from skseg.commands.runs import find_checkpoint, find_data, read_data, run_folder
from skseg.data import get_dataset
from skseg.errors import UserError
from skseg.evaluation.evaluate import check_classes
from skseg.evaluation.evaluate import compare as compare_models
from skseg.evaluation.evaluate import evaluate as score
from skseg.evaluation.files import check_output, results_folder, write_evaluation
from skseg.evaluation.submission import Submission
from skseg.inference import InferenceSettings
from skseg.metrics import ComparisonRecord
from skseg.metrics.tables import comparison_table, iou_table
from skseg.training.task import load_model


def evaluate(
    ckpt_path: Path,
    *,
    data: DataFlags,
    split: str | None = None,
    num_workers: int = 1,
    output: Path | None = None,
    overwrite: bool = False,
    compare: Path | None = None,
    seed: int = 0,
    submission: Path | None = None,
    inference: InferenceFlags,
) -> int:
    """Score a checkpoint on a split of a data set.

    Writes evaluation.json, evaluation.csv, evaluation.md, images.csv, report.html and
    predictions.png.

    Examples:
        skseg evaluate runs/demo
        skseg evaluate runs/demo --split test --scales 0.75 1 1.25 --flip

    Args:
        ckpt_path: Folder of a run, or a checkpoint.
        data: The data set.
        split: Split to score; when unset, the one that the run was validated on, or val.
        num_workers: Processes that read images.
        output: Folder of the results. When unset, evaluation-SPLIT in the run's folder; for other
            checkpoints than last.ckpt, another data set or other settings the name says so.
        overwrite: Replace an evaluation of something else in the output folder. The evaluation is
            replaced in any case if it is of the same data, split and settings.
        compare: Another run or checkpoint, to test the difference between the two.
        seed: Seed of the bootstrap.
        submission: Folder for label images as the Cityscapes benchmark expects them; needs no
            masks.
        inference: How images go through the network.
    """
    console = Console(markup=False, emoji=False)  # paths and names are only text
    settings = inference.settings()
    checkpoint = find_checkpoint(ckpt_path)
    other = find_checkpoint(compare) if compare else None
    name, root, split = find_data(data, [checkpoint], split)
    output = output or _default_output(checkpoint, name, split, settings)
    if not overwrite:
        check_output(output, name, root, split, settings)
    task = load_model(checkpoint)
    other_task = load_model(other) if other else None
    spec = get_dataset(name, root)
    labels = None
    if submission:
        check_classes(task, spec)
        labels = Submission(spec, root, split, submission)
        if not labels.has_truth:
            labels.write_all(task, settings, num_workers)
            console.print(f"submission {submission}; no masks to score with", soft_wrap=True)
            return 0
    on_prediction = labels.write if labels else None
    setup = (spec, root, split, settings, num_workers, seed)
    evaluation = score(task, *setup, on_prediction=on_prediction, checkpoint=checkpoint)
    comparison: ComparisonRecord | None = None
    if other_task is not None:
        comparison = compare_models(score(other_task, *setup, checkpoint=other), evaluation, seed)
    write_evaluation(output, evaluation, task, comparison)

    record = evaluation.record
    title = f"{name} {split}, {record['images']} images, {evaluation.source}"
    console.print(iou_table(record, title))
    if comparison is not None and other_task is not None:
        console.print(comparison_table(comparison))
        console.print(f"other      {other}: {other_task.source}", soft_wrap=True)
    total = sum(record["seconds"].values())
    parts = (f"{part} {100 * value / total:.1f} %" for part, value in record["seconds"].items())
    console.print(f"time       {total:.1f} s: {', '.join(parts)}", soft_wrap=True)
    if submission:
        console.print(f"submission {submission}", soft_wrap=True)
    console.print(f"checkpoint {checkpoint}", soft_wrap=True)
    console.print(f"picture    {output / 'predictions.png'}", soft_wrap=True)
    console.print(f"report     {output / 'report.html'}", soft_wrap=True)
    console.print(f"results    {output / 'evaluation.json'}", soft_wrap=True)
    return 0


def _default_output(checkpoint: Path, data: str, split: str, settings: InferenceSettings) -> Path:
    """Return the evaluation's folder, in the run's folder or beside a checkpoint of no run."""
    try:
        trained_on = read_data(run_folder(checkpoint) / "config.yaml")
    except UserError:  # the flags name the data set
        trained_on = None
    is_other = trained_on is None or trained_on.name != data
    in_run = checkpoint.absolute().parent.name == "checkpoints"
    parent = run_folder(checkpoint) if in_run else checkpoint.parent
    return parent / results_folder(checkpoint, data if is_other else None, split, settings)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run_command(evaluate, args)
