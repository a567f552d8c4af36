"""The `skseg` command, and the wheel that brings it, away from the repository."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from running import REPOSITORY

from skseg.__main__ import COMMANDS


def skseg(*args: object, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "skseg", *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def test_help_lists_the_commands() -> None:
    done = skseg("--help")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()[2:-2]] == list(COMMANDS)
    assert skseg().stdout == done.stdout
    wrong = skseg("trian")
    assert wrong.returncode == 2
    assert "fit" in wrong.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_are_the_scripts(name: str) -> None:
    """The same options; and argparse's own error for a wrong one."""
    ours = skseg(name, "--help")
    command = [sys.executable, f"scripts/{name}.py", "--help"]
    script = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert ours.returncode == script.returncode == 0
    options = [
        {word.strip("[],") for word in done.stdout.split() if word.lstrip("[").startswith("--")}
        for done in (ours, script)
    ]
    assert options[0] == options[1]
    assert len(options[0]) > 3


@pytest.mark.slow
def test_a_wheel_works_outside_the_repository(tmp_path: Path) -> None:
    """Built, installed beside this environment's libraries, and used to train and score."""
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(REPOSITORY)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    (site,) = home.glob("lib/python*/site-packages")
    libraries = [p for p in sys.path if p.endswith("site-packages")]
    (site / "libraries.pth").write_text("\n".join(libraries))
    python, command = home / "bin" / "python", home / "bin" / "skseg"
    install = [python, "-m", "pip", "install", "--no-deps", "--force-reinstall", wheel]
    subprocess.run(install, check=True, capture_output=True)
    away = tmp_path / "away"
    away.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(*args: object) -> str:
        done = subprocess.run(
            list(map(str, args)), cwd=away, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run(python, "-c", "import skseg; print(skseg.__file__)")
    assert Path(where.strip()).is_relative_to(home)
    kernels = "from skseg.nn.kernels import ops as kernels; print(kernels.available())"
    assert run(python, "-c", kernels) == run(sys.executable, "-c", kernels)
    run(command, "draw_streets", "--train", 4, "--val", 2, "--height", 64, "--width", 128)
    run(
        *(command, "fit", "--data.name", "streets", "--model.encoder_name", "sknet_tiny"),
        *("--data.crop_size", "[64,64]", "--data.batch_size", 2, "--trainer.max_epochs", 1),
        *("--run_dir", "run", "--wandb.enabled", "false", "--data.num_workers", 0),
        *("--trainer.devices", 2, "--trainer.strategy", "ddp"),
    )
    ckpt = ("--ckpt_path", "run/checkpoints/last.ckpt")
    assert "mean" in run(command, "evaluate", *ckpt, "--data.name", "streets")
    assert (away / "run" / "evaluation-val" / "report.html").is_file()
    run(command, "predict", *ckpt, "--input", "data/streets/leftImg8bit/val", "--output", "out")
    assert list((away / "out").rglob("*_overlay.png"))
