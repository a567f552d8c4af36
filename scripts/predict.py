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
    parser.add_argument("--input", required=True, help="a picture, a folder, or a quoted pattern")
    parser.add_argument("--output", required=True, type=Path, help="folder of the results")
    parser.add_argument(
        "--probabilities", action="store_true", help="also NAME.npz: float16 [classes, H, W]"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace results that exist")
    add_inference_flags(parser)
    args = parser.parse_args()
    failed = written = 0
    try:
        settings = inference_settings(args)
        task = load_model(args.ckpt_path)
        task.model = optimize_for_inference(task.model)
        for done in predict_files(
            task, args.input, args.output, settings, args.probabilities, args.overwrite
        ):
            if done.error:
                print(f"error: {done.error}", file=sys.stderr)
                failed += 1
            else:
                written += 1
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{written} label maps and overlays in {args.output}")
    if failed:
        print(f"{failed} of {written + failed} pictures failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
