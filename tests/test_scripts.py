"""The scripts as a user runs them, in processes of their own."""

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import timm
import torch
import yaml
from running import REPOSITORY, run_script
from safetensors.torch import save_file
from wandb_file import read_run

import skseg
from skseg.data import get_dataset

CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))


def last_value(path: Path, key: str) -> float:
    with (path / "metrics.csv").open() as file:
        return float([row[key] for row in csv.DictReader(file) if row[key]][-1])


def test_a_run_folder_holds_all_of_a_run(run_dir: Path) -> None:
    names = {p.name for p in run_dir.iterdir()}
    assert {"config.yaml", "metrics.csv", "checkpoints", "pictures", "wandb"} <= names
    assert [p.name for p in sorted((run_dir / "pictures").iterdir())] == [
        "step_0000002.png",
        "step_0000004.png",
    ]
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert config["model"]["encoder_name"] == "sknet_tiny"
    assert config["data"]["batch_size"] == 2
    for key in ("val/miou", "val/loss", "val/pixel_accuracy", "val/iou/car", "train/loss"):
        assert np.isfinite(last_value(run_dir, key))


def test_fit_says_what_counts_and_nothing_else(run_dir: Path) -> None:
    out, err = ((run_dir / f"{n}.txt").read_text() for n in ("stdout", "stderr"))
    assert "road" in out
    assert "mean" in out
    assert str(run_dir / "pictures" / "step_0000004.png") in out
    assert "warn" not in (out + err).lower()
    assert "Tip:" not in out + err


def test_wandb_has_configuration_curves_and_overlays(run_dir: Path) -> None:
    run = read_run(run_dir)
    assert run["config"]["model"]["encoder_name"] == "sknet_tiny"
    scored = [row for row in run["history"] if "val/miou" in row]
    assert len(scored) == 2
    assert scored[-1]["val/miou"] == pytest.approx(last_value(run_dir, "val/miou"))
    assert "val/iou/car" in scored[-1]
    shown = [row for row in run["history"] if "val/predictions.count" in row]
    assert [row["trainer/global_step"] for row in shown] == [1, 3]  # as the scores'
    assert [row["trainer/global_step"] for row in scored] == [1, 3]
    assert shown[0]["val/predictions.count"] == 3
    masks = shown[0]["val/predictions.all_masks"][0]
    assert set(masks) == {"prediction", "truth"}
    files = next((run_dir / "wandb").glob("offline-run-*")) / "files"
    picture = cv2.imread(str(files / masks["truth"]["path"]), cv2.IMREAD_UNCHANGED)
    assert picture.shape == (64, 128)


def test_evaluate_agrees_with_the_last_validation(
    run_dir: Path, streets_root: Path, tmp_path: Path
) -> None:
    done = run_script(
        "evaluate",
        *("--ckpt_path", run_dir / "checkpoints" / "last.ckpt"),
        *("--data.name", "streets", "--data.root", streets_root, "--split", "val"),
        *("--output", tmp_path),
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "evaluation.json").read_text())
    assert record["miou"] == pytest.approx(last_value(run_dir, "val/miou"), abs=1e-6)
    assert record["pixel_accuracy"] == pytest.approx(
        last_value(run_dir, "val/pixel_accuracy"), abs=1e-6
    )
    assert list(record["iou"]) == list(get_dataset("streets").classes.names)
    assert record["recall"]["train"] is None  # never drawn
    assert record["images"] == 3
    assert sum(map(sum, record["confusion"])) <= 3 * 64 * 128
    assert f"{100 * record['miou']:.2f}" in done.stdout
    with (tmp_path / "evaluation.csv").open() as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    assert float(rows["road"]["iou"]) == record["iou"]["road"]
    assert cv2.imread(str(tmp_path / "predictions.png")).shape[1] == 1220


def test_predict_keeps_structure_and_size_and_overwrites_nothing(
    run_dir: Path, streets_root: Path, tmp_path: Path
) -> None:
    source = tmp_path / "in"
    (source / "below").mkdir(parents=True)
    picture = next((streets_root / "leftImg8bit" / "val").glob("*/*.png"))
    image = cv2.imread(str(picture))
    cv2.imwrite(str(source / "a.png"), image[:50, :77])
    cv2.imwrite(str(source / "below" / "b.jpg"), image)
    ckpt = run_dir / "checkpoints" / "last.ckpt"
    arguments = ["--ckpt_path", ckpt, "--input", source, "--output", tmp_path / "out"]
    done = run_script("predict", *arguments)
    assert done.returncode == 0, done.stderr
    written = sorted(str(p.relative_to(tmp_path / "out")) for p in tmp_path.glob("out/**/*.png"))
    assert written == ["a.png", "a_overlay.png", "below/b.png", "below/b_overlay.png"]
    labels = cv2.imread(str(tmp_path / "out" / "a.png"), cv2.IMREAD_UNCHANGED)
    overlay = cv2.imread(str(tmp_path / "out" / "a_overlay.png"))
    assert labels.shape == (50, 77)
    assert labels.max() < 19
    assert overlay.shape == (50, 77, 3)
    task = skseg.load_model(ckpt)
    pixels = image[:50, :77, ::-1] / 255
    normal = (pixels - np.array(task.mean)) / np.array(task.std)
    with torch.inference_mode():
        logits = task(torch.from_numpy(normal).permute(2, 0, 1)[None].float())
    assert (logits[0].argmax(0).numpy() == labels).mean() > 0.999
    again = run_script("predict", *arguments)
    assert again.returncode == 2
    assert "a.png already exists" in again.stderr


def test_resumes_the_newest_checkpoint(run_dir: Path, streets_root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy, symlinks=True)
    done = run_script(
        "fit",
        *("--config", copy / "config.yaml", "--run_dir", copy, "--ckpt_path", "last"),
        *("--trainer.max_epochs", 3),
    )
    assert done.returncode == 0, done.stderr
    with (copy / "metrics.csv").open() as file:
        epochs = [int(row["epoch"]) for row in csv.DictReader(file) if row["val/miou"]]
    assert epochs == [0, 1, 2]
    checkpoint = torch.load(copy / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 6
    parts = sorted(copy.glob("wandb/offline-run-*"))  # two recordings of one W&B run
    assert len(parts) == 2
    assert len({part.name.rsplit("-", 1)[1] for part in parts}) == 1
    shutil.rmtree(parts[0])
    steps = [row["trainer/global_step"] for row in read_run(copy)["history"]]
    assert steps
    assert min(steps) >= 4  # what the first part has is not logged again


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: p.stem)
def test_every_config_trains(
    config: Path, streets_root: Path, camvid_root: Path, folder_root: Path, tmp_path: Path
) -> None:
    """Smaller crops, fewer steps, the same everything else."""
    data = yaml.safe_load(config.read_text())["data"]["name"]
    roots = {"camvid": camvid_root, "folder": folder_root}
    weights = []
    if yaml.safe_load(config.read_text())["model"]["encoder_name"] == "sknet50":
        original = timm.create_model("skresnext50_32x4d")  # as on the hub, where tests do not go
        save_file(original.state_dict(), tmp_path / "original.safetensors")
        weights = ["--model.encoder_weights", tmp_path / "original.safetensors"]
    done = run_script(
        "fit",
        *("--config", config, "--run_dir", tmp_path / "run"),
        *("--data.root", roots.get(data, streets_root)),
        *("--data.batch_size", 2, "--data.crop_size", "[64,64]", "--data.num_workers", 0),
        *("--trainer.max_steps", 2, "--trainer.check_val_every_n_epoch", 1),
        *("--trainer.log_every_n_steps", 1, "--wandb.enabled", "false", *weights),
    )
    assert done.returncode == 0, done.stderr
    assert np.isfinite(last_value(tmp_path / "run", "val/loss"))
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


def test_draw_streets_says_what_is_next(tmp_path: Path) -> None:
    arguments = ["--root", tmp_path / "s", "--train", 1, "--val", 1, "--height", 64, "--width", 128]
    done = run_script("draw_streets", *arguments, "--workers", 0)
    assert done.returncode == 0, done.stderr
    assert f"--config configs/streets.yaml --data.root {tmp_path / 's'}" in done.stdout


def test_learning_curves_of_runs(run_dir: Path, tmp_path: Path) -> None:
    done = run_script("learning_curves", run_dir, "--output", tmp_path / "new" / "c.png")
    assert done.returncode == 0, done.stderr
    assert cv2.imread(str(tmp_path / "new" / "c.png")).shape == (400, 640, 3)
    with (tmp_path / "new" / "c.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], row["steps"]) for row in rows] == [
        (run_dir.name, "2"),
        (run_dir.name, "4"),
    ]
    assert float(rows[-1]["val_miou"]) == pytest.approx(
        100 * last_value(run_dir, "val/miou"), abs=0.006
    )
    done = run_script("learning_curves", tmp_path, "--output", tmp_path / "c.png")
    assert done.returncode == 2
    assert f"{tmp_path} is not a run folder" in done.stderr
