"""Checkpoint files: written whole or not at all, and read without running any code in them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from torch import Tensor

from skseg.encoders.weights import check_records, nonfinite_problem
from skseg.errors import UserError
from skseg.files import whole_file

CHECKPOINT_FORMAT = 2
"""Version of the `skseg` entry of checkpoints; older versions still load.

Version 2 added `sk`, the settings of the encoder's SK units.
"""


class WeightsSource(NamedTuple):
    """Where the weights of a loaded network come from.

    Attributes:
        checkpoint: The file.
        weights: "averaged" over the steps of training, or "trained": those of the latest step.
        epoch: The epoch that the file was saved in, counted from 0 as in `metrics.csv`; None if
            the file does not say.
        step: Optimizer steps done; None if the file does not say.
    """

    checkpoint: Path
    weights: str
    epoch: int | None
    step: int | None

    def __str__(self) -> str:
        """Return a few words, for titles.

        Example:
            >>> str(WeightsSource(Path("runs/demo/checkpoints/last.ckpt"), "averaged", 1, 40))
            'averaged weights of last.ckpt, step 40 (epoch 1)'
        """
        place = "" if self.step is None else f", step {self.step} (epoch {self.epoch})"
        return f"{self.weights} weights of {self.checkpoint.name}{place}"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write Lightning's checkpoints such that a killed process leaves the previous file intact.

    Lightning itself writes to the system's temporary folder and moves the file from there. If that
    is another file system, moving means copying, which a kill can interrupt.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint beside `path`, force it to the disk, and move it to `path`.

        Raises:
            UserError: The file cannot be written; the previous file at `path` is unchanged.
        """
        try:
            with whole_file(path) as part, part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError on a full disk
            reason = str(error).splitlines()[0]
            raise UserError(f"checkpoint {path}: cannot be written ({reason})") from error


def read_checkpoint(path: str | Path, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint of `scripts/fit.py` on the CPU; no code in the file runs.

    Args:
        path: The checkpoint's file.
        mmap: Whether tensors stay in the file until they are used.

    Raises:
        UserError: The file does not exist, is damaged, is not a checkpoint of this project, has a
            later format than this version reads, or has weights that are not finite.
    """
    path = Path(path)
    if not path.is_file():
        last = path / "checkpoints" / "last.ckpt"
        what = "is a directory" if path.is_dir() else "no such file"
        what += "; give its checkpoints/last.ckpt" if last.is_file() else ""
        raise UserError(f"checkpoint {path}: {what}")
    try:
        check_records(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # zipfile and torch raise many kinds of errors on arbitrary bytes
        raise UserError(f"checkpoint {path}: cannot be read safely ({_reason(error)})") from error
    entry = checkpoint.get("skseg") if isinstance(checkpoint, dict) else None
    if entry is None:
        raise UserError(f"checkpoint {path}: not written by skseg's fit")
    if problem := _entry_problem(entry) or _state_problem(checkpoint.get("state_dict")):
        raise UserError(f"checkpoint {path}: {problem}")
    return dict(checkpoint)


def _entry_problem(entry: object) -> str | None:
    """Return what is wrong with a checkpoint's entry `skseg`, None if nothing is."""
    if not isinstance(entry, dict) or not isinstance(entry.get("task"), dict):
        return "its entry `skseg` describes no network"
    version = entry.get("format")
    if not isinstance(version, int):
        return f"its entry `skseg` has the format {version!r}, not a number"
    if version > CHECKPOINT_FORMAT:
        return f"format {version}; this version reads up to {CHECKPOINT_FORMAT}"
    return None


def _state_problem(state: object) -> str | None:
    """Return what is wrong with weights by name, None if nothing is."""
    if not isinstance(state, dict) or not state:
        return "holds no weights"
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            return f"its weights have an entry {name!r} that is no tensor"
        if value.is_meta or value.layout is not torch.strided:
            return f"its weight {name!r} has no values"
    return nonfinite_problem(state)


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def weights_source(path: str | Path, checkpoint: Mapping[str, Any]) -> WeightsSource:
    """Return what a checkpoint says of its weights.

    Args:
        path: Its file.
        checkpoint: Its content, see `read_checkpoint`.
    """
    # With averaging there are two sets of weights; `state_dict` has those that are validated.
    weights = "averaged" if "averaging_state" in checkpoint else "trained"
    counts = (checkpoint.get(key) for key in ("epoch", "global_step"))
    epoch, step = (count if isinstance(count, int) else None for count in counts)
    return WeightsSource(Path(path), weights, epoch, step)
