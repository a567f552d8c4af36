"""Callbacks that make a run exact: checkpoints at any step, seeds by step, rows in order."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.plugins import LayerSync
from pytorch_lightning.utilities import rank_zero_info
from timm.layers import convert_sync_batchnorm
from torch import nn

from skseg.errors import UserError
from skseg.metrics import pixel_record
from skseg.training.task import SegmentationTask
from skseg.types import Batch


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
    """Log losses, learning rates and gradient norm of every `log_every_n_steps`th step as one row.

    At the end of the batch and not, as `self.log` does, after it: a checkpoint made there must
    not miss its step's row. The norm is of all gradients together, before clipping. W&B alone gets
    images per second, waiting for data included and validation not: `metrics.csv` holds what two
    runs have in common.
    """

    def __init__(self) -> None:
        self._logged = 0  # newest step; with accumulation not every batch ends one
        self._grad_norm = 0.0  # of the newest step to be logged
        self._since: float | None = None  # when the first of the counted images was waited for
        self._images = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave out the step of the checkpoint that the run goes on from."""
        self._logged = trainer.global_step

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Measure the gradients, which clipping comes after."""
        if self._is_turn(trainer, trainer.global_step + 1):
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
        """Log if it is the step's turn."""
        if self._since is None:
            self._since = time.perf_counter()  # the first batch also warms up
        else:
            self._images += len(batch["name"]) * trainer.world_size
        step = trainer.global_step
        if step == self._logged or not self._is_turn(trainer, step):
            return
        self._logged = step
        row = {key: float(value) for key, value in outputs["log"].items()}
        row["train/grad_norm"] = self._grad_norm
        for group in trainer.optimizers[0].param_groups:
            row[f"lr/{group['name']}"] = group["lr"]
        row["epoch"] = trainer.current_epoch
        speed = {}
        if self._images:
            now = time.perf_counter()
            speed["train/images_per_second"] = self._images / (now - self._since)
            self._since, self._images = now, 0
        for logger in trainer.loggers:
            own = row | speed if isinstance(logger, WandbLogger) else row
            logger.log_metrics(own, step=step - 1)  # as Lightning counts: from 0

    @staticmethod
    def _is_turn(trainer: pl.Trainer, step: int) -> bool:
        # Lightning sets it by a connector, where type checkers do not see it.
        interval: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        return step % interval == 0

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop counting: validation, and the checkpoint after it, are not training."""
        self._since, self._images = None, 0


class RunCheckpoint(Checkpoint):
    """Keep `last.ckpt`: after every epoch, every n steps, and before the process is taken away.

    And `best.ckpt`, with its evaluation in `best.json`: that of the highest val/miou among the
    validations at an epoch's end, the first of equals.

    It replaces Lightning's ModelCheckpoint, whose file of a step in the middle of an epoch lacks
    that step's metrics and, before a validation, the validation.
    """

    def __init__(self, directory: Path, every_n_steps: int | None) -> None:
        """Take the folder of `last.ckpt` and the optimizer steps between two, None for epochs."""
        self.directory = directory
        self.every_n_steps = every_n_steps
        self._saved = 0  # steps done at the newest checkpoint
        self._validated = -1  # steps done at the newest validation
        self._best = -1.0  # the highest val/miou
        self._terminated = False
        self._starts_an_epoch = False

    @property
    def path(self) -> Path:
        """The newest checkpoint's file."""
        return self.directory / "last.ckpt"

    @property
    def best(self) -> Path:
        """The best checkpoint's file; it is made with the first validation at an epoch's end."""
        return self.directory / "best.ckpt"

    @property
    def evaluation(self) -> Path:
        """The evaluation of the best checkpoint: an evaluation record, and its epoch and step."""
        return self.directory / "best.json"

    def state_dict(self) -> dict[str, Any]:
        """What a run that goes on has to beat."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it over from the checkpoint."""
        self._best = state_dict["best"]

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
        # The best first: killed in between, the run goes on from before it and makes it again.
        self._save_best(trainer, pl_module)
        self._save(trainer, pl_module, [])
        if trainer.strategy.reduce_boolean_decision(self._terminated, all=False):
            self._end(trainer.global_step)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember what the scores are of."""
        if not trainer.sanity_checking:
            self._validated = trainer.global_step

    def _save_best(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, SegmentationTask)
        miou = float(trainer.callback_metrics.get("val/miou", torch.nan))
        if self._validated != trainer.global_step or not miou > self._best:
            return
        self._best = miou
        self._check_weights(trainer, module, [])
        trainer.save_checkpoint(self.best, weights_only=False)
        if trainer.is_global_zero:
            assert module.last_confusion is not None
            place = {"epoch": trainer.current_epoch, "step": trainer.global_step}
            record = {**place, **pixel_record(module.last_confusion, module.class_names)}
            part = self.evaluation.with_name(f".{self.evaluation.name}.part")
            part.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
            part.replace(self.evaluation)

    def _save(self, trainer: pl.Trainer, module: pl.LightningModule, names: list[str]) -> None:
        self._check_weights(trainer, module, names)
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved = trainer.global_step

    def _check_weights(
        self, trainer: pl.Trainer, module: pl.LightningModule, names: list[str]
    ) -> None:
        # A step with a finite loss can still have an infinite gradient.
        if not all(bool(p.isfinite().all()) for p in module.parameters()):
            raise UserError(
                f"the weights are not finite after step {trainer.global_step}"
                f"{', on the images ' + ', '.join(names) if names else ''}; "
                f"{self.path} is of before. Lower the learning rate, or clip gradients "
                "(--trainer.gradient_clip_val)"
            )

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
