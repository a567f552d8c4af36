"""Callbacks that make a run exact: checkpoints at any step, seeds by step, rows in order."""

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.plugins import LayerSync
from pytorch_lightning.utilities import rank_zero_info
from timm.layers import convert_sync_batchnorm
from torch import nn

from skseg.contract import Batch
from skseg.errors import UserError


class SeedSteps(Callback):
    """Seed torch before every training step from (seed, epoch, batch, rank).

    So what a step draws (dropout, stochastic depth) does not depend on what was drawn before it,
    and a run that goes on from any step draws what an uninterrupted one does.
    """

    def __init__(self, seed: int) -> None:
        """Take the run's seed, not negative."""
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """Seed the step."""
        key = (self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))


class LogSteps(Callback):
    """Log the losses and learning rates of every `log_every_n_steps`th step as one row.

    At the end of the batch and not, as `self.log` does, after it: a checkpoint made there must
    not miss its step's row.
    """

    def __init__(self) -> None:
        self._logged = 0  # newest step; with accumulation not every batch ends one

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave out the step of the checkpoint that the run goes on from."""
        self._logged = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Log if it is the step's turn."""
        step = trainer.global_step
        interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if step == self._logged or step % interval:
            return
        self._logged = step
        row = {key: float(value) for key, value in outputs["log"].items()}
        for group in trainer.optimizers[0].param_groups:
            row[f"lr/{group['name']}"] = group["lr"]
        row["epoch"] = trainer.current_epoch
        for logger in trainer.loggers:
            logger.log_metrics(row, step=step - 1)  # as Lightning counts: from 0


class RunCheckpoint(Checkpoint):
    """Keep `last.ckpt`: after every epoch, every n steps, and before the process is taken away.

    It replaces Lightning's ModelCheckpoint, whose file of a step in the middle of an epoch lacks
    that step's metrics and, before a validation, the validation.
    """

    def __init__(self, directory: Path, every_n_steps: int | None) -> None:
        """Take the folder of `last.ckpt` and the optimizer steps between two, None for epochs."""
        self.directory = directory
        self.every_n_steps = every_n_steps
        self._saved = 0  # steps done at the newest checkpoint
        self._terminated = False
        self._starts_an_epoch = False

    @property
    def path(self) -> Path:
        """The newest checkpoint's file."""
        return self.directory / "last.ckpt"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Agree on the folder of process 0."""
        self.directory = trainer.strategy.broadcast(self.directory)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Count an epoch as over whose checkpoint was made at its end.

        With `max_steps` Lightning takes any checkpoint for one of the middle of an epoch, and
        would give that epoch another batch.
        """
        progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
        self._starts_an_epoch = progress["current"]["processed"] == progress["current"]["started"]
        if self._starts_an_epoch:
            for counts in progress.values():
                counts["completed"] = counts["processed"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take SIGTERM over from Lightning, whose handler blocks when several processes get it."""
        if self._starts_an_epoch:
            trainer.fit_loop.epoch_loop.restarting = False
        self._saved = trainer.global_step
        signal.signal(signal.SIGTERM, self._on_sigterm)  # Lightning puts the old one back

    def _on_sigterm(self, *_: object) -> None:
        self._terminated = True

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Save in the middle of an epoch if it is time."""
        steps = trainer.global_step
        # A validation, or the epoch's end, comes first and belongs to what is done; gradients that
        # wait for more batches are in no checkpoint.
        if _is_followed(trainer, batch_idx) or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        terminated = trainer.strategy.reduce_boolean_decision(self._terminated, all=False)
        if terminated or (self.every_n_steps and steps - self._saved >= self.every_n_steps):
            self._save(trainer, pl_module, batch["name"])
        if terminated:
            self._end(steps)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save after the epoch and its validation."""
        self._save(trainer, pl_module, [])
        if trainer.strategy.reduce_boolean_decision(self._terminated, all=False):
            self._end(trainer.global_step)

    def _save(self, trainer: pl.Trainer, module: pl.LightningModule, names: list[str]) -> None:
        # A step with a finite loss can still have an infinite gradient.
        if not all(bool(p.isfinite().all()) for p in module.parameters()):
            raise UserError(
                f"the weights are not finite after step {trainer.global_step}"
                f"{', on the images ' + ', '.join(names) if names else ''}; "
                f"{self.path} is of before. Lower the learning rate, or clip gradients "
                "(--trainer.gradient_clip_val)"
            )
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved = trainer.global_step

    def _end(self, steps: int) -> None:
        rank_zero_info(
            f"SIGTERM: saved {self.path} after step {steps}; go on with --ckpt_path last"
        )
        raise SystemExit(128 + signal.SIGTERM)


class TimmSyncBatchNorm(LayerSync):
    """Batch norms over all processes, by timm's converter.

    torch's, which Lightning uses, makes timm's BatchNormAct2d a norm without its activation.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Convert the batch norms of a model."""
        converted: nn.Module = convert_sync_batchnorm(model)
        return converted

    def revert(self, model: nn.Module) -> nn.Module:
        """Leave them: checkpoints are the same for both kinds, and the process ends here."""
        return model


def _is_followed(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether a validation or the epoch's end follows a batch."""
    if batch_idx + 1 == trainer.num_training_batches:
        return True
    over_epochs = trainer.check_val_every_n_epoch is None
    done = (trainer.fit_loop.total_batch_idx if over_epochs else batch_idx) + 1
    interval: float | None = trainer.val_check_batch  # None where the clock decides
    return interval is not None and done % interval == 0
