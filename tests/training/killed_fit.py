"""A fit that kills its own process at a chosen moment: run by tests in processes of their own."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from small_fit import callback

from skseg.commands.fit import main as fit
from skseg.training import checkpoints


class SendSignal(pl.Callback):
    """Send this process a signal when the batch after an optimizer step begins.

    Args:
        after_step: Optimizer steps done, of all steps of the run.
        number: The signal.
        where: "batch"; "validation", the first batch of the validation after the step; or "sanity",
            the validation before the first step.
    """

    def __init__(self, after_step: int, number: int, where: str = "batch") -> None:
        self.after_step = after_step
        self.number = number
        self.where = where

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.where == "batch" and trainer.global_step == self.after_step:
            os.kill(os.getpid(), self.number)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        where = "sanity" if trainer.sanity_checking else "validation"
        if self.where == where and trainer.global_step == self.after_step and batch_idx == 1:
            os.kill(os.getpid(), self.number)


def kill_after(step: int) -> list[str]:
    """Return arguments with which the process is killed after a step."""
    return callback("killed_fit.SendSignal", after_step=step, number=int(signal.SIGKILL))


def stop_after(step: int, number: int = signal.SIGTERM, where: str = "batch") -> list[str]:
    """Return arguments with which the process gets a signal that it handles after a step."""
    return callback("killed_fit.SendSignal", after_step=step, number=int(number), where=where)


def _die_while_writing(count: int) -> None:
    """Be killed when a checkpoint, counted from 1, is half written."""
    written = 0
    save = checkpoints.torch.save

    def save_half(checkpoint, file) -> None:
        nonlocal written
        save(checkpoint, file)
        written += 1
        if written == count:
            file.truncate(file.tell() // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoints.torch.save = save_half


def run(arguments: list[str], output: Path, killed_in_file: int = 0) -> None:
    """Fit, and append all that is printed to a file.

    Args:
        arguments: Arguments of the fit.
        output: The file.
        killed_in_file: Which checkpoint file, counted from 1, the process dies in; 0 for none.
    """
    with output.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["fit.py"]
    if killed_in_file:
        _die_while_writing(killed_in_file)
    raise SystemExit(fit(arguments))
