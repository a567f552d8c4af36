"""Callbacks that make the steps of a run exact: a seed for each step, and one row of numbers."""

import time
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import WandbLogger

from skseg.types import Batch


class SeedSteps(Callback):
    """Seed torch before every training step from (seed, epoch, batch, rank).

    What a step draws (dropout, stochastic depth) then does not depend on earlier draws, so a run
    that is resumed at any step draws what an uninterrupted run draws.

    Args:
        seed: The run's seed, at least 0.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Seed the step."""
        key = (self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))


class LogSteps(Callback):
    """Log losses, learning rates and gradient norm of every `log_every_n_steps`th step as one row.

    The row is logged at the end of the batch, not after it as with `self.log`: a checkpoint saved
    there must contain the row of its step. The norm is that of all gradients together, before
    clipping. Only W&B gets the images per second, which include waiting for data and exclude
    validation: `metrics.csv` has only what is equal in two equal runs.
    """

    def __init__(self) -> None:
        self._logged = 0  # the latest step; with accumulation not every batch ends a step
        self._grad_norm = 0.0  # of the latest step that is to be logged
        self._since: float | None = None  # when the wait for the first counted image began
        self._images = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Skip the step of the checkpoint that the run resumes from."""
        self._logged = trainer.global_step

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Measure the gradients before they are clipped."""
        if self._is_logged(trainer, trainer.global_step + 1):
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            self._grad_norm = float(torch.nn.utils.get_total_norm(gradients))

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Count the images, and log the step if it is to be logged."""
        if self._since is None:
            self._since = time.perf_counter()  # not counted: the first batch also warms up
        else:
            self._images += outputs["images"] * trainer.world_size
        step = trainer.global_step
        if step == self._logged or not self._is_logged(trainer, step):
            return
        self._logged = step
        row = {key: float(value) for key, value in outputs["log"].items()}
        row["train/grad_norm"] = self._grad_norm
        for group in trainer.optimizers[0].param_groups:
            row[f"lr/{group['name']}"] = group["lr"]
        row["epoch"] = trainer.current_epoch
        with_speed = row | self._take_speed()
        for logger in trainer.loggers:
            # Lightning counts steps from 0.
            logged = with_speed if isinstance(logger, WandbLogger) else row
            logger.log_metrics(logged, step=step - 1)

    def _take_speed(self) -> dict[str, float]:
        """Return the images per second since the last call, empty if no image was counted."""
        if not self._images or self._since is None:
            return {}
        now = time.perf_counter()
        speed = self._images / (now - self._since)
        self._since, self._images = now, 0
        return {"train/images_per_second": speed}

    @staticmethod
    def _is_logged(trainer: pl.Trainer, step: int) -> bool:
        # A connector of Lightning's sets the attribute where type checkers do not see it.
        interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        return step % interval == 0

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop counting: validation, and the checkpoint after it, are not training."""
        self._since, self._images = None, 0
