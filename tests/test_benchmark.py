"""The benchmark's measurements at sizes too small to mean anything, through the real code."""

import json
import subprocess
import sys

import pytest
from running import REPOSITORY


@pytest.mark.slow
def test_it_prints_plots_and_writes_numbers(tmp_path) -> None:
    command = [sys.executable, "scripts/benchmark.py", "--rounds", "1", "--encoder", "sknet26"]
    command += ["--json", str(tmp_path / "b.json"), "--plot", str(tmp_path / "b.png")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "b.json").read_text())
    assert set(results["unit, training"]["128x64x64"]) == {"convolutions", "SK unit", "timm"}
    assert all(v > 0 for rows in results.values() for r in rows.values() for v in r.values())
    assert results["maps kept for backward"]["128x64x64"]["timm"] > 6.5
    assert (tmp_path / "b.png").stat().st_size > 10_000
    assert "SK unit / timm" in done.stdout
    assert set(results["loading"]) == {"crop 512x512", "crop 512x1024"}
    assert "sample / floor" in done.stdout
