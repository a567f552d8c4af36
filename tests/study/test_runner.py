"""A tiny study through the real commands: interrupted, broken, locked, and gone on with."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from running import REPOSITORY, STUDIES, run_script

from skseg import build_model
from skseg.encoders import SKSettings
from skseg.nn.attention import SKAttention
from skseg.study.matrix import read_rows, read_study

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


def test_a_study_runs_breaks_goes_on_and_reports(tmp_path: Path, streets_root: Path) -> None:
    broken = {"model.encoder_name": "sknet_none"}
    arms = {"sk": {"model.encoder_name": "sknet_tiny"}, "sum": broken}
    config = write(tmp_path, streets_root, arms=arms)
    stranger = run_script("study", *arguments(tmp_path, config, "--arms", "sk", "se"))
    assert stranger.returncode == 2
    assert "no arm se; there are sk, sum" in stranger.stderr
    first = run_script("study", *arguments(tmp_path, config, "--arms", "sk"))
    assert "0 runs are done, 2 of 4 to do" in first.stdout
    first = run_script("study", *arguments(tmp_path, config))
    assert first.returncode == 1
    assert "sum-fpn-0: failed: fit exited with 2: error: unknown encoder" in first.stdout
    table = tmp_path / "results" / "tiny" / "runs.csv"
    row, other = read_rows(table)
    assert (row["arm"], row["encoder"], row["decoder"]) == ("sk", "sknet_tiny", "fpn")
    assert (row["seed"], other["seed"]) == ("0", "1")
    assert 0 <= float(row["miou"]) <= 1
    head = subprocess.run(
        ["git", "-C", REPOSITORY, "rev-parse", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    assert row["commit"].removesuffix("-dirty") == head[:9]  # both empty outside a checkout
    assert row["cpu"] == torch.backends.cpu.get_cpu_capability()
    before = table.read_text()

    config = write(tmp_path, streets_root, keep_checkpoints=["sum"])  # mended
    second = run_script("study", *arguments(tmp_path, config))
    assert second.returncode == 0, second.stdout + second.stderr
    assert "2 runs are done, 2 of 4 to do" in second.stdout
    assert "2 of 2 done, all done" in second.stdout
    rows = read_rows(table)
    assert [r["arm"] for r in rows] == ["sk", "sk", "sum", "sum"]
    assert before.splitlines()[1] in table.read_text()
    scored = tmp_path / "runs" / "tiny" / "sk-fpn-0" / "evaluation" / "evaluation.json"
    record = json.loads(scored.read_text())
    assert record["inference"]["scales"] == [0.5]
    cells = {name: rows[0][f"iou/{name}"] for name in record["iou"]}
    assert [name for name, cell in cells.items() if not cell] == [
        name for name, recall in record["recall"].items() if recall is None
    ], "classes that never occur in truth"
    assert not all(cells.values())
    assert not (tmp_path / "runs" / "tiny" / "sk-fpn-0" / "checkpoints").exists()
    used = tmp_path / "runs" / "tiny" / "fit.yaml"
    assert used.read_text() == (REPOSITORY / "configs" / "streets.yaml").read_text()
    assert (tmp_path / "runs" / "tiny" / "sum-fpn-0" / "checkpoints" / "last.ckpt").is_file()
    assert not (tmp_path / "runs" / "tiny" / "sum-fpn-0" / "pictures").exists(), (
        "validated, and scored too"
    )
    assert "points of mIoU (95 % interval" in (tmp_path / "results" / "README.md").read_text()
    assert "sk against sum under fpn" in (tmp_path / "results" / "README.md").read_text()

    smaller = tmp_path / "smaller"
    shutil.copytree(streets_root, smaller)
    for file in smaller.glob("*/val/*/drawn_000000_*"):  # an image of three, and its masks
        file.unlink()
    config = write(tmp_path, streets_root, keep_checkpoints=["sum"], primary_seeds=3)
    mixed = run_script("study", *arguments(tmp_path, config, "--data.root", smaller, "--limit", 1))
    assert mixed.returncode == 2, mixed.stdout
    assert "runs were scored on 2 and on 3 images" in mixed.stderr
    assert len(read_rows(table)) == 4
    changed = run_script("study", *arguments(tmp_path, config, "--set", "data.flip=0.1"))
    assert changed.returncode == 2
    assert "4 of 4 runs are of another version of the config" in changed.stderr
    mixed = run_script("study", "--config", config, "--set", "data.flip=0.1")
    assert mixed.returncode == 2
    assert "give it an --output and --runs of its own" in mixed.stderr
    table.unlink()  # the network that was kept is of a run that had its row
    kept = tmp_path / "runs" / "tiny" / "sum-fpn-0"
    anew = run_script("study", *arguments(tmp_path, config, "--arms", "sum", "--seeds", 1))
    assert anew.returncode == 1
    assert f"{kept} has the network of another run: move it away" in anew.stdout
    assert (kept / "checkpoints" / "last.ckpt").is_file()
    wrong = run_script("study", *arguments(tmp_path, config, "--data.root", tmp_path / "none"))
    assert wrong.returncode == 2
    assert f"no data in {tmp_path / 'none'}" in wrong.stderr


@pytest.mark.slow
def test_a_stopped_study_goes_on_to_the_same_numbers(tmp_path: Path, streets_root: Path) -> None:
    """SIGTERM in the middle of a training; the run goes on from the checkpoint it left."""
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
    assert "the study is running already" in other.stderr
    runner.send_signal(signal.SIGTERM)
    output, _ = runner.communicate()
    assert runner.returncode == 130, output
    assert "the same command goes on" in output
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
    """As it stands there, with the trial that it proposes; its results lie beside it."""
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
    """A mistake in a late arm would show after hours."""
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
    """The command line that W&B makes of the first point of the grid."""
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
