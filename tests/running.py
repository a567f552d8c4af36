"""Runs the scripts as a user does."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
STUDIES = sorted((REPOSITORY / "configs" / "studies").glob("*.yaml"))


def run_script(name: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Run scripts/NAME.py as a user does, from the repository."""
    command = [sys.executable, f"scripts/{name}.py", *map(str, args)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
