"""Commands on a run's folder: they need no further flags, and each value can be overridden."""

import json
import shutil
from pathlib import Path

import pytest
from running import run_script


@pytest.fixture
def run(run_dir: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy, symlinks=True)
    return copy


def test_evaluate_a_folder_as_a_checkpoint_with_all_flags(
    run: Path, streets_root: Path, tmp_path: Path
) -> None:
    by_folder = run_script("evaluate", run)
    assert by_folder.returncode == 0, by_folder.stderr
    ckpt = run / "checkpoints" / "last.ckpt"
    by_flags = run_script(
        *("evaluate", "--ckpt_path", ckpt, "--output", tmp_path / "out", "--split", "val"),
        *("--data.name", "streets", "--data.root", streets_root),
    )
    assert by_flags.returncode == 0, by_flags.stderr
    records = [
        json.loads((folder / "evaluation.json").read_text())
        for folder in (run / "evaluation-val", tmp_path / "out")
    ]
    for record in records:
        assert record.pop("seconds")
    assert records[0] == records[1]
    assert records[0]["checkpoint"] == str(ckpt)


def test_flags_override_the_run(run: Path, streets_root: Path, tmp_path: Path) -> None:
    done = run_script("evaluate", run, "--split", "train", "--compare", run)
    assert done.returncode == 0, done.stderr
    folder = run / "evaluation-train"
    assert json.loads((folder / "evaluation.json").read_text())["images"] == 4
    assert json.loads((folder / "comparison.json").read_text())["difference"] == 0
    elsewhere = run_script("evaluate", run, "--data.root", tmp_path / "nowhere")
    assert elsewhere.returncode == 2
    assert str(tmp_path / "nowhere") in elsewhere.stderr
    other = run_script("evaluate", run, "--data.name", "camvid")
    assert other.returncode == 2
    assert "Traceback" not in other.stderr


def test_a_lone_checkpoint_asks_for_the_data(run: Path, tmp_path: Path) -> None:
    lone = tmp_path / "elsewhere" / "here" / "lone.ckpt"
    lone.parent.mkdir(parents=True)
    shutil.copy(run / "checkpoints" / "last.ckpt", lone)
    done = run_script("evaluate", lone)
    assert done.returncode == 2
    assert "--data.name" in done.stderr


def test_predict_with_the_last_checkpoint(run: Path, streets_root: Path, tmp_path: Path) -> None:
    picture = next((streets_root / "leftImg8bit" / "val").glob("*/*.png"))
    done = run_script("predict", run, "--input", picture, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / picture.name).is_file()


def test_check_the_data_of_a_run(run: Path, tmp_path: Path) -> None:
    done = run_script("check_data", run, "--sheet", tmp_path / "s.png", "--samples", 1)
    assert done.returncode == 0, done.stderr
    assert "train: 4 images" in done.stdout
    assert "val: 3 images" in done.stdout
    assert (tmp_path / "s.png").is_file()
    assert run_script("check_data", tmp_path / "nothing").returncode == 2
    assert "--data.name" in run_script("check_data").stderr


def test_attention_to_the_data_of_a_run(run: Path) -> None:
    done = run_script("attention", run, "--pictures", 1)
    assert done.returncode in (0, 2), done.stderr
    assert "Traceback" not in done.stderr
    assert "--data.name" not in done.stderr


def test_an_unknown_flag_writes_nothing(run: Path) -> None:
    before = sorted(run.rglob("*"))
    done = run_script("evaluate", run, "--windw", 3)
    assert done.returncode == 2
    assert "'--window'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(run.rglob("*")) == before
