"""Score a checkpoint on a split: a table, evaluation.json, .csv and .md, report.html, a picture."""

import argparse
from pathlib import Path

from rich.console import Console

from skseg.commands.flags import add_inference_flags, inference_settings
from skseg.data import default_root, get_dataset
from skseg.errors import exits_on_mistakes
from skseg.evaluation.evaluate import check_classes, compare, evaluate
from skseg.evaluation.files import write_evaluation
from skseg.evaluation.submission import Submission
from skseg.metrics import ComparisonRecord
from skseg.metrics.tables import comparison_table, iou_table
from skseg.training.task import load_model


def parse(args: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ckpt_path", required=True, type=Path, help="checkpoint of a run")
    parser.add_argument("--data.name", dest="name", required=True, help="data set")
    parser.add_argument("--data.root", dest="root", type=Path, help="its folder; data/NAME")
    parser.add_argument("--split", default="val", help="split to score (default: val)")
    parser.add_argument("--num_workers", type=int, default=1, help="processes that read images")
    parser.add_argument(
        "--output", type=Path, help="folder of the results; evaluation-SPLIT in the run's folder"
    )
    parser.add_argument(
        "--compare", type=Path, metavar="OTHER", help="checkpoint to test the difference to"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    parser.add_argument(
        "--submission",
        type=Path,
        metavar="FOLDER",
        help="also write Cityscapes label ids, as the benchmark wants them; works without masks",
    )
    add_inference_flags(parser)
    return parser.parse_args(args)


def run(args: argparse.Namespace, console: Console) -> None:
    """Evaluate, write the results and print what people look for."""
    settings = inference_settings(args)
    task = load_model(args.ckpt_path)
    other = load_model(args.compare) if args.compare else None
    spec = get_dataset(args.name, args.root)
    root = args.root or default_root(args.name)
    submission = None
    if args.submission:
        check_classes(task, spec)
        submission = Submission(spec, root, args.split, args.submission)
        if not submission.has_truth:
            submission.write_all(task, settings, args.num_workers)
            console.print(f"submission {args.submission}; no masks to score with", soft_wrap=True)
            return
    on_prediction = submission.write if submission else None
    setup = (args.name, root, args.split, settings, args.num_workers, args.seed)
    evaluation = evaluate(task, *setup, on_prediction=on_prediction)
    evaluation.record["checkpoint"] = str(args.ckpt_path)
    comparison: ComparisonRecord | None = None
    if other is not None:
        names = (str(args.compare), str(args.ckpt_path))
        comparison = {"names": names, **compare(evaluate(other, *setup), evaluation, args.seed)}
    output = args.output or args.ckpt_path.parent.parent / f"evaluation-{args.split}"
    write_evaluation(output, evaluation, task, comparison)

    record = evaluation.record
    console.print(iou_table(record, f"{args.name} {args.split}, {record['images']} images"))
    if comparison is not None:
        console.print(comparison_table(comparison))
    total = sum(record["seconds"].values())
    parts = (f"{part} {100 * value / total:.1f} %" for part, value in record["seconds"].items())
    console.print(f"time       {total:.1f} s: {', '.join(parts)}", soft_wrap=True)
    if args.submission:
        console.print(f"submission {args.submission}", soft_wrap=True)
    console.print(f"picture    {output / 'predictions.png'}", soft_wrap=True)
    console.print(f"report     {output / 'report.html'}", soft_wrap=True)
    console.print(f"results    {output / 'evaluation.json'}", soft_wrap=True)


@exits_on_mistakes
def main(args: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    run(parse(args), Console())
    return 0
