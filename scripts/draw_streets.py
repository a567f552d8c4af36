"""Draw a small street data set in the layout of Cityscapes, to train on without any download."""

import argparse
import sys

from skseg.data.streets import draw_dataset
from skseg.errors import UserError


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--root", default="data/streets", help="directory to make")
    parser.add_argument("--train", type=int, default=240, help="training scenes")
    parser.add_argument("--val", type=int, default=60, help="validation scenes")
    parser.add_argument("--height", type=int, default=256, help="of a picture, in pixels")
    parser.add_argument("--width", type=int, default=512, help="of a picture, in pixels")
    parser.add_argument("--seed", type=int, default=0, help="everything drawn follows from it")
    parser.add_argument("--workers", type=int, default=2, help="processes; 0 draws in this one")
    args = parser.parse_args()
    try:
        draw_dataset(**vars(args))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    root = "" if args.root == parser.get_default("root") else f" --data.root {args.root}"
    print(f"{args.train} + {args.val} scenes are in {args.root}. Next:")
    print(f"  python scripts/fit.py --config configs/streets.yaml{root}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
