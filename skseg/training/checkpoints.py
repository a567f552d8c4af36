"""Checkpoint files: written whole or not at all, and read without running any code in them."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from skseg.errors import UserError

CHECKPOINT_FORMAT = 2
"""Raised when the `skseg` entry of a checkpoint changes; older ones are still read.

2 added `sk`, the settings of the encoder's SK units.
"""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, but a process killed while writing one leaves the old one.

    Lightning writes to the system's temporary folder and moves the file from there, which copies
    it where that is another file system.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write to a file beside `path` and put it in its place.

        Raises:
            UserError: the file cannot be written; what was at `path` is still there.
        """
        path = Path(path)
        part = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except (OSError, RuntimeError) as error:  # torch turns a full disk into a RuntimeError
            part.unlink(missing_ok=True)
            reason = str(error).splitlines()[0]
            raise UserError(f"checkpoint {path}: cannot be written ({reason})") from error


def read_checkpoint(path: str | Path, mmap: bool = False) -> dict[str, Any]:
    """Read a checkpoint of `scripts/fit.py` on the CPU; no code in the file runs.

    Args:
        path: the checkpoint's file.
        mmap: whether tensors stay in the file until they are used.

    Raises:
        UserError: no such file, not a checkpoint of this project, or of another version.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # whatever the bytes may be, torch raises all kinds of errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"checkpoint {path}: cannot be read safely ({reason})") from error
    record = checkpoint.get("skseg") if isinstance(checkpoint, dict) else None
    if record is None:
        raise UserError(f"checkpoint {path}: not written by skseg's fit")
    if record["format"] > CHECKPOINT_FORMAT:
        raise UserError(
            f"checkpoint {path}: format {record['format']}; this version reads up to "
            f"{CHECKPOINT_FORMAT}"
        )
    return dict(checkpoint)
