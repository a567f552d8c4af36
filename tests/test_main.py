"""The `skseg` command, the package's own names, and the wheel that brings both."""

import json
import os
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

import pytest
from running import REPOSITORY

import skseg
from skseg_cli import COMMANDS, main


def run_python(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, args)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


def test_help_lists_the_commands_after_two_examples(capsys: pytest.CaptureFixture) -> None:
    assert main(["--help"]) == 0
    page = capsys.readouterr().out
    lines = [line.split() for line in page.splitlines() if line.startswith("  ")]
    assert [words[0] for words in lines[: 2 + len(COMMANDS)]] == ["skseg", "skseg", *COMMANDS]
    for words in ([], ["-h"]):
        assert main(words) == 0
        assert capsys.readouterr().out == page


def test_version(capsys: pytest.CaptureFixture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"skseg {version('skseg')}\n"
    assert skseg.__version__ == version("skseg")


@pytest.mark.parametrize(
    ("word", "hint"), [("fitt", "'fit'"), ("predikt", "'predict'"), ("--versoin", "--help")]
)
def test_an_unknown_command(word: str, hint: str, capsys: pytest.CaptureFixture) -> None:
    assert main([word, "--config", "c.yaml"]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert repr(word) in err
    assert hint in err


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["fitt"]])
def test_the_pages_import_nothing_heavy(words: list[str]) -> None:
    code = f"import skseg_cli, sys; skseg_cli.main({words}); print(*sys.modules, file=sys.stderr)"
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    modules = done.stderr.split()
    assert "skseg_cli" in modules
    assert not {"torch", "numpy", "timm", "jsonargparse", "yaml", "skseg"} & set(modules)


def test_the_package_names_all_it_has_and_loads_no_lightning() -> None:
    # timm itself imports wandb where it is installed, in some versions.
    code = "import json, sys, timm; before = set(sys.modules); import skseg; "
    code += "print(json.dumps([dir(skseg), sorted(set(sys.modules) - before)]))"
    names, modules = json.loads(run_python("-c", code).stdout)
    assert set(skseg.__all__) <= set(names)
    assert {"__version__", "load_model", "SegmentationTask", "nn"} <= set(names)
    assert not {"pytorch_lightning", "albumentations", "wandb", "matplotlib"} & set(modules)
    for name in skseg.__all__:
        assert getattr(skseg, name)
    with pytest.raises(AttributeError, match="nothing"):
        _ = skseg.nothing


@pytest.mark.parametrize("words", [["-m", "skseg"], ["-m", "skseg_cli"], ["scripts/predict.py"]])
def test_every_way_to_a_command(words: list[str]) -> None:
    own = ["predict"] if words[0] == "-m" else []
    done = run_python(*words, *own, "--inputt", "x")
    assert done.returncode == 2
    assert "--inputt" in done.stderr
    assert "'--input'" in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_scripts_run_the_commands(name: str) -> None:
    text = (REPOSITORY / "scripts" / f"{name}.py").read_text()
    assert f"from skseg.commands.{name} import main" in text
    assert len(text.splitlines()) <= 6


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
    kernels = "from skseg.nn.kernels import library as kernels; print(kernels.available())"
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
    assert "mean" in run(command, "evaluate", "run")
    assert (away / "run" / "evaluation-val" / "report.html").is_file()
    run(command, "predict", *ckpt, "--input", "data/streets/leftImg8bit/val", "--output", "out")
    assert list((away / "out").rglob("*_overlay.png"))
