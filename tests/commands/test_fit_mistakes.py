"""Mistakes on the command line of `fit`: one line, exit code 2, and nothing is written."""

import sys
from pathlib import Path

import pytest
from small_fit import small_fit

from skseg.commands.fit import main as fit


@pytest.fixture(autouse=True)
def _own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["fit.py"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model.encoder_name", "sknet5"], "unknown encoder 'sknet5'; did you mean 'sknet50'"),
        (["--model.arch", "unnet"], "unknown architecture 'unnet'; did you mean 'unet'"),
        (["--model.decoder", "{decoder_chanels: 3}"], "fpn has no argument 'decoder_chanels'"),
        (
            ["--model.loss", "[{name: focal, min_kept: 2}]"],
            "`min_kept` is an option of ohem, not of focal",
        ),
        (["--data.name", "street"], "no data set 'street'"),
        (
            ["--model.encoder_name", "sknet_tiny_se", "--model.sk.select", "sum"],
            " with sknet_tiny_se: select='sum' would multiply",
        ),
        (["--data.root", "/nowhere"], "/nowhere is not a directory"),
        (["--data.augmentation", "/nowhere.yaml"], "--data.augmentation /nowhere.yaml: No such"),
        (["--trainer.precision", "16-mixed"], "--trainer.precision 16-mixed is for GPUs"),
        (["--data.batch_size", "99"], "--data.batch_size must be at most 4"),
        (["--data.crop_size", "[0,64]"], "data.crop_size"),
        (["--model.encoder_weights", "imagenet"], "Wrong pretrained weights `imagenet`"),
        (["--model.sk.branches", "[[4]]"], "kernel sizes must be odd and positive, got 4"),
        (["--model.sk.branches", "[[3,1,1,1]]"], "a branch must be (kernel size, dilation"),
        (["--model.sk.reduction", "0"], "reduction must be at least 1, got 0"),
        (["--model.sk.stages", "[3]"], "sk.stages is for encoders that are converted"),
        (
            ["--model.encoder_name", "efficientnet_lite0", "--model.encoder_weights", "imagenet"],
            " [0.4980, 0.4980, 0.4980] and ",
        ),
        (["--ckpt_path", "nothing.ckpt"], "--ckpt_path nothing.ckpt: no such file"),
        (["--ckpt_path", "last"], "--ckpt_path last: no checkpoint at "),
        (["--trainer.enable_checkpointing", "false"], "--trainer.enable_checkpointing False"),
        (
            ["--trainer.default_root_dir", "x"],
            "--trainer.default_root_dir x is not used; set --run",
        ),
        (["--trainer.use_distributed_sampler", "true"], "--trainer.use_distributed_sampler True"),
        (
            ["--trainer.max_epochs", "-1", "--trainer.max_time", "00:00:00:05"],
            "--trainer.max_epochs -1 gives the schedule no number of steps",
        ),
        (["--trainer.limit_train_batches", "0"], "--trainer.limit_train_batches 0"),
        (["--trainer.max_steps", "0"], "--trainer.max_steps 0"),
        (["--trainer.max_epochs", "0"], "--trainer.max_epochs 0"),
        (["--trainer.limit_train_batches", "0.01"], "0.01 of 2 batches is less than one batch"),
        (["--trainer.limit_val_batches", "0.01"], "0.01 of 3 batches is less than one batch"),
        (["--trainer.val_check_interval", "3"], "--trainer.val_check_interval 3 is above the 2"),
        (
            ["--trainer.accumulate_grad_batches", "2", "--trainer.val_check_interval", "1"],
            "--trainer.val_check_interval validates every 1 of 2 batches",
        ),
        (["--trainer.log_every_n_steps", "0"], "--trainer.log_every_n_steps 0 is no interval"),
        (["--trainer.val_check_interval", "0"], "--trainer.val_check_interval 0 is no interval"),
        (["--trainer.check_val_every_n_epoch", "0"], "--trainer.check_val_every_n_epoch 0 is no"),
        (["--trainer.accelerator", "abacus"], "--trainer"),
        (["--trainer.devices", "0"], "--trainer"),
        (["--trainer.max_steps", "-5"], "--trainer"),
        (["--trainer.limit_val_batches", "-1"], "--trainer"),
        (["--model.optimizer.lr", "-1"], "--model.optimizer: Invalid learning rate"),
        (["--model.optimizer.weight_decay", "-1"], "--model.optimizer: Invalid weight_decay"),
        (["--model.decoder_lr_factor", "-1"], "--model.decoder_lr_factor must be at least 0"),
        (["--model.layer_decay", "0"], "--model.layer_decay must be above 0"),
        (["--model.auxiliary_weight", "-1"], "--model.auxiliary_weight must be at least 0"),
        (
            ["--model.schedule.name", "poly", "--model.schedule.power", "-5"],
            "--model.schedule.power must be above 0",
        ),
        (
            ["--model.arch", "deeplabv3", "--model.decoder", "null", "--data.batch_size", "1"],
            "deeplabv3 with sknet_tiny cannot train on a single image",
        ),
        (
            ["--model.schedule.name", "cosine", "--model.schedule.power", "2"],
            " belongs to the schedule poly",
        ),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_mistakes(
    more: list[str], message: str, streets_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert fit(small_fit(streets_root, tmp_path / "run", *more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("key", ["--model.encoder", "--data.crop", "--trainer.max_epoch"])
def test_an_unknown_key_is_named(
    key: str, streets_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as caught:
        fit(small_fit(streets_root, tmp_path / "run", key, "3"))
    assert caught.value.code == 2
    assert key.removeprefix("--") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("fuse_norm", "bach", "'batch', 'running', 'layer', 'none'"),
        ("select", "max", "'attention', 'sum', 'mean'"),
        ("fuse_normm", "batch", "fuse_normm"),
    ],
)
def test_a_wrong_sk_setting_is_named(
    key: str, value: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as caught:
        fit(small_fit(tmp_path, tmp_path / "run", f"--model.sk.{key}", value))
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_an_unknown_key_in_a_config_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("model: {encodr_name: sknet50}\n")
    with pytest.raises(SystemExit):
        fit(["--config", str(config)])
    error = capsys.readouterr().err
    assert "model.encodr_name" in error
    assert "'model.encoder_name'" in error


@pytest.mark.parametrize(
    ("flag", "value", "expected"),
    [
        ("--trainer.max_epochs", "foo", "--trainer.max_epochs: must be int, got foo"),
        ("--data.batch_size", "x", "--data.batch_size: must be int, got x"),
        (
            "--seed_everything",
            "-1",
            "must be bool or a whole number of at least 0",
        ),
        ("--model.mean", "3", "--model.mean is set by --data.mean"),
        ("--data.seed", "3", "--data.seed is set by --seed_everything"),
        ("--checkpoint_every", "x", "--checkpoint_every: must be a whole number above 0, got x"),
        ("--ema", "1", "--ema: must be a number between 0 and 1, got 1"),
        ("--trainer", "3", "--trainer: "),
        ("--model.sk.fuse_norm", "bach", "'batch', 'running', 'layer', 'none', got bach"),
        ("--model.sk", "{stages:9}", "{stages:9}"),
        ("--model.loss", "[{name:foo}]", "'name:foo'"),
    ],
)
def test_a_value_of_a_wrong_type_takes_one_line(
    flag: str, value: str, expected: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as caught:
        fit(["--config", "configs/streets.yaml", flag, value])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {flag}")
    assert error.count("\n") == 1
    assert expected in error
