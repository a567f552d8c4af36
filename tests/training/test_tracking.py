"""What W&B and `metrics.csv` get of a run, read back from the files of an offline run."""

import csv
import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from small_fit import callback, small_fit
from stage_attention import mean_attention
from wandb_file import read_run

from skseg import load_model
from skseg.commands.fit import main as fit
from skseg.data import get_dataset
from skseg.evaluation.evaluate import evaluate
from skseg.training.loggers import Tracking, wandb_logger
from skseg.training.tracking import SavePredictions


@pytest.fixture(scope="module")
def recorded(run_dir: Path) -> dict:
    return read_run(run_dir)


def media(run_dir: Path, path: str) -> dict:
    (files,) = run_dir.glob("wandb/offline-run-*/files")
    return json.loads((files / path).read_text())


def rows_of(run_dir: Path, key: str) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row[key]]


def test_tables_are_those_of_an_evaluation(
    run_dir: Path, recorded: dict, streets_root: Path
) -> None:
    task = load_model(run_dir / "checkpoints" / "last.ckpt")
    record = evaluate(task, get_dataset("streets"), streets_root, "val", num_workers=0).record
    shown = [row for row in recorded["history"] if "val/classes.path" in row]
    assert [row["trainer/global_step"] for row in shown] == [1, 3]  # as the scores'
    table = media(run_dir, shown[-1]["val/classes.path"])
    assert table["columns"] == ["class", "iou", "precision", "recall", "f1"]
    for name, *values in table["data"]:
        expected = [record[key][name] for key in table["columns"][1:]]
        assert values == pytest.approx(expected, nan_ok=True)
    cells = media(run_dir, shown[-1]["val/confusion_table.path"])["data"]
    names = task.class_names
    matrix = np.zeros((len(names), len(names)), int)
    for truth, prediction, count in cells:
        matrix[names.index(truth), names.index(prediction)] = count
    assert matrix.tolist() == record["confusion"]
    assert matrix.sum() > 0
    assert "wandb/confusion_matrix/v1" in json.dumps(recorded["config"])  # how to draw it


def test_attention_by_stage_over_time(run_dir: Path, recorded: dict, streets_root: Path) -> None:
    known = mean_attention(load_model(run_dir / "checkpoints" / "last.ckpt"), streets_root)
    in_file = rows_of(run_dir, "val/miou")
    in_wandb = [row for row in recorded["history"] if "val/miou" in row]
    assert len(in_file) == len(in_wandb) == 2
    assert {key: float(in_file[-1][key]) for key in known} == pytest.approx(known, abs=1e-5)
    assert {key: in_wandb[-1][key] for key in known} == pytest.approx(known, abs=1e-5)
    assert in_file[0]["val/attention/layer1/5"] != in_file[1]["val/attention/layer1/5"]


def test_rates_norm_and_speed(run_dir: Path, recorded: dict) -> None:
    """Speed is not in `metrics.csv`, which is the same to the bit for the same run."""
    steps = [row for row in recorded["history"] if "train/loss" in row]
    in_file = rows_of(run_dir, "train/loss")
    assert len(steps) == len(in_file) == 4
    for row, line in zip(steps, in_file, strict=True):
        for key in ("train/grad_norm", "lr/encoder", "lr/decoder"):
            assert row[key] == pytest.approx(float(line[key]))
            assert row[key] > 0
    speeds = [row["train/images_per_second"] for row in steps if "train/images_per_second" in row]
    assert len(speeds) == 2  # each epoch's second step; the first warms up
    assert min(speeds) > 0
    assert "train/images_per_second" not in in_file[0]


def test_the_best_checkpoint_is_an_artifact_with_its_evaluation(
    run_dir: Path, recorded: dict, streets_root: Path
) -> None:
    (artifact,) = [a for a in recorded["artifacts"] if a["type"] == "model"]
    assert artifact["name"].endswith("-best")
    assert "best" in artifact["aliases"]
    assert set(artifact["files"]) == {"best.ckpt", "best.json"}
    evaluation = json.loads(artifact["files"]["best.json"].read_text())
    del evaluation["confusion"]
    assert artifact["metadata"] == evaluation
    scored = rows_of(run_dir, "val/miou")
    best = max(scored, key=lambda row: float(row["val/miou"]))
    assert evaluation["epoch"] == int(best["epoch"])
    assert evaluation["step"] == int(best["step"]) + 1
    task = load_model(artifact["files"]["best.ckpt"])
    found = evaluate(task, get_dataset("streets"), streets_root, "val", num_workers=0).record
    assert found["miou"] == pytest.approx(evaluation["miou"])
    assert found["iou"] == pytest.approx(evaluation["iou"])


def test_all_that_waits_for_upload_is_in_the_run_folder(run_dir: Path, recorded: dict) -> None:
    files = [file for a in recorded["artifacts"] for file in a["files"].values()]
    assert files
    for file in files:
        assert file.is_file()
        assert file.is_relative_to(run_dir.resolve())


class KeepStart(pl.Callback):
    """Keep the weights that the latest fit starts from."""

    weights: ClassVar[dict[str, torch.Tensor]] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.weights.update({n: p.detach().clone() for n, p in pl_module.named_parameters()})


def test_each_validation_leaves_its_picture(streets_root: Path, tmp_path: Path) -> None:
    twice = ["--trainer.check_val_every_n_epoch", 1, "--trainer.val_check_interval", 1]
    assert fit(small_fit(streets_root, tmp_path / "run", *twice, "--trainer.max_epochs", 1)) == 0
    pictures = tmp_path / "run" / "pictures"
    assert sorted(p.name for p in pictures.iterdir()) == ["step_0000001.png", "step_0000002.png"]
    (pictures / "step_0000010.png").touch()
    assert SavePredictions(pictures).last == pictures / "step_0000010.png"


def test_a_run_that_chose_its_id_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path))  # and later tests have their own
    assert wandb_logger(Tracking(), tmp_path).version is None
    for name in ("run-20250102_030405-older", "run-notes"):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    assert wandb_logger(Tracking(), tmp_path).version == "older"
    (tmp_path / "wandb" / "offline-run-20250102_030407-my-run-2").mkdir()
    assert wandb_logger(Tracking(), tmp_path).version == "my-run-2"


def test_the_norm_is_of_all_gradients_before_clipping(streets_root: Path, tmp_path: Path) -> None:
    """Plain SGD moves the weights by the clipped gradient; unclipped, by all of it."""
    sgd = ["--model.optimizer", "SGD", "--model.optimizer.lr", 0.5]
    sgd += ["--model.optimizer.weight_decay", 0, "--model.schedule.warmup_steps", 0]
    sgd += callback("test_tracking.KeepStart")
    norms, moves = [], []
    for clip in ("null", "0.25"):
        run = tmp_path / clip
        more = [*sgd, "--trainer.max_epochs", -1, "--trainer.max_steps", 1]
        assert fit(small_fit(streets_root, run, *more, "--trainer.gradient_clip_val", clip)) == 0
        end = load_model(run / "checkpoints" / "last.ckpt").state_dict()
        moved = [(start - end[name]).norm() for name, start in KeepStart.weights.items()]
        moves.append(float(torch.stack(moved).norm()) / 0.5)
        (row,) = rows_of(run, "train/grad_norm")
        norms.append(float(row["train/grad_norm"]))
    assert norms[0] == norms[1] == pytest.approx(moves[0], rel=1e-3)
    assert moves[1] == pytest.approx(0.25, rel=1e-3)


def test_the_best_is_kept_by_a_resumed_run(streets_root: Path, tmp_path: Path) -> None:
    """Until it is beaten; here it has to beat an mIoU that there cannot be."""
    run, checkpoints = tmp_path / "run", tmp_path / "run" / "checkpoints"
    every = ["--trainer.check_val_every_n_epoch", 1, "--trainer.max_epochs"]
    assert fit(small_fit(streets_root, run, *every, 3)) == 0
    best = max(rows_of(run, "val/miou"), key=lambda row: float(row["val/miou"]))
    record = json.loads((checkpoints / "best.json").read_text())
    assert record["epoch"] == int(best["epoch"])
    assert record["miou"] == pytest.approx(float(best["val/miou"]), rel=1e-5)
    last = torch.load(checkpoints / "last.ckpt", weights_only=True)
    assert last["callbacks"]["RunCheckpoint"]["best"] == pytest.approx(record["miou"])
    last["callbacks"]["RunCheckpoint"]["best"] = 2.0
    torch.save(last, checkpoints / "last.ckpt")
    before = (checkpoints / "best.ckpt").read_bytes()
    assert fit(small_fit(streets_root, run, *every, 5, "--ckpt_path", "last")) == 0
    assert len(rows_of(run, "val/miou")) == 5
    assert (checkpoints / "best.ckpt").read_bytes() == before
