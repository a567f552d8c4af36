"""A fit that kills its own process at a chosen moment: run by tests in processes of their own."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from skseg.commands.fit import main as fit
from skseg.training import checkpoints
from skseg.training.tracking import SavePredictions


def after_step(step: int, sent: signal.Signals) -> None:
    """Send a signal when the batch after an optimizer step, of all steps of a run, begins."""

    def on_train_batch_start(self, trainer, *_) -> None:
        if trainer.global_step == step:
            os.kill(os.getpid(), sent)

    SavePredictions.on_train_batch_start = on_train_batch_start


def before(step: int) -> None:
    """Be killed when a step is to begin."""
    after_step(step, signal.SIGKILL)


def sigterm_before(step: int) -> None:
    """Be told to end when a step is to begin."""
    after_step(step, signal.SIGTERM)


def writing(count: int) -> None:
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


def run(arguments: list[str], output: Path, prepare: Callable[[int], None] | None, at: int) -> None:
    """Fit, with all that is printed in a file."""
    with output.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["fit.py"]
    if prepare is not None:
        prepare(at)
    raise SystemExit(fit(arguments))
