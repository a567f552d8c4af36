"""Segment pictures: label maps (class indices) and overlays at the pictures' own size."""

import argparse
import sys
from pathlib import Path

from skseg.commands.flags import add_inference_flags, inference_settings
from skseg.convert import optimize_for_inference
from skseg.errors import exits_on_mistakes
from skseg.inference.pictures import predict_files
from skseg.training.task import load_model


@exits_on_mistakes
def main(args: list[str] | None = None) -> int:
    """Run the command; return its exit code, 1 if some of the pictures failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ckpt_path", required=True, type=Path, help="checkpoint of a run")
    parser.add_argument("--input", required=True, help="a picture, a folder, or a quoted pattern")
    parser.add_argument("--output", required=True, type=Path, help="folder of the results")
    parser.add_argument(
        "--probabilities", action="store_true", help="also NAME.npz: float16 [classes, H, W]"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace results that exist")
    add_inference_flags(parser)
    flags = parser.parse_args(args)
    failed = written = 0
    settings = inference_settings(flags)
    task = load_model(flags.ckpt_path)
    task.model = optimize_for_inference(task.model)
    for done in predict_files(
        task, flags.input, flags.output, settings, flags.probabilities, flags.overwrite
    ):
        if done.error:
            print(f"error: {done.error}", file=sys.stderr)
            failed += 1
        else:
            written += 1
    print(f"{written} label maps and overlays in {flags.output}")
    if failed:
        print(f"{failed} of {written + failed} pictures failed", file=sys.stderr)
    return 1 if failed else 0
