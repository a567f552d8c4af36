"""`skseg predict`: segment images of one's own."""

import sys
from collections.abc import Sequence
from pathlib import Path

from skseg.commands.flags import InferenceFlags
from skseg.commands.parser import name_flags, run_command
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
    resume: bool = False,
    max_pixels: int | None = None,
    inference: InferenceFlags,
) -> int:
    """Segment images: label maps (class indices) and overlays at the images' own size.

    Results appear whole or not at all. Exits with code 1 if some images failed; the others are
    written.

    Examples:
        skseg predict runs/demo --input photo.jpg --output out
        skseg predict runs/demo --input "photos/*.png" --output out --window 512 1024

    Args:
        ckpt_path: Folder of a run, or a checkpoint.
        input: An image, a folder, or a quoted pattern.
        output: Folder of the results.
        probabilities: Also write NAME.npz: float16 [classes, H, W].
        overwrite: Replace results that exist.
        resume: Skip images whose results exist, whichever checkpoint they are of.
        max_pixels: Pixels of the largest image that is decoded, by its header; 500 million when
            unset.
        inference: How images go through the network.
    """
    failed = written = skipped = 0
    settings = inference.settings()
    task = load_model(find_checkpoint(ckpt_path))
    task.model = optimize_for_inference(task.model)
    choices = (probabilities, overwrite, resume, max_pixels)
    for done in predict_files(task, input, output, settings, *choices):
        if done.error:
            print(
                f"error: {name_flags(str(done.error), ('--max_pixels', '--window'))}",
                file=sys.stderr,
            )
        failed += done.error is not None
        skipped += not done.is_new
        written += done.is_new and done.error is None
    were_done = f"; skipped {skipped} images that were done" if skipped else ""
    print(
        f"wrote label maps (class indices) and overlays of {written} images to {output}{were_done}"
    )
    if failed:
        print(f"{failed} of {written + skipped + failed} images failed", file=sys.stderr)
    return 1 if failed else 0


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run_command(predict, args)
