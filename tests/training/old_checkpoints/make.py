"""Make checkpoints and expected logits with an earlier version of this project.

The files beside this script come from commit 3135e2a, the last one before the modules moved into
their present folders. Run it only with that commit's code, never with the code under test:

    git worktree add /tmp/old 3135e2a
    cd /tmp/old && python scripts/draw_streets.py --root /tmp/streets --train 8 --val 2
    PYTHONPATH=/tmp/old python make.py /tmp/streets FOLDER

It writes, below FOLDER,

- `plain.ckpt` and `converted.ckpt`: networks trained for 4 steps by the old `scripts/fit.py`, the
  second with SK units from `model.sk: {}`. Both lack `optimizer_states`, which would triple their
  size; all else is as the old code wrote it.
- `expected.json`: for each of them every 8th row and column of its logits on `image()`, and the
  same for an SK encoder with `model.sk` settings whose weights are `drawn_state`'s, because no SK
  encoder is small enough to be stored.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

STEP = 8  # of the stored rows and columns
NATIVE = {
    "class_names": ["road", "car", "person"],
    "colors": [[128, 64, 128], [0, 0, 142], [220, 20, 60]],
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "arch": "fpn",
    "encoder_name": "sknet_tiny",
    "encoder_depth": 4,
    "encoder_output_stride": None,
    "decoder": {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32},
}
NATIVE_SK = {"branches": [[3], [3, 2], [5]], "fuse_norm": "batch", "reduction": 8}


def image() -> Tensor:
    """Return an image, [1, 3, 40, 56] float32, without a random generator."""
    return torch.arange(3 * 40 * 56, dtype=torch.float64).mul(0.37).sin().float().view(1, 3, 40, 56)


def drawn_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights for all floating-point entries of a state, made from their order alone."""
    drawn = {}
    for i, (name, value) in enumerate(sorted(state.items())):
        if value.is_floating_point():
            wave = torch.arange(value.numel(), dtype=torch.float64).add(i).mul(1.7).sin()
            wave = wave.abs().add(0.5) if name.endswith("running_var") else wave.mul(0.1)
            drawn[name] = wave.float().view(value.shape)
        else:
            drawn[name] = value
    return drawn


def sampled(logits: Tensor) -> list:
    """Return every `STEP`th row and column of the first image's logits as plain numbers."""
    return logits.detach()[0, :, ::STEP, ::STEP].tolist()


def train(root: Path, output: Path, run: Path, *more: str) -> None:
    """Train with the old code for 4 steps."""
    command = [sys.executable, "scripts/fit.py", "--config", "configs/streets.yaml"]
    command += ["--run_dir", str(run), "--data.root", str(root), "--wandb.enabled", "false"]
    command += ["--data.crop_size", "[64,64]", "--data.batch_size", "2", "--data.num_workers", "0"]
    command += ["--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1"]
    command += ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    command += ["--model.arch", "unet", "--model.encoder_name", "tu-repghostnet_050"]
    command += ["--model.encoder_depth", "3", "--model.decoder", "{decoder_channels: [16, 8, 8]}"]
    command += ["--model.schedule.warmup_steps", "1", *more]
    subprocess.run(command, check=True)
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    del checkpoint["optimizer_states"]
    torch.save(checkpoint, output)


def main() -> None:
    """Write all files."""
    import skseg
    from skseg.encoders import SKSettings

    root, folder = map(Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    logits = {}
    with tempfile.TemporaryDirectory() as runs:
        for name, more in {"plain": [], "converted": ["--model.sk", "{}"]}.items():
            file = folder / f"{name}.ckpt"
            train(root, file, Path(runs, name), *more)
            logits[name] = sampled(skseg.load_model(file)(image()))
    task = skseg.SegmentationTask(**NATIVE, sk=SKSettings(**NATIVE_SK)).eval()
    spec, names = dict(task.spec), sorted(task.state_dict())
    task.load_state_dict(drawn_state(task.state_dict()))
    logits["native"] = sampled(task(image()))
    expected = {"logits": logits, "native": {"format": 2, "task": spec, "names": names}}
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()
