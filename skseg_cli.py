"""The `skseg` command: `skseg fit --config FILE` is `python scripts/fit.py --config FILE`.

This module stands beside the package, because `import skseg` loads torch, timm and smp to register
the encoders, which takes seconds. `skseg --help` and `skseg --version` answer without them.
"""

import importlib
import sys
from collections.abc import Sequence
from difflib import get_close_matches

COMMANDS = {
    "fit": "train a segmentation model",
    "evaluate": "score a checkpoint on a split of a data set",
    "predict": "segment images",
    "check_data": "check a data set before training on it",
    "draw_streets": "draw a small street data set",
    "attention": "measure what SK units attend to",
    "study": "run a study: train its missing runs and report",
}
"""The commands, each a module of `skseg.commands`, and what they do."""


def main(args: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        args: The command's name and its arguments; those of this process when None.

    Returns:
        The exit code; 2 for a mistake of the user's.
    """
    name, *rest = list(sys.argv[1:] if args is None else args) or ["--help"]
    if name in ("-h", "--help"):
        print(help_page())
    elif name == "--version":
        from importlib.metadata import version  # takes longer than all else here

        print(f"skseg {version('skseg')}")
    elif name in COMMANDS:
        code: int = importlib.import_module(f"skseg.commands.{name}").main(rest)
        return code
    else:
        near = get_close_matches(name, COMMANDS)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "see skseg --help"
        print(f"error: unknown command {name!r}; {hint}", file=sys.stderr)
        return 2
    return 0


def help_page() -> str:
    """Return the page of `skseg --help`."""
    commands = [f"  {name:14}{what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: skseg COMMAND [ARGUMENTS ...]",
            "",
            "examples:",
            "  skseg fit --config configs/streets.yaml --run_dir runs/demo",
            "  skseg evaluate runs/demo",
            "",
            "commands:",
            *commands,
            "",
            "options:",
            "  -h, --help    show this page; skseg COMMAND --help shows a command's flags",
            "  --version     show the version",
        ]
    )


if __name__ == "__main__":
    raise SystemExit(main())
