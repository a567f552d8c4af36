"""`skseg predict`: segment images of one's own."""

import sys
from collections.abc import Sequence
from pathlib import Path

from skseg.commands.flags import InferenceFlags
from skseg.commands.parser import run_command
from skseg.commands.runs import find_checkpoint
from skseg.convert import optimize_for_inference
from skseg.inference.pictures import predict_files
from skseg.training.task import load_model


def predict(
    ckpt_path: Path,
    *,
    input: str,
    output: Path,
    probabilities: bool = False,
    overwrite: bool = False,
    inference: InferenceFlags,
) -> int:
    """Segment images: label maps (class indices) and overlays at the images' own size.

    Exits with code 1 if some images failed; the others are written.

    Examples:
        skseg predict runs/demo --input photo.jpg --output out
        skseg predict runs/demo --input "photos/*.png" --output out --window 512 1024

    Args:
        ckpt_path: Folder of a run, or a checkpoint.
        input: An image, a folder, or a quoted pattern.
        output: Folder of the results.
        probabilities: Also write NAME.npz: float16 [classes, H, W].
        overwrite: Replace results that exist.
        inference: How images go through the network.
    """
    failed = written = 0
    settings = inference.settings()
    task = load_model(find_checkpoint(ckpt_path))
    task.model = optimize_for_inference(task.model)
    for done in predict_files(task, input, output, settings, probabilities, overwrite):
        if done.error:
            print(f"error: {done.error}", file=sys.stderr)
            failed += 1
        else:
            written += 1
    print(f"{written} label maps and overlays in {output}")
    if failed:
        print(f"{failed} of {written + failed} images failed", file=sys.stderr)
    return 1 if failed else 0


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run_command(predict, args)
