"""Options that change how a run optimizes: frozen parts, an auxiliary head, averaged weights."""

import csv
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytorch_lightning as pl
import timm
import torch
from small_fit import callback, small_fit

import skseg
from skseg.commands.fit import main as fit
from skseg.data import SegmentationDataset, eval_transform, get_dataset
from skseg.errors import UserError
from skseg.nn.attention import FuseRunningNorm
from skseg.training.sync_norm import TimmSyncBatchNorm
from skseg.training.task import SegmentationTask

CLASSES = {
    "class_names": ["a", "b"],
    "colors": [(255, 0, 0), (0, 255, 0)],
    "mean": (0.5, 0.5, 0.5),
    "std": (0.2, 0.2, 0.2),
}


class KeepSteps(pl.Callback):
    """Keep the model's own weights after each optimizer step."""

    steps: ClassVar[list[dict[str, torch.Tensor]]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, task: SegmentationTask, *_: Any) -> None:
        self.steps.append({k: v.detach().clone() for k, v in task.model.named_parameters()})


class StoppedError(Exception):
    pass


class StopAfter(pl.Callback):
    """Raise an error after an optimizer step, before its checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise StoppedError


def state(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("freeze", [None, "encoder", "encoder_norms"])
def test_what_is_frozen_stays(freeze: str | None, streets_root: Path, tmp_path: Path) -> None:
    more = [] if freeze is None else ["--model.freeze", freeze]
    assert fit(small_fit(streets_root, tmp_path / "run", *more)) == 0
    torch.manual_seed(0)
    fit(small_fit(streets_root, tmp_path / "start", *more, "--trainer.max_steps", "1",
                  "--model.optimizer.lr", "0"))  # fmt: skip
    before, after = state(tmp_path / "start"), state(tmp_path / "run")
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    encoder = skseg.build_model("fpn", "sknet_tiny").encoder
    norms = {
        f"model.encoder.{name}.{key}"
        for name, module in encoder.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.GroupNorm | torch.nn.LayerNorm)
        for key in module.state_dict()
    }
    inside = {name for name in changed if name.startswith("model.encoder.")}
    assert any(name.startswith("model.decoder.") for name in changed)
    assert bool(inside) == (freeze != "encoder")
    assert bool(inside & norms) == (freeze is None)


def test_the_auxiliary_head_trains_and_is_not_in_the_model(
    streets_root: Path, tmp_path: Path
) -> None:
    more = ["--model.auxiliary_weight", "0.4", "--trainer.log_every_n_steps", "1"]
    assert fit(small_fit(streets_root, tmp_path / "run", *more)) == 0
    with (tmp_path / "run" / "metrics.csv").open() as file:
        row = next(csv.DictReader(file))
    parts = [float(row[f"train/{name}"]) for name in ("loss", "cross_entropy", "auxiliary")]
    assert parts[0] == pytest.approx(parts[1] + 0.4 * parts[2], rel=1e-5)
    names = state(tmp_path / "run").keys()
    assert any(name.startswith("auxiliary.") for name in names)
    task = skseg.load_model(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert not any("auxiliary" in name for name in task.state_dict())


@pytest.mark.parametrize("size", [(64, 64), (50, 70)])
@pytest.mark.parametrize("arch", ["fpn", "deeplabv3plus", "segformer"])
def test_auxiliary_logits_have_the_images_size(arch: str, size: tuple[int, int]) -> None:
    task = SegmentationTask(**CLASSES, arch=arch, encoder_name="sknet_tiny", auxiliary_weight=0.4)
    main, auxiliary = task._both_logits(torch.randn(2, 3, *size))
    assert main.shape == auxiliary.shape == (2, 2, *size)
    auxiliary.sum().backward()
    assert task.model.encoder.layer3[0].conv1.weight.grad is not None
    assert task.model.encoder.layer4[0].conv1.weight.grad is None


def test_an_auxiliary_head_wants_a_stride_of_16() -> None:
    with pytest.raises(UserError, match="`encoder_depth` must be at least 4, got 3"):
        SegmentationTask(**CLASSES, arch="unet", encoder_name="sknet_tiny", encoder_depth=3,
                         auxiliary_weight=0.4)  # fmt: skip


def test_averaged_weights_are_those_validated_and_saved(streets_root: Path, tmp_path: Path) -> None:
    """An average computed by hand after each step, and the score of the saved weights."""
    KeepSteps.steps.clear()
    more = ["--ema", "0.9", "--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "1"]
    more += callback("test_optimization.KeepSteps")
    assert fit(small_fit(streets_root, tmp_path / "run", *more)) == 0
    average = KeepSteps.steps[0]
    for step in KeepSteps.steps[1:]:
        average = {k: 0.9 * average[k] + 0.1 * step[k] for k in average}
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["skseg"]["weights"] == "averaged"
    for name, value in average.items():
        torch.testing.assert_close(checkpoint["state_dict"][f"model.{name}"], value)
    with (tmp_path / "run" / "metrics.csv").open() as file:
        logged = float([row["val/loss"] for row in csv.DictReader(file) if row["val/loss"]][-1])
    task = skseg.load_model(path)
    total = pixels = 0.0
    data = SegmentationDataset(
        get_dataset("streets"), streets_root, "val", eval_transform(task.mean, task.std)
    )
    for sample in data:
        with torch.inference_mode():
            logits = task(sample["image"][None])
        loss = torch.nn.functional.cross_entropy(
            logits, sample["mask"][None], ignore_index=255, reduction="sum"
        )
        total, pixels = total + loss.item(), pixels + (sample["mask"] != 255).sum().item()
    assert logged == pytest.approx(total / pixels, rel=1e-5)


def test_averaging_goes_on_where_it_was(streets_root: Path, tmp_path: Path) -> None:
    more = ["--ema", "0.9", "--checkpoint_every", "1", "--trainer.max_epochs", "3"]
    assert fit(small_fit(streets_root, tmp_path / "whole", *more)) == 0

    args = small_fit(streets_root, tmp_path / "run", *more)
    with pytest.raises(StoppedError):
        fit([*args, *callback("test_optimization.StopAfter", step=3)])
    assert fit([*args, "--ckpt_path", "last"]) == 0
    whole, resumed = state(tmp_path / "whole"), state(tmp_path / "run")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_sync_batch_norm_keeps_timms_activations() -> None:
    """Structure alone: SyncBatchNorm refuses tensors on the CPU."""
    model = timm.create_model("efficientnet_lite0", num_classes=3)
    before = {n: m.act for n, m in model.named_modules() if type(m).__name__ == "BatchNormAct2d"}
    assert before
    converted = dict(TimmSyncBatchNorm().apply(model).named_modules())
    for name, activation in before.items():
        assert isinstance(converted[name], torch.nn.SyncBatchNorm)
        assert type(converted[name].act) is type(activation)


def test_sync_batch_norm_leaves_the_running_norm_of_attention() -> None:
    unit = skseg.SKConv2d(8, fuse_norm="running")
    converted = TimmSyncBatchNorm().apply(unit)
    assert isinstance(converted.attn.bn, FuseRunningNorm)
    assert isinstance(converted.paths[0].bn, torch.nn.SyncBatchNorm)
