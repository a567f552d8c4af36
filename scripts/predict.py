"""Segment pictures: label maps (class indices) and overlays at the pictures' own size."""

import argparse
import sys
from pathlib import Path

from skseg.errors import UserError
from skseg.inference import add_inference_flags, inference_settings
from skseg.nn import optimize_for_inference
from skseg.prediction import predict_files
from skseg.task import load_model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ckpt_path", required=True, type=Path, help="checkpoint of a run")
    parser.add_argument("--input", required=True, type=Path, help="a picture, or a folder of them")
    parser.add_argument("--output", required=True, type=Path, help="folder of the results")
    parser.add_argument("--num_workers", type=int, default=1, help="processes that read pictures")
    add_inference_flags(parser)
    args = parser.parse_args()
    try:
        settings = inference_settings(args)
        task = load_model(args.ckpt_path)
        task.model = optimize_for_inference(task.model)
        written = predict_files(task, args.input, args.output, settings, args.num_workers)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{written} label maps and overlays in {args.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
