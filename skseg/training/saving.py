"""When a run saves its checkpoints: after epochs, every n steps, on a signal, and the best one."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from signal import Signals
from typing import Any, NamedTuple, NoReturn

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, Checkpoint, WeightAveraging
from pytorch_lightning.utilities import rank_zero_info
from torch import nn

from skseg.errors import UserError
from skseg.files import whole_file
from skseg.metrics import pixel_record
from skseg.training.resuming import facts_of
from skseg.training.stopping import StopSignals
from skseg.training.task import SegmentationTask, as_task
from skseg.types import Batch


class Validated(NamedTuple):
    """Which weights the latest scores are of.

    Attributes:
        epoch: The epoch, counted from 0 as in `metrics.csv`.
        step: Optimizer steps done.
    """

    epoch: int
    step: int


class RunCheckpoint(Checkpoint):
    """Save `last.ckpt` after every epoch, every n steps, and when a signal ends the run.

    Also save `best.ckpt`, and its scores in `best.json`: the highest val/miou of all validations,
    the first of equals. The last weights of a run are always validated, whatever the interval.

    It replaces Lightning's ModelCheckpoint, whose checkpoint in the middle of an epoch lacks the
    metrics of its step and, before a validation, the validation.

    Args:
        directory: Folder of the checkpoints.
        every_n_steps: Optimizer steps between two `last.ckpt`; only after epochs when None.
        stop: The signals that end the run.
    """

    def __init__(
        self,
        directory: Path,
        every_n_steps: int | None,
        stop: StopSignals,
    ) -> None:
        self.directory = directory
        self.every_n_steps = every_n_steps
        self.validated: Validated | None = None
        self._facts: dict[str, Any] = {}
        self._stop = stop
        self._in_validation = False  # whether a signal stops the run in a validation
        self._saved = 0  # optimizer steps done at the latest checkpoint
        self._best = -1.0  # the highest val/miou so far

    @property
    def path(self) -> Path:
        """The latest checkpoint's file."""
        return self.directory / "last.ckpt"

    @property
    def best(self) -> Path:
        """The best checkpoint's file; the first validation writes it."""
        return self.directory / "best.ckpt"

    @property
    def evaluation(self) -> Path:
        """The file of the best checkpoint's scores, epoch and step."""
        return self.directory / "best.json"

    def state_dict(self) -> dict[str, Any]:
        """Return the score that a resumed run must beat, and the facts that it must share."""
        return {"best": self._best, "facts": self._facts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the score from a checkpoint."""
        self._best = state_dict["best"]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Use the folder of process 0 in all processes."""
        self.directory = trainer.strategy.broadcast(self.directory)

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Handle signals in place of Lightning."""
        self._stop.install()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start counting at the step of the resumed checkpoint."""
        self._saved = trainer.global_step
        self._facts = facts_of(trainer, getattr(trainer, "datamodule", None), trainer.optimizers[0])
        self._stop.install()
        self._validate_last_epoch(trainer)
        if signal := self._stop.arrived(trainer):
            self._end(trainer, signal)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate after the last epoch, whatever the interval."""
        self._validate_last_epoch(trainer)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Save in the middle of an epoch if a checkpoint is due."""
        by_steps = trainer.check_val_every_n_epoch is None
        if trainer.global_step == trainer.max_steps or (
            by_steps and _in_last_epoch(trainer) and _in_last_batch(trainer)
        ):
            trainer.should_stop = True
        if _is_stopping(trainer) and not by_steps:
            trainer.check_val_every_n_epoch = 1  # Lightning validates before it stops
        # A validation or the end of the epoch comes first: it belongs to the steps done. And
        # gradients that accumulate over more batches are in no checkpoint.
        if _is_followed(trainer, batch_idx) or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        signal = self._stop.arrived(trainer)
        steps = trainer.global_step - self._saved
        if signal or (self.every_n_steps and steps >= self.every_n_steps):
            self._save_last(trainer, pl_module, batch["name"])
        if signal:
            self._end(trainer, signal)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save after the epoch and its validation."""
        # The best checkpoint first: a run killed in between resumes before it and saves it again.
        if _in_last_batch(trainer):
            self._save_best(trainer, as_task(pl_module))
        self._save_last(trainer, pl_module, [])
        if signal := self._stop.arrived(trainer):
            self._end(trainer, signal)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop a validation on a signal; the resumed run does all of it again."""
        signal = self._stop.arrived(trainer)
        if signal is None:
            return
        if not trainer.sanity_checking:
            # A resumed run could not do the last validation again, nor accumulate the gradients of
            # the batches before it: finish it, and stop at the next checkpoint.
            if _is_stopping(trainer) or _is_accumulating(trainer):
                return
            _restore_trained_weights(trainer, pl_module)
            self._in_validation = True
            self._save_last(trainer, pl_module, [])
        self._end(trainer, signal)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember which weights the scores are of; save the best within an epoch."""
        if trainer.sanity_checking:
            return
        self.validated = Validated(trainer.current_epoch, trainer.global_step)
        if not _in_last_batch(trainer):
            self._save_best(trainer, as_task(pl_module))

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say in Lightning's counters where a resumed run starts."""
        loop = checkpoint["loops"]["fit_loop"]
        epochs = loop["epoch_progress"]
        if self._in_validation:
            # A resumed run does the validation from its start.
            for counts in loop["epoch_loop.val_loop.batch_progress"].values():
                if isinstance(counts, dict):
                    counts |= {"ready": 1, "started": 1, "processed": 0, "completed": 0}
        elif _is_finished(epochs) and not _in_last_batch(trainer):
            # Stopped by a limit within the epoch, which Lightning counts as done.
            for counts in epochs.values():
                counts["processed"] -= 1

    @staticmethod
    def _validate_last_epoch(trainer: pl.Trainer) -> None:
        if trainer.check_val_every_n_epoch and _in_last_epoch(trainer):
            trainer.check_val_every_n_epoch = 1

    def _save_best(self, trainer: pl.Trainer, task: SegmentationTask) -> None:
        if self.validated is None or self.validated.step != trainer.global_step:
            return
        assert task.last_confusion is not None
        record = pixel_record(task.last_confusion, task.class_names)
        miou = record["miou"]
        if miou is None or not miou > self._best:
            return
        self._best = miou
        _check_weights(task, trainer.global_step, [], self.path)
        trainer.save_checkpoint(self.best, weights_only=False)
        if trainer.is_global_zero:
            place = {"epoch": trainer.current_epoch, "step": trainer.global_step}
            with whole_file(self.evaluation) as part:
                text = json.dumps({**place, **record}, indent=1, allow_nan=False)
                part.write_text(text + "\n", encoding="utf-8")

    def _save_last(
        self, trainer: pl.Trainer, module: pl.LightningModule, names: Sequence[str]
    ) -> None:
        _check_weights(module, trainer.global_step, names, self.path)
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved = trainer.global_step

    def _end(self, trainer: pl.Trainer, signal: Signals) -> NoReturn:
        folder = shlex.quote(str(self.directory.parent))
        command = f"skseg fit --config {folder}/config.yaml --run_dir {folder} --ckpt_path auto"
        if trainer.global_step:
            done = f"saved {self.path} after step {trainer.global_step}"
        else:
            done = "stopped before the first step"
        rank_zero_info(f"{signal.name}: {done}; go on with `{command}`")
        raise SystemExit(128 + signal)


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
        self._starts_epoch = _is_finished(progress)
        if self._starts_epoch:
            for counts in progress.values():
                counts["completed"] = counts["processed"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the epoch from its first batch."""
        if self._starts_epoch:
            trainer.fit_loop.epoch_loop.restarting = False


def _check_weights(module: nn.Module, step: int, names: Sequence[str], latest: Path) -> None:
    """Raise UserError if weights are not finite; a finite loss can have an infinite gradient."""
    if not all(bool(p.isfinite().all()) for p in module.parameters()):
        raise UserError(
            f"the weights are not finite after step {step}"
            f"{', on the images ' + ', '.join(names) if names else ''}; "
            f"{latest} was saved before this step. Lower the learning rate, or clip gradients "
            "(`gradient_clip_val`)"
        )


def _is_stopping(trainer: pl.Trainer) -> bool:
    """Whether the run ends after this batch; before `min_epochs` `should_stop` has no effect."""
    loop = trainer.fit_loop
    reached = loop.epoch_loop.global_step == trainer.max_steps
    return trainer.should_stop and (reached or loop._can_stop_early)


def _is_accumulating(trainer: pl.Trainer) -> bool:
    """Whether gradients of earlier batches wait for an optimizer step."""
    done = trainer.fit_loop.batch_idx + 1
    return bool(done % trainer.accumulate_grad_batches) and not _in_last_batch(trainer)


def _is_followed(trainer: pl.Trainer, batch_idx: int) -> bool:
    """Whether a validation or the end of the epoch follows a batch."""
    if batch_idx + 1 == trainer.num_training_batches or _is_stopping(trainer):
        return True
    over_epochs = trainer.check_val_every_n_epoch is None
    done = (trainer.fit_loop.total_batch_idx if over_epochs else batch_idx) + 1
    interval: float | None = trainer.val_check_batch  # None where the clock decides
    return interval is not None and done % interval == 0


def _is_finished(epoch_progress: dict[str, dict[str, int]]) -> bool:
    """Whether Lightning's counters in a checkpoint say that the latest epoch is done."""
    current = epoch_progress["current"]
    return current["processed"] == current["started"]


def _in_last_epoch(trainer: pl.Trainer) -> bool:
    return trainer.current_epoch + 1 == trainer.max_epochs


def _in_last_batch(trainer: pl.Trainer) -> bool:
    """Whether the epoch's last batch has begun."""
    return trainer.fit_loop.batch_idx + 1 >= trainer.num_training_batches


def _restore_trained_weights(trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Undo what averaging does for the time of a validation."""
    for callback in getattr(trainer, "callbacks", []):
        if isinstance(callback, WeightAveraging):
            callback.on_validation_epoch_end(trainer, module)
