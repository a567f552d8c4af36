"""Checkpoint files: written whole or not at all, and read without running any code in them."""

import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from skseg.errors import UserError
from skseg.files import whole_file

CHECKPOINT_FORMAT = 2
"""Version of the `skseg` entry of checkpoints; older versions still load.

Version 2 added `sk`, the settings of the encoder's SK units.
"""


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
        UserError: The file does not exist, is not a checkpoint of this project, or has a later
            format than this version reads.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    try:
        # Of a file that is no checkpoint at all torch would say how to save it for mmap.
        mmap = mmap and zipfile.is_zipfile(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch raises many kinds of errors on arbitrary bytes
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
