"""The `skseg` command: `skseg fit --config FILE` is `python scripts/fit.py --config FILE`."""

import importlib
import sys

COMMANDS = {
    "fit": "train a segmentation model",
    "evaluate": "score a checkpoint on a split",
    "predict": "segment pictures",
    "check_data": "look through a data set before training on it",
    "draw_streets": "draw a small street data set",
    "attention": "see which kernels SK units prefer, and when",
    "study": "run many trainings and compare them",
}


def main() -> int:
    """Run a command; return its exit code, 2 for a mistake of the user's."""
    name, args = (sys.argv[1] if len(sys.argv) > 1 else "--help"), sys.argv[2:]
    if name not in COMMANDS:
        lines = [f"  {command:14}{what}" for command, what in COMMANDS.items()]
        print("\n".join(["usage: skseg COMMAND ...", "", *lines, "", "skseg COMMAND --help"]))
        return 0 if name in ("-h", "--help") else 2
    code: int = importlib.import_module(f"skseg.commands.{name}").main(args)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
