"""A user's mistakes on the command line of fit: one clear error, no stack trace, nothing made."""

import csv
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cv2
import pytest
import torch
import yaml
from running import REPOSITORY

from skseg.commands.fit import main as fit
from skseg.commands.fit import train
from skseg.commands.runs import RunPlace, claimed, read_data
from skseg.errors import UserError
from skseg.models import ARCHS, build_model
from skseg.nn import SKConv2d
from skseg.training.task import SegmentationTask, load_model
from skseg.training.tracking import SavePredictions


@pytest.fixture(autouse=True)
def _own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["fit.py"])


def arguments(root: Path, run: Path, *more: str) -> list[str]:
    return [
        *("--config", "configs/streets.yaml", "--data.root", str(root), "--run_dir", str(run)),
        *("--data.batch_size", "2", "--data.crop_size", "[64,64]", "--data.num_workers", "0"),
        *("--trainer.max_epochs", "1", "--wandb.enabled", "false", *more),
    ]


def test_a_converted_encoder_comes_back_with_the_checkpoint(
    streets_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    more = ["--model.encoder_name", "mobilenet_v2", "--model.sk.stages", "[4,5]"]
    args = arguments(streets_root, tmp_path / "run", *more, "--model.sk.fuse_norm", "none")
    assert fit(args) == 0
    assert (
        "converted 11 convolutions to SK units\n  parameters: 2.22 M ->" in capsys.readouterr().out
    )
    task = load_model(tmp_path / "run" / "checkpoints" / "last.ckpt")
    units = [m for m in task.model.encoder.modules() if isinstance(m, SKConv2d)]
    assert len(units) == 11
    assert all(isinstance(unit.attn.bn, torch.nn.Identity) for unit in units)
    trained = [unit.paths[1].conv.weight.detach() for unit in units]
    assert all(weight[..., 0, :].any() for weight in trained[:3])  # zeros no more
    other = ["--model.sk.stages", "[5]", "--ckpt_path", "last"]
    assert fit([*args, *other]) == 2
    assert "sk is {" in capsys.readouterr().err


def test_last_without_a_folder_continues_the_latest_run(
    streets_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = str(Path("configs/streets.yaml").resolve())
    monkeypatch.chdir(tmp_path)
    unnamed = arguments(streets_root, tmp_path)[6:]  # without config, root and folder
    args = ["--config", config, "--data.root", str(streets_root), *unnamed]
    assert fit(args) == 0
    assert fit([*args, "--trainer.max_epochs", "2", "--ckpt_path", "last"]) == 0
    (run,) = (tmp_path / "runs" / "streets").iterdir()
    with (run / "metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file) if row["val/miou"]] == ["1", "3"]
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4


def test_auto_decides_when_no_other_run_can_write(
    streets_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is ending may save its checkpoint until it leaves the folder to the next one."""
    run = tmp_path / "run"
    assert fit(arguments(streets_root, run)) == 0
    written = (run / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    (run / "checkpoints").rename(tmp_path / "late")

    @contextmanager
    def claimed_late(place: RunPlace) -> Iterator[Path]:
        with claimed(place) as folder:
            (tmp_path / "late").rename(folder / "checkpoints")
            yield folder

    monkeypatch.setattr("skseg.commands.fit.claimed", claimed_late)
    assert fit(arguments(streets_root, run, "--ckpt_path", "auto")) == 0
    # Nothing was left to train. A new start would write the same bytes again, but later.
    assert (run / "checkpoints" / "last.ckpt").stat().st_mtime_ns == written


def test_a_used_folder_is_not_overwritten(
    streets_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "metrics.csv").write_text("precious")
    assert fit(arguments(streets_root, tmp_path)) == 2
    assert "is not empty and has no checkpoint" in capsys.readouterr().err
    assert (tmp_path / "metrics.csv").read_text() == "precious"


def test_a_broken_picture_met_in_training_is_named(
    tmp_path: Path, streets_root: Path, capsys: pytest.CaptureFixture
) -> None:
    root = tmp_path / "streets"
    shutil.copytree(streets_root, root)
    for picture in (root / "leftImg8bit" / "train").glob("*/*.png"):
        picture.write_bytes(picture.read_bytes()[:300])
    assert fit(arguments(root, tmp_path / "run", "--data.num_workers", "1")) == 2
    error = capsys.readouterr().err
    assert "leftImg8bit/train" in error
    assert "Traceback" not in error


def test_a_mask_of_another_size_is_named(
    tmp_path: Path, streets_root: Path, capsys: pytest.CaptureFixture
) -> None:
    root = tmp_path / "streets"
    shutil.copytree(streets_root, root)
    for mask in (root / "gtFine" / "train").glob("*/*labelIds.png"):
        cv2.imwrite(str(mask), cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)[:30])
    assert fit(arguments(root, tmp_path / "run")) == 2
    assert "labelIds.png: the mask has 128x30 pixels" in capsys.readouterr().err


def test_every_epoch_leaves_a_checkpoint(
    streets_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in its second epoch, a run has the first."""
    seen = []

    def look(*_: object) -> None:
        seen.append((tmp_path / "run" / "checkpoints" / "last.ckpt").is_file())

    monkeypatch.setattr(SavePredictions, "on_train_batch_start", look)
    more = ["--trainer.max_steps", "3", "--trainer.max_epochs", "2"]
    assert fit(arguments(streets_root, tmp_path / "run", *more)) == 0
    assert seen == [False, False, True]


def test_one_image_a_batch_is_explained(
    streets_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    one = ["--data.batch_size", "1", "--model.encoder_name", "sknet26"]
    assert fit(arguments(streets_root, tmp_path / "run", *one)) == 2
    assert "single image" in capsys.readouterr().err


def test_crops_of_any_size_train(streets_root: Path, tmp_path: Path) -> None:
    assert fit(arguments(streets_root, tmp_path / "run", "--data.crop_size", "[50,70]")) == 0


@pytest.mark.parametrize("arch", ARCHS)
def test_every_architecture_trains_and_comes_back(
    arch: str, streets_root: Path, tmp_path: Path
) -> None:
    """One real step, and what its checkpoint says is what the network says."""
    more = ["--model.arch", arch, "--model.decoder", "{}", "--trainer.limit_train_batches", "1"]
    more += ["--trainer.limit_val_batches", "1", "--data.crop_size", "[128,128]"]
    assert fit(arguments(streets_root, tmp_path / "run", *more)) == 0
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["global_step"] == 1
    task = load_model(path)
    assert task.spec["arch"] == arch
    assert all(torch.equal(v, checkpoint["state_dict"][k]) for k, v in task.state_dict().items())
    with torch.inference_mode():
        assert task(torch.zeros(1, 3, 70, 90)).shape == (1, 19, 70, 90)


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet10t", "mit_b0", "sknet_tiny_se"])
def test_encoders_of_smp_and_timm_train(encoder: str, streets_root: Path, tmp_path: Path) -> None:
    more = ["--model.encoder_name", encoder, "--trainer.limit_train_batches", "1"]
    assert fit(arguments(streets_root, tmp_path / "run", *more)) == 0
    assert (
        load_model(tmp_path / "run" / "checkpoints" / "last.ckpt").spec["encoder_name"] == encoder
    )


def test_settings_of_sk_units_come_back_with_the_checkpoint(
    streets_root: Path, tmp_path: Path
) -> None:
    more = ["--model.sk.fuse_norm", "batch", "--model.sk.branches", "[[3],[3,2],[3,3]]"]
    assert fit(arguments(streets_root, tmp_path / "run", *more)) == 0
    task = load_model(tmp_path / "run" / "checkpoints" / "last.ckpt")
    unit = next(m for m in task.modules() if isinstance(m, SKConv2d))
    assert [p.conv.dilation[0] for p in unit.paths] == [1, 2, 3]
    assert isinstance(unit.attn.bn, torch.nn.BatchNorm1d)


def test_a_resumed_run_needs_its_first_weights_no_more(streets_root: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    torch.save(build_model("fpn", "sknet_tiny").encoder.state_dict(), weights)
    args = arguments(streets_root, tmp_path / "run", "--model.encoder_weights", str(weights))
    assert fit(args) == 0
    weights.unlink()
    assert fit([*args, "--ckpt_path", "last", "--trainer.max_epochs", "2"]) == 0
    assert str(weights) in (tmp_path / "run" / "config.yaml").read_text()


def test_a_conversion_with_depthwise_kernels_trains_and_comes_back(
    streets_root: Path, tmp_path: Path
) -> None:
    more = ["--model.encoder_name", "resnet18", "--model.sk.depthwise", "true"]
    more += ["--model.sk.stages", "[4]", "--trainer.check_val_every_n_epoch", "1"]
    assert fit(arguments(streets_root, tmp_path / "run", *more)) == 0
    task = load_model(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert sum(isinstance(m, SKConv2d) for m in task.modules()) == 4
    with (tmp_path / "run" / "metrics.csv").open() as file:
        keys = next(csv.reader(file))
    assert {key for key in keys if key.startswith("val/attention/")} == {
        "val/attention/layer3/3",
        "val/attention/layer3/5",
    }


def test_a_checkpoint_of_another_model_is_refused(
    streets_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    args = arguments(streets_root, tmp_path / "run")
    assert fit(args) == 0
    more = ["--model.encoder_name", "sknet_tiny_se", "--ckpt_path", "last"]
    assert fit([*args, *more]) == 2
    error = capsys.readouterr().err
    assert "encoder_name is 'sknet_tiny' in the checkpoint, 'sknet_tiny_se' here" in error
    (tmp_path / "run" / "checkpoints" / "last.ckpt").write_bytes(b"")
    assert fit([*args, "--ckpt_path", "last"]) == 2
    assert "cannot be read safely" in capsys.readouterr().err


def test_a_run_folder_that_cannot_be_made_is_named(
    streets_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert fit(arguments(streets_root, tmp_path / "file" / "run")) == 2
    assert "file/run: cannot be made" in capsys.readouterr().err


@pytest.mark.parametrize("limit", [2_000_000, 10_000], ids=["checkpoint", "picture"])
def test_a_full_disk_ends_in_one_line(limit: int, streets_root: Path, tmp_path: Path) -> None:
    """Files that cannot grow stand for it: first the checkpoint's, then the pictures' too."""
    args = arguments(streets_root, tmp_path / "run", "--trainer.max_epochs", "2")
    done = subprocess.run(
        [sys.executable, "scripts/fit.py", *args],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "error: " in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))  # no half of one


def test_gradients_are_clipped_to_the_norm(
    streets_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With plain SGD at rate 1 one step moves the weights by the gradient."""
    before: dict[str, torch.Tensor] = {}

    def keep(task: torch.nn.Module) -> None:
        before.update({name: p.detach().clone() for name, p in task.named_parameters()})

    monkeypatch.setattr(SegmentationTask, "on_train_start", keep)
    sgd = ["--model.optimizer", "SGD", "--model.optimizer.lr", "1"]
    sgd += ["--model.optimizer.weight_decay", "0", "--model.schedule.warmup_steps", "0"]
    moved = {}
    for limit in ("0.01", "1000"):
        more = [*sgd, "--trainer.max_steps", "1", "--trainer.gradient_clip_val", limit]
        assert fit(arguments(streets_root, tmp_path / limit, *more)) == 0
        after = load_model(tmp_path / limit / "checkpoints" / "last.ckpt").named_parameters()
        steps = [(p.detach() - before[name]).flatten() for name, p in after]
        moved[limit] = torch.cat(steps).norm().item()
    assert moved["0.01"] == pytest.approx(0.01, rel=1e-3)
    assert moved["1000"] > 0.1


def test_a_thread_trains_and_returns_the_scores(streets_root: Path, tmp_path: Path) -> None:
    """As a tuner does."""
    with ThreadPoolExecutor(1) as pool:
        scores = pool.submit(train, arguments(streets_root, tmp_path / "run")).result()
    best = json.loads((tmp_path / "run" / "checkpoints" / "best.json").read_text())
    assert scores["val/miou"] == pytest.approx(best["miou"])
    assert scores["val/pixel_accuracy"] == pytest.approx(best["pixel_accuracy"])
    with pytest.raises(UserError, match="`run_dir`"):
        train(arguments(streets_root, tmp_path / "run"))


@pytest.mark.parametrize("terms", ["[{name: dice}]", "[{name: dice}, {name: lovasz}]"])
def test_a_loss_on_the_command_line_replaces_the_configs(
    terms: str, streets_root: Path, tmp_path: Path
) -> None:
    assert fit(arguments(streets_root, tmp_path / "run", f"--model.loss={terms}")) == 0
    with (tmp_path / "run" / "config.yaml").open() as file:
        loss = yaml.safe_load(file)["model"]["loss"]
    assert [term["name"] for term in loss] == [term["name"] for term in yaml.safe_load(terms)]
    assert all(term.get("class_weights") is None for term in loss)


def test_parts_of_the_configuration_may_be_files(streets_root: Path, tmp_path: Path) -> None:
    data = {"name": "streets", "root": str(streets_root), "crop_size": [64, 64], "num_workers": 0}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({**data, "batch_size": 2}))
    args = ["--data", str(tmp_path / "data.yaml"), "--model.encoder_name", "sknet_tiny"]
    args += ["--trainer.max_epochs", "1", "--wandb.enabled", "false"]
    assert fit([*args, "--run_dir", str(tmp_path / "run")]) == 0
    written = read_data(tmp_path / "run" / "config.yaml")
    assert written is not None
    assert (written.name, written.root) == ("streets", streets_root)


def test_losses_of_every_kind_train(streets_root: Path, tmp_path: Path) -> None:
    """Named in a file, as users do, with class weights from the data."""
    config = tmp_path / "losses.yaml"
    config.write_text(
        """
model:
  loss:
    - {name: cross_entropy, class_weights: data, label_smoothing: 0.1}
    - {name: ohem, class_weights: data, min_kept: 100}
    - {name: dice, weight: 0.5}
    - {name: lovasz}
    - {name: focal, gamma: 1.5}
"""
    )
    more = ["--config", str(config), "--trainer.log_every_n_steps", "1"]
    assert fit(arguments(streets_root, tmp_path / "run", *more)) == 0
    with (tmp_path / "run" / "metrics.csv").open() as file:
        row = next(csv.DictReader(file))
    names = ["loss", "cross_entropy", "ohem", "dice", "lovasz", "focal"]
    total, *terms = (float(row[f"train/{name}"]) for name in names)
    factors = (1, 1, 0.5, 1, 1)
    assert total == pytest.approx(sum(f * t for f, t in zip(factors, terms, strict=True)), rel=1e-5)


def test_a_loss_that_is_not_finite_stops_and_names_the_batch(
    streets_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The checkpoint of before stays."""
    huge = ["--model.optimizer", "SGD", "--model.optimizer.lr", "1e30"]
    huge += ["--model.schedule.warmup_steps", "0", "--checkpoint_every", "1"]
    assert fit(arguments(streets_root, tmp_path / "run", *huge, "--trainer.max_epochs", "9")) == 2
    error = capsys.readouterr().err
    assert "not finite" in error or "the loss is nan" in error
    stems = [path.name for path in (streets_root / "gtFine" / "train").glob("*/*labelIds.png")]
    assert any(stem.removesuffix("_gtFine_labelIds.png") in error for stem in stems)
    assert "Traceback" not in error
    for path in (tmp_path / "run").glob("checkpoints/*"):  # of before, if there was a before
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in state.values())
