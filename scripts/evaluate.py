"""Score a checkpoint on a split: per-class table, evaluation.json, evaluation.csv, a picture."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from skseg.errors import UserError
from skseg.evaluation import evaluate, write_evaluation
from skseg.report import iou_table
from skseg.task import load_model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ckpt_path", required=True, type=Path, help="checkpoint of a run")
    parser.add_argument("--data.name", dest="name", required=True, help="data set")
    parser.add_argument("--data.root", dest="root", type=Path, help="its folder; data/NAME")
    parser.add_argument("--split", default="val", help="split to score (default: val)")
    parser.add_argument("--num_workers", type=int, default=1, help="processes that read images")
    parser.add_argument(
        "--output", type=Path, help="folder of the results; evaluation-SPLIT in the run's folder"
    )
    args = parser.parse_args()
    try:
        task = load_model(args.ckpt_path)
        root = args.root or Path("data") / args.name
        record, samples = evaluate(task, args.name, root, args.split, args.num_workers)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    output = args.output or args.ckpt_path.parent.parent / f"evaluation-{args.split}"
    picture = write_evaluation(output, record, samples, task)
    console = Console()
    console.print(iou_table(record, f"{args.name} {args.split}, {record['images']} images"))
    console.print(f"picture    {picture}", soft_wrap=True)
    console.print(f"results    {output / 'evaluation.json'}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
