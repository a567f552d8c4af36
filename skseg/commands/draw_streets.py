"""`skseg draw_streets`: draw a small street data set."""

from collections.abc import Sequence
from pathlib import Path

from skseg.commands.parser import run_command
from skseg.data import default_root
from skseg.streets import draw_dataset

_ROOT = default_root("streets")


def draw_streets(
    *,
    root: Path = _ROOT,
    train: int = 240,
    val: int = 60,
    height: int = 256,
    width: int = 512,
    seed: int = 0,
    workers: int = 2,
) -> int:
    """Draw a small street data set in the layout of Cityscapes, which needs no download.

    Examples:
        skseg draw_streets
        skseg draw_streets --root data/small --train 40 --val 10 --height 128 --width 256

    Args:
        root: Folder to create.
        train: Number of training scenes.
        val: Number of validation scenes.
        height: Height of an image in pixels.
        width: Width of an image in pixels.
        seed: Seed of all scenes.
        workers: Processes that draw; 0 draws in this one.
    """
    draw_dataset(root, train, val, height, width, seed, workers)
    flag = "" if root == _ROOT else f" --data.root {root}"
    print(f"{train} + {val} scenes are in {root}. Next:")
    print(f"  python scripts/fit.py --config configs/streets.yaml{flag}")
    return 0


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run_command(draw_streets, args)
