"""A tiny study through the real commands: broken, interrupted, locked and resumed."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from io import StringIO
from itertools import product
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from rich.console import Console
from running import REPOSITORY, STUDIES, run_script

from skseg import build_model
from skseg.commands.study import main as study
from skseg.encoders import SKSettings
from skseg.errors import UserError
from skseg.nn.attention import SKAttention
from skseg.study.matrix import Row, read_rows, read_study
from skseg.study.runner import Runner

WITH_ATTENTION = ("sk", "region", "fuse_batch", "fuse_running", "fuse_none")
SMALL = {
    "data.batch_size": 2,
    "data.crop_size": [64, 64],
    "data.num_workers": 0,
    "trainer.max_epochs": 1,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.enable_progress_bar": False,
}


def write(folder: Path, root: Path, **changes: object) -> Path:
    config = folder / "tiny.yaml"
    content = {
        "question": "Does it run?",
        "fit": "configs/streets.yaml",
        "data": {"name": "streets", "split": "val", "root": str(root)},
        "set": SMALL,
        "arms": {
            "sk": {"model.encoder_name": "sknet_tiny"},
            "sum": {"model.encoder_name": "sknet_tiny", "model.sk.select": "sum"},
        },
        "primary": ["sk", "sum"],
        "primary_seeds": 2,
        "scales": [0.5],
    }
    config.write_text(yaml.safe_dump(content | changes))
    return config


def arguments(folder: Path, config: Path, *more: object) -> list[object]:
    places = ["--output", folder / "results", "--runs", folder / "runs"]
    return ["--config", config, *places, "--jobs", 2, *more]


class Session(NamedTuple):
    """A study with a broken arm, and the same after the arm was mended.

    Attributes:
        folder: Holds `results` and `runs`.
        config: The mended study.
        broken: The command with the broken arm.
        table: `runs.csv` after it.
        mended: The command that ran the rest.
    """

    folder: Path
    config: Path
    broken: CompletedProcess[str]
    table: str
    mended: CompletedProcess[str]

    @property
    def rows(self) -> list[Row]:
        return read_rows(self.folder / "results" / "tiny" / "runs.csv")

    @property
    def runs(self) -> Path:
        return self.folder / "runs" / "tiny"


@pytest.fixture(scope="module")
def session(streets_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = tmp_path_factory.mktemp("study")
    arms = {
        "sk": {"model.encoder_name": "sknet_tiny"},
        "sum": {"model.encoder_name": "sknet_none"},
    }
    broken = run_script("study", *arguments(folder, write(folder, streets_root, arms=arms)))
    table = (folder / "results" / "tiny" / "runs.csv").read_text()
    leftover = folder / "runs" / "tiny" / "sum-fpn-0" / "leftover"
    leftover.parent.mkdir(exist_ok=True)
    leftover.touch()
    config = write(folder, streets_root, keep_checkpoints=["sum"])
    mended = run_script("study", *arguments(folder, config))
    return Session(folder, config, broken, table, mended)


def test_a_broken_run_does_not_stop_the_others(session: Session) -> None:
    assert session.broken.returncode == 1
    assert "0 runs are done, 4 of 4 to do" in session.broken.stdout
    for run in ("sum-fpn-0", "sum-fpn-1"):
        assert f"{run}: failed: fit exited with 2" in session.broken.stdout
    assert "sknet_none" in session.broken.stdout
    rows = csv.DictReader(session.table.splitlines())
    assert [(row["arm"], row["seed"]) for row in rows] == [("sk", "0"), ("sk", "1")]


def test_the_same_command_runs_what_is_missing(session: Session) -> None:
    assert session.mended.returncode == 0, session.mended.stdout + session.mended.stderr
    assert "2 runs are done, 2 of 4 to do" in session.mended.stdout
    assert [(row["arm"], row["seed"]) for row in session.rows] == list(
        product(("sk", "sum"), ("0", "1"))
    )
    finished = session.table.splitlines()
    table = (session.folder / "results" / "tiny" / "runs.csv").read_text()
    assert table.splitlines()[: len(finished)] == finished


def test_a_row_has_the_scores_and_how_they_were_made(session: Session) -> None:
    row = session.rows[0]
    assert (row["arm"], row["encoder"], row["decoder"]) == ("sk", "sknet_tiny", "fpn")
    git = ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"]
    head = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    assert row["commit"].removesuffix("-dirty") == head[:9]  # both are empty outside a checkout
    assert row["cpu"] == torch.backends.cpu.get_cpu_capability()
    record = json.loads((session.runs / "sk-fpn-0/evaluation/evaluation.json").read_text())
    assert record["inference"]["scales"] == [0.5]
    assert float(row["miou"]) == record["miou"]
    # A class that is absent from the ground truth has no recall, and an empty cell.
    absent = [name for name, recall in record["recall"].items() if recall is None]
    assert absent
    assert absent == [name for name in record["iou"] if not row[f"iou/{name}"]]


def test_only_checkpoints_to_keep_are_kept(session: Session) -> None:
    assert not (session.runs / "sk-fpn-0" / "checkpoints").exists()
    assert (session.runs / "sum-fpn-0" / "checkpoints" / "last.ckpt").is_file()


def test_runs_use_a_copy_of_the_fit_config_and_do_not_validate(session: Session) -> None:
    original = REPOSITORY / "configs" / "streets.yaml"
    assert (session.runs / "fit.yaml").read_text() == original.read_text()
    assert not (session.runs / "sum-fpn-0" / "pictures").exists()


def test_the_report_is_made_after_the_runs(session: Session) -> None:
    results = session.folder / "results"
    summary = json.loads((results / "tiny" / "summary.json").read_text())
    primary = summary["decoders"]["fpn"]["primary"]
    assert (summary["runs"], primary["pair"], primary["pairs"]) == (4, ["sk", "sum"], 2)
    assert summary["decoders"]["fpn"]["conclusion"] in (results / "README.md").read_text()


def test_a_failed_attempt_leaves_nothing_behind(session: Session) -> None:
    """What was in the folder of a run without a checkpoint is removed before the next attempt."""
    assert not (session.runs / "sum-fpn-0" / "leftover").exists()


def test_rows_of_other_data_are_not_added(
    session: Session, streets_root: Path, tmp_path: Path
) -> None:
    smaller = tmp_path / "smaller"
    shutil.copytree(streets_root, smaller)
    for file in smaller.glob("*/val/*/drawn_000000_*"):  # an image of three, and its masks
        file.unlink()
    shutil.copytree(session.folder / "results", tmp_path / "results")
    config = write(tmp_path, smaller, keep_checkpoints=["sum"], primary_seeds=3)
    done = run_script("study", *arguments(tmp_path, config, "--limit", 1))
    assert done.returncode == 2, done.stdout
    assert "2 and 3 images" in done.stderr
    assert read_rows(tmp_path / "results" / "tiny" / "runs.csv") == session.rows


def test_other_settings_make_another_study(session: Session) -> None:
    changed = ["--set", "data.flip=0.1"]
    mixed = run_script("study", *arguments(session.folder, session.config, *changed))
    assert mixed.returncode == 2
    assert "4 of 4 runs" in mixed.stderr
    nowhere = run_script("study", "--config", session.config, *changed)
    assert nowhere.returncode == 2
    for flag in ("--set", "--output", "--runs"):
        assert flag in nowhere.stderr


def test_a_network_that_was_kept_is_not_overwritten(
    session: Session, streets_root: Path, tmp_path: Path
) -> None:
    """Not even by the same run, if the row is gone."""
    kept = session.runs / "sum-fpn-0"
    before = (kept / "checkpoints" / "last.ckpt").read_bytes()
    text, failed = run_in_process(
        session.config, tmp_path / "runs.csv", session.runs, arms=["sum"], seeds=1
    )
    assert failed == 1
    assert str(kept) in text
    assert (kept / "checkpoints" / "last.ckpt").read_bytes() == before


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_folder_that_the_study_did_not_make_is_not_removed(
    kind: str, streets_root: Path, tmp_path: Path
) -> None:
    config, runs, other = write(tmp_path, streets_root), tmp_path / "runs", tmp_path / "other"
    runs.mkdir()
    if kind == "folder":
        other = runs / "sk-fpn-0"
        other.mkdir()
    else:  # the state says that the study made its folder, but the name now leads elsewhere
        other.mkdir()
        (runs / "sk-fpn-0").symlink_to(other)
        digest = read_study(config).run("sk", "fpn", 0).digest
        (runs / "sk-fpn-0.json").write_text(json.dumps({"digest": digest}))
    (other / "notes.txt").write_text("mine")
    text, failed = run_in_process(config, tmp_path / "runs.csv", runs, limit=1)
    assert failed == 1
    assert f"{runs / 'sk-fpn-0'} was not made by this study" in text
    assert (other / "notes.txt").read_text() == "mine"


def test_unknown_arms_and_missing_data_are_refused(streets_root: Path, tmp_path: Path) -> None:
    config, table, runs = write(tmp_path, streets_root), tmp_path / "runs.csv", tmp_path / "runs"
    with pytest.raises(UserError, match=r"'se'.*\bsk, sum\b|'se'.*'sk'"):
        run_in_process(config, table, runs, arms=["sk", "se"])
    none = tmp_path / "none"
    with pytest.raises(UserError, match=f"{none}"):
        Runner(read_study(config), table, runs, none)
    assert not table.exists()


@pytest.mark.parametrize("flag", ["--limit", "--jobs"])
def test_counts_below_one_are_refused(flag: str, capsys: pytest.CaptureFixture) -> None:
    for value in ("0", "-1"):
        assert study(["--config", "configs/studies/streets.yaml", flag, value]) == 2
        assert f"{flag} must be at least 1, got {value}" in capsys.readouterr().err


def run_in_process(config: Path, table: Path, folder: Path, **options: Any) -> tuple[str, int]:
    """Run a study one run at a time; return what it prints and how many runs failed."""
    console = Console(file=StringIO(), width=10_000)
    failed = Runner(read_study(config), table, folder).run(1, console, **options)
    return console.file.getvalue(), failed


@pytest.mark.slow
def test_a_stopped_study_goes_on_to_the_same_numbers(tmp_path: Path, streets_root: Path) -> None:
    """SIGTERM ends a training; the same command resumes it from its checkpoint."""
    more = {"set": SMALL | {"trainer.max_epochs": 6, "trainer.check_val_every_n_epoch": 6}}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    config = write(whole, streets_root, **more)
    done = run_script("study", *arguments(whole, config))
    assert done.returncode == 0, done.stdout

    config = write(parts, streets_root, **more)
    command = [sys.executable, "scripts/study.py", *map(str, arguments(parts, config))]
    runner = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    checkpoint = parts / "runs" / "tiny" / "sk-fpn-0" / "checkpoints" / "last.ckpt"
    while not checkpoint.exists():
        assert runner.poll() is None
        time.sleep(0.05)
    other = run_script("study", *arguments(parts, config))
    assert other.returncode == 2
    assert "the study is already running" in other.stderr
    runner.send_signal(signal.SIGTERM)
    output, _ = runner.communicate()
    assert runner.returncode == 130, output
    assert "same command" in output
    again = run_script("study", *arguments(parts, config))
    assert again.returncode == 0, again.stdout

    def numbers(folder: Path) -> list[dict[str, str]]:
        rows = read_rows(folder / "results" / "tiny" / "runs.csv")
        return [{k: v for k, v in r.items() if k not in ("seconds", "commit")} for r in rows]

    assert numbers(parts) == numbers(whole)


@pytest.mark.parametrize("config", STUDIES, ids=lambda p: p.stem)
def test_every_study_starts(
    config: Path, streets_root: Path, camvid_root: Path, tmp_path: Path
) -> None:
    """Its first run, made small."""
    data = yaml.safe_load(config.read_text())["data"]["name"]
    root = {"streets": streets_root, "camvid": camvid_root}[data]
    small = [f"--set={key}={value}" for key, value in SMALL.items()]
    done = run_script(
        "study",
        *("--config", config, "--data.root", root, "--limit", 1, "--jobs", 1, *small),
        *("--output", tmp_path / "results", "--runs", tmp_path / "runs"),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(read_rows(tmp_path / "results" / config.stem / "runs.csv")) == 1


def test_the_study_in_the_documentation_runs(folder_root: Path, tmp_path: Path) -> None:
    """As it is printed there, with the trial that it suggests; results lie beside the config."""
    text = (REPOSITORY / "docs" / "study.md").read_text()
    config = tmp_path / "mine" / "segments.yaml"
    config.parent.mkdir()
    config.write_text(text.partition("```yaml\n")[2].partition("```")[0])
    places = ["--runs", tmp_path / "runs", "--data.root", folder_root]
    small = [f"--set={key}={value}" for key, value in SMALL.items()]
    trial = ["--seeds", 1, *small, "--output", tmp_path / "try", "--runs", tmp_path / "try"]
    trial += ["--arms", "sk", "sum"]
    done = run_script("study", "--config", config, *places, *trial)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = read_rows(tmp_path / "try" / "segments" / "runs.csv")
    assert [(row["arm"], row["decoder"], row["seed"]) for row in rows] == [
        ("sk", "unet", "0"),
        ("sum", "unet", "0"),
    ]
    content = yaml.safe_load(config.read_text())
    content |= {"set": SMALL, "decoders": ["fpn"], "first_seed": 3}
    config.write_text(yaml.safe_dump(content))
    done = run_script("study", "--config", config, *places, "--seeds", 1, "--limit", 1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (config.parent / "results" / "segments" / "report.md").is_file()
    assert read_rows(config.parent / "results" / "segments" / "runs.csv")[0]["seed"] == "3"
    again = run_script("study", "--config", config, "--report")
    assert f"report {config.parent / 'results' / 'segments' / 'report.md'}" in again.stdout


@pytest.mark.parametrize("config", STUDIES, ids=lambda p: p.stem)
def test_every_arm_is_a_network(config: Path) -> None:
    """Otherwise a mistake in the last arm would show after hours."""
    study = read_study(config)
    base = yaml.safe_load(Path(REPOSITORY, study.fit).read_text())["model"]
    for arm, own in study.arms.items():
        values = {**study.set, **own}
        sk = dict(base.get("sk") or {}) if "model.sk" not in values else values["model.sk"]
        for key, value in values.items():
            if key.startswith("model.sk."):
                sk[key.removeprefix("model.sk.")] = value
        name = values.get("model.encoder_name", base["encoder_name"])
        is_sk = "sk" in base or any(key.startswith("model.sk") for key in values)
        settings = SKSettings(**sk) if is_sk and sk is not None else None
        model = build_model("fpn", name, None, classes=3, sk=settings)
        has_attention = any(isinstance(m, SKAttention) for m in model.modules())
        assert has_attention == (arm.endswith("_selected") or arm in WITH_ATTENTION), arm


@pytest.mark.parametrize(
    "sweep", sorted((REPOSITORY / "configs" / "sweeps").glob("*.yaml")), ids=lambda p: p.stem
)
def test_a_sweeps_command_trains(sweep: Path, streets_root: Path, tmp_path: Path) -> None:
    """With the command line that W&B makes from the first point of the grid."""
    content = yaml.safe_load(sweep.read_text())
    fixed = content["command"][3:-1]
    point = {
        k: v.get("value", v.get("values", [None])[0]) for k, v in content["parameters"].items()
    }
    point |= SMALL | {"data.root": streets_root}
    args = [f"--{key}={value}" for key, value in point.items()]
    name = Path(content["program"]).stem
    done = run_script(name, *fixed, *args, "--run_dir", tmp_path / "run", "--wandb.enabled=false")
    assert done.returncode == 0, done.stderr
