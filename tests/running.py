"""Runs the scripts as a user does."""

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
STUDIES = sorted((REPOSITORY / "configs" / "studies").glob("*.yaml"))


def run_script(name: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Run scripts/NAME.py as a user does, from the repository, in a process of its own."""
    command = [f"scripts/{name}.py", *map(str, args)]
    with tempfile.TemporaryDirectory() as folder:
        files = {stream: str(Path(folder, stream)) for stream in ("stdout", "stderr")}
        job = {"command": command, "environment": dict(os.environ), **files}
        server = _fork_server()
        server.stdin.write(json.dumps(job) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        stdout, stderr = (Path(file).read_text() for file in files.values())
    return subprocess.CompletedProcess(command, code, stdout, stderr)


@functools.cache
def _fork_server() -> subprocess.Popen[str]:
    """Start the server once; it ends when this process closes its standard input."""
    command = [sys.executable, "tests/fork_server.py"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=REPOSITORY, **pipes)
