"""A callback that kills one process of a job: used by tests."""

import os
import signal
from typing import Any

import pytorch_lightning as pl


class DieInRank(pl.Callback):
    """Kill a process after the first step.

    Args:
        rank: Which one.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == 1 and trainer.global_rank == self.rank:
            os.kill(os.getpid(), signal.SIGKILL)
