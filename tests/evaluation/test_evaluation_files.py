"""The folder of an evaluation: its own, whole, and without anything of an earlier one."""

import dataclasses
import json
import resource
import shutil
from pathlib import Path

import pytest
import torch
from running import run_script

from skseg import UserError, load_model
from skseg.data import get_dataset
from skseg.evaluation.evaluate import Evaluation, compare, evaluate
from skseg.evaluation.files import check_output, write_evaluation
from skseg.inference import InferenceSettings
from skseg.training.task import SegmentationTask

FILES = {
    *("evaluation.json", "evaluation.csv", "evaluation.md", "images.csv"),
    *("report.html", "predictions.png"),
}


@pytest.fixture(scope="module")
def task(run_dir: Path) -> SegmentationTask:
    return load_model(run_dir / "checkpoints" / "last.ckpt")


@pytest.fixture(scope="module")
def evaluation(task: SegmentationTask, streets_root: Path) -> Evaluation:
    return evaluate(task, get_dataset("streets"), streets_root, "val", num_workers=0)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_nothing_of_an_earlier_evaluation_stays(
    task: SegmentationTask, evaluation: Evaluation, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write_evaluation(out, evaluation, task, compare(evaluation, evaluation))
    assert names(out) == FILES | {"comparison.json"}
    (out / "notes.txt").write_text("mine")
    write_evaluation(out, evaluation, task)
    assert names(out) == FILES | {"notes.txt"}
    assert names(tmp_path) == {"out"}


def test_a_full_disk_leaves_the_earlier_evaluation(
    task: SegmentationTask, evaluation: Evaluation, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write_evaluation(out, evaluation, task, compare(evaluation, evaluation))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    other = dataclasses.replace(evaluation, record={**evaluation.record, "miou": 0.5})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = max(map(len, before.values()))
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_evaluation(out, other, task)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert names(tmp_path) == {"out"}


def test_scores_say_which_weights_they_are_of(run_dir: Path, evaluation: Evaluation) -> None:
    checkpoint = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)
    record = evaluation.record
    assert (record["weights"], record["epoch"], record["step"]) == ("trained", 1, 4)
    assert (checkpoint["epoch"], checkpoint["global_step"]) == (1, 4)
    assert str(evaluation.source) == "trained weights of last.ckpt, step 4 (epoch 1)"
    pair = compare(evaluation, evaluation)["weights"]
    assert pair == ({"weights": "trained", "epoch": 1, "step": 4},) * 2


def test_each_checkpoint_has_a_folder_of_its_own(
    run_dir: Path, streets_root: Path, tmp_path: Path
) -> None:
    """And each data set, split and setting; a named folder holds one evaluation."""
    run = tmp_path / "run"
    shutil.copytree(run_dir, run, ignore=shutil.ignore_patterns("wandb", "evaluation*"))
    for arguments, folder in (
        ([run], "evaluation-val"),
        ([run / "checkpoints" / "best.ckpt"], "evaluation-best-val"),
        ([run, "--flip", "--split", "train"], "evaluation-train-flip"),
    ):
        done = run_script("evaluate", *arguments)
        assert done.returncode == 0, done.stderr
        assert names(run / folder) == FILES
        record = json.loads((run / folder / "evaluation.json").read_text())
        assert f"step {record['step']}" in " ".join(done.stdout.split())
        for file in ("evaluation.md", "report.html"):
            assert f"step {record['step']}" in (run / folder / file).read_text()
    lone = tmp_path / "lone"
    lone.mkdir()
    data = ["--data.name", "streets", "--data.root", streets_root]
    for name in ("a", "b"):
        shutil.copy(run / "checkpoints" / "last.ckpt", lone / f"{name}.ckpt")
        assert run_script("evaluate", lone / f"{name}.ckpt", *data).returncode == 0
    assert names(lone) == {
        *("a.ckpt", "b.ckpt", "evaluation-a-val-on-streets", "evaluation-b-val-on-streets")
    }
    again = run_script("evaluate", run, "--output", run / "evaluation-train-flip")
    assert again.returncode == 2
    assert "holds an evaluation with split train, not val" in again.stderr
    assert "--overwrite" in again.stderr
    done = run_script("evaluate", run, "--output", run / "evaluation-train-flip", "--overwrite")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_picture_that_cannot_be_read_ends_the_evaluation(
    run_dir: Path, streets_root: Path, tmp_path: Path, num_workers: int
) -> None:
    """Scores of the rest would be those of another set."""
    root, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(streets_root, root)
    picture = sorted((root / "leftImg8bit" / "val").glob("*/*.png"))[1]
    picture.write_bytes(picture.read_bytes()[:500])
    done = run_script(
        *("evaluate", run_dir, "--data.root", root, "--output", out),
        *("--num_workers", num_workers),
    )
    assert done.returncode == 2
    assert str(picture) in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not out.exists()


def test_files_of_no_evaluation_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_text("mine")
    with pytest.raises(UserError, match=r"images\.csv.*`overwrite`"):
        check_output(tmp_path, "streets", tmp_path, "val", InferenceSettings())
    (tmp_path / "images.csv").rename(tmp_path / "notes.csv")
    check_output(tmp_path, "streets", tmp_path, "val", InferenceSettings())
