"""When a run saves its checkpoints: after epochs, every n steps, on SIGTERM, and the best one."""

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.utilities import rank_zero_info
from torch import nn

from skseg.errors import UserError
from skseg.files import whole_file
from skseg.metrics import pixel_record
from skseg.training.task import SegmentationTask, as_task
from skseg.types import Batch


class RunCheckpoint(Checkpoint):
    """Save `last.ckpt` after every epoch, every n steps, and on SIGTERM.

    Also save `best.ckpt`, and its scores in `best.json`: the highest val/miou among the validations
    at the end of an epoch, the first of equals.

    It replaces Lightning's ModelCheckpoint, whose checkpoint in the middle of an epoch lacks the
    metrics of its step and, before a validation, the validation.

    Args:
        directory: Folder of the checkpoints.
        every_n_steps: Optimizer steps between two `last.ckpt`; only after epochs when None.
    """

    def __init__(self, directory: Path, every_n_steps: int | None) -> None:
        self.directory = directory
        self.every_n_steps = every_n_steps
        self._sigterm = _Sigterm()
        self._saved = 0  # optimizer steps done at the latest checkpoint
        self._validated = -1  # optimizer steps done at the latest validation
        self._best = -1.0  # the highest val/miou so far

    @property
    def path(self) -> Path:
        """The latest checkpoint's file."""
        return self.directory / "last.ckpt"

    @property
    def best(self) -> Path:
        """The best checkpoint's file; the first validation at the end of an epoch writes it."""
        return self.directory / "best.ckpt"

    @property
    def evaluation(self) -> Path:
        """The file of the best checkpoint's scores, epoch and step."""
        return self.directory / "best.json"

    def state_dict(self) -> dict[str, Any]:
        """Return the score that a resumed run must beat."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the score from a checkpoint."""
        self._best = state_dict["best"]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Use the folder of process 0 in all processes."""
        self.directory = trainer.strategy.broadcast(self.directory)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting at the step of the resumed checkpoint, and handle SIGTERM."""
        self._saved = trainer.global_step
        self._sigterm.handle()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Save in the middle of an epoch if a checkpoint is due."""
        # A validation or the end of the epoch comes first: it belongs to the steps done. And
        # gradients that accumulate over more batches are in no checkpoint.
        if _is_followed(trainer, batch_idx) or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        terminated = self._sigterm.arrived(trainer)
        steps = trainer.global_step - self._saved
        if terminated or (self.every_n_steps and steps >= self.every_n_steps):
            self._save_last(trainer, pl_module, batch["name"])
        if terminated:
            self._end(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save after the epoch and its validation."""
        # The best checkpoint first: a run killed in between resumes before it and saves it again.
        self._save_best(trainer, as_task(pl_module))
        self._save_last(trainer, pl_module, [])
        if self._sigterm.arrived(trainer):
            self._end(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember the step that the latest scores belong to."""
        if not trainer.sanity_checking:
            self._validated = trainer.global_step

    def _save_best(self, trainer: pl.Trainer, task: SegmentationTask) -> None:
        miou = float(trainer.callback_metrics.get("val/miou", torch.nan))
        if self._validated != trainer.global_step or not miou > self._best:
            return
        self._best = miou
        _check_weights(task, trainer.global_step, [], self.path)
        trainer.save_checkpoint(self.best, weights_only=False)
        if trainer.is_global_zero:
            assert task.last_confusion is not None
            place = {"epoch": trainer.current_epoch, "step": trainer.global_step}
            record = {**place, **pixel_record(task.last_confusion, task.class_names)}
            with whole_file(self.evaluation) as part:
                part.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")

    def _save_last(
        self, trainer: pl.Trainer, module: pl.LightningModule, names: Sequence[str]
    ) -> None:
        _check_weights(module, trainer.global_step, names, self.path)
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved = trainer.global_step

    def _end(self, trainer: pl.Trainer) -> None:
        rank_zero_info(
            f"SIGTERM: saved {self.path} after step {trainer.global_step}; "
            "resume with --ckpt_path last"
        )
        raise SystemExit(128 + signal.SIGTERM)


class FinishedEpochs(Callback):
    """Count an epoch as finished if the resumed checkpoint was saved at its end.

    With `max_steps` Lightning assumes that every checkpoint was saved in the middle of an epoch,
    and would train that epoch for one more batch.
    """

    def __init__(self) -> None:
        self._starts_epoch = False

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Correct Lightning's counters before they are restored."""
        progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]
        self._starts_epoch = progress["current"]["processed"] == progress["current"]["started"]
        if self._starts_epoch:
            for counts in progress.values():
                counts["completed"] = counts["processed"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch from its first batch."""
        if self._starts_epoch:
            trainer.fit_loop.epoch_loop.restarting = False


class _Sigterm:
    """Remembers that SIGTERM arrived, in place of Lightning's handler.

    Lightning's handler blocks if several processes get the signal.
    """

    def __init__(self) -> None:
        self._arrived = False

    def handle(self) -> None:
        """Install the handler; Lightning restores the previous one after the fit."""
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, *_: object) -> None:
        self._arrived = True

    def arrived(self, trainer: pl.Trainer) -> bool:
        """Whether it arrived in any process; all processes must ask."""
        return trainer.strategy.reduce_boolean_decision(self._arrived, all=False)


def _check_weights(module: nn.Module, step: int, names: Sequence[str], latest: Path) -> None:
    """Raise UserError if weights are not finite; a finite loss can have an infinite gradient."""
    if not all(bool(p.isfinite().all()) for p in module.parameters()):
        raise UserError(
            f"the weights are not finite after step {step}"
            f"{', on the images ' + ', '.join(names) if names else ''}; "
            f"{latest} was saved before this step. Lower the learning rate, or clip gradients "
            "(`gradient_clip_val`)"
        )


def _is_followed(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether a validation or the end of the epoch follows a batch."""
    if batch_idx + 1 == trainer.num_training_batches:
        return True
    over_epochs = trainer.check_val_every_n_epoch is None
    done = (trainer.fit_loop.total_batch_idx if over_epochs else batch_idx) + 1
    interval: float | None = trainer.val_check_batch  # None where the clock decides
    return interval is not None and done % interval == 0
