"""Draw a small street data set in the layout of Cityscapes, to train on without any download."""

import argparse

from skseg.data import default_root
from skseg.errors import exits_on_mistakes
from skseg.streets import draw_dataset


@exits_on_mistakes
def main(args: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--root", default=str(default_root("streets")), help="directory to make")
    parser.add_argument("--train", type=int, default=240, help="training scenes")
    parser.add_argument("--val", type=int, default=60, help="validation scenes")
    parser.add_argument("--height", type=int, default=256, help="of a picture, in pixels")
    parser.add_argument("--width", type=int, default=512, help="of a picture, in pixels")
    parser.add_argument("--seed", type=int, default=0, help="everything drawn follows from it")
    parser.add_argument("--workers", type=int, default=2, help="processes; 0 draws in this one")
    flags = parser.parse_args(args)
    draw_dataset(**vars(flags))
    root = "" if flags.root == parser.get_default("root") else f" --data.root {flags.root}"
    print(f"{flags.train} + {flags.val} scenes are in {flags.root}. Next:")
    print(f"  python scripts/fit.py --config configs/streets.yaml{root}")
    return 0
