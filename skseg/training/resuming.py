"""What a run that is resumed must have in common with the checkpoint, and what may change.

Rates, weight decay, schedule, loss, augmentation, precision, devices and the total length are those
of the new configuration. What the position in the run or the optimizer's state depends on must be
as in the checkpoint: a change is refused before anything is written.
"""

from typing import Any, NamedTuple

import pytorch_lightning as pl
from pytorch_lightning.callbacks import WeightAveraging
from torch.optim import Optimizer

from skseg.errors import UserError
from skseg.training.checkpoints import read_checkpoint
from skseg.training.task import SegmentationTask


class ResumePoint(NamedTuple):
    """What is read from a checkpoint before a run is resumed; Lightning reads the rest itself.

    Attributes:
        path: The checkpoint's file.
        global_step: Optimizer steps done.
        epochs: Epochs done.
        spec: The network, see `SegmentationTask.spec`.
        facts: See `facts_of`; empty in checkpoints of earlier versions.
        groups: The optimizer's groups: the number of parameters by name.
        has_average: Whether it has averaged weights beside the trained ones.
    """

    path: str
    global_step: int
    epochs: int
    spec: dict[str, Any]
    facts: dict[str, Any]
    groups: dict[str, int]
    has_average: bool


def read_resume_point(path: str) -> ResumePoint:
    """Read what must fit a resumed run, and leave the checkpoint's tensors in the file.

    Args:
        path: A checkpoint's file.

    Raises:
        UserError: The file is not a checkpoint of this project, or has no state of a run.
    """
    checkpoint = read_checkpoint(path, mmap=True)
    try:
        epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        groups = checkpoint["optimizer_states"][0]["param_groups"]
        return ResumePoint(
            path,
            checkpoint["global_step"],
            epochs,
            checkpoint["skseg"]["task"],
            checkpoint["callbacks"].get("RunCheckpoint", {}).get("facts", {}),
            {group["name"]: len(group["params"]) for group in groups},
            "averaging_state" in checkpoint,
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise UserError(
            f"`ckpt_path` {path}: has no state of a run to resume ({type(error).__name__}: {error})"
        ) from error


def facts_of(
    trainer: pl.Trainer, data: pl.LightningDataModule | None, optimizer: Optimizer
) -> dict[str, Any]:
    """Return what the position in a run and the optimizer's state depend on.

    Args:
        trainer: The trainer of the run.
        data: Its data, set up.
        optimizer: Its optimizer.
    """
    of_trainer = ("limit_train_batches", "overfit_batches", "accumulate_grad_batches")
    return {
        "data.batch_size": getattr(data, "batch_size", None),
        "training images": len(data.train_set) if data and hasattr(data, "train_set") else None,
        **{f"trainer.{name}": getattr(trainer, name) for name in of_trainer},
        "model.optimizer": type(optimizer).__name__,
    }


def check_resumable(
    point: ResumePoint,
    task: SegmentationTask,
    trainer: pl.Trainer,
    data: pl.LightningDataModule,
    optimizer: Optimizer,
) -> None:
    """Raise if a run cannot be resumed with another configuration.

    Args:
        point: The checkpoint to resume from.
        task: The network of the new configuration.
        trainer: The trainer of the new configuration.
        data: The data of the new configuration, set up.
        optimizer: The optimizer of the new configuration.

    Raises:
        UserError: Something differs; the message has both values.
    """
    facts = facts_of(trainer, data, optimizer)
    groups = {group["name"]: len(group["params"]) for group in optimizer.param_groups}
    averages = any(isinstance(c, WeightAveraging) for c in getattr(trainer, "callbacks", []))
    compared = [
        *((_flag(key), point.spec.get(key), value) for key, value in task.spec.items()),
        *((_flag(key), point.facts.get(key, value), value) for key, value in facts.items()),
        ("averaging of weights (`ema`)", point.has_average, averages),
    ]
    for what, before, now in compared:
        if before != now:
            raise UserError(
                f"`ckpt_path` {point.path}: {what} is {before!r} in the checkpoint, {now!r} here. "
                "A resumed run cannot change this; start a new run"
            )
    if point.groups != groups:
        raise UserError(
            f"`ckpt_path` {point.path}: the optimizer has other parameters there; restore "
            "`model.freeze`, `model.layer_decay` and `model.auxiliary_weight`, or start a new run "
            "with `model.initial_weights`"
        )
    limits = [
        ("trainer.max_epochs", trainer.max_epochs, point.epochs, "epochs"),
        ("trainer.max_steps", trainer.max_steps, point.global_step, "steps"),
    ]
    for key, limit, done, unit in limits:
        if limit is not None and 0 <= limit < done:
            raise UserError(f"`{key}` is {limit}, but {point.path} has already done {done} {unit}")


def _flag(key: str) -> str:
    """Return the flag in backticks that sets a value, or what the value is."""
    if key in ("class_names", "colors", "mean", "std"):
        return f"`data.{key}`" if key in ("mean", "std") else f"the data set's {key}"
    if " " in key:
        return f"the number of {key}"
    return f"`{key}`" if "." in key else f"`model.{key}`"
