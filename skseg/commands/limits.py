"""Values of the Trainer's flags that `skseg fit` refuses before it writes anything."""

import copy
import math
from typing import Any

import pytorch_lightning as pl
import torch

from skseg.data import SegmentationDataModule
from skseg.errors import UserError
from skseg.training.task import SegmentationTask


def check_flags(config: Any) -> None:
    """Raise UserError for flags that this project settles itself, or that cannot work.

    Args:
        config: The part `trainer` of a configuration.
    """
    on_cpu = config.accelerator == "cpu" or (
        config.accelerator == "auto" and not torch.cuda.is_available()
    )
    no_limit = config.max_epochs == -1 or (config.max_epochs is None and config.max_time)
    rules = [  # name, whether the value is wrong, and why
        (
            "precision",
            on_cpu and str(config.precision).startswith("16"),
            "is for GPUs; on a CPU use bf16-mixed or 32-true",  # Lightning would use bf16 silently
        ),
        (
            "enable_checkpointing",
            config.enable_checkpointing is False,
            "is not supported: a run is resumed and evaluated from its checkpoints",
        ),
        (
            "barebones",
            config.barebones,
            "is not supported: it turns off the logs and checkpoints that a run consists of",
        ),
        ("default_root_dir", config.default_root_dir is not None, "is not used; set `run_dir`"),
        (
            "use_distributed_sampler",
            config.use_distributed_sampler,
            "is not supported: the data set divides the images between the devices itself",
        ),
        ("max_epochs", config.max_epochs == 0, "trains nothing"),
        ("max_steps", config.max_steps == 0, "trains nothing"),
        ("limit_train_batches", config.limit_train_batches == 0, "trains nothing"),
        (
            "max_epochs",
            config.max_steps == -1 and no_limit,
            "gives the schedule no number of steps; set `trainer.max_epochs` or "
            "`trainer.max_steps`. `trainer.max_time` may end the run earlier",
        ),
        (
            "check_val_every_n_epoch",
            config.check_val_every_n_epoch is not None and config.check_val_every_n_epoch < 1,
            "is no interval; set 1 or more, or null to count batches over epochs",
        ),
        (
            "val_check_interval",
            isinstance(config.val_check_interval, int | float) and config.val_check_interval <= 0,
            "is no interval; set a number above 0",
        ),
        (
            "log_every_n_steps",
            config.log_every_n_steps is not None and config.log_every_n_steps < 1,
            "is no interval; set 1 or more",
        ),
    ]
    for name, is_wrong, reason in rules:
        if is_wrong:
            raise UserError(f"`trainer.{name}` {config[name]} {reason}")


def check_limits(trainer: pl.Trainer, data: SegmentationDataModule) -> None:
    """Raise UserError for limits that leave no batch, and intervals of validation that cannot work.

    Args:
        trainer: The trainer, with its number of devices.
        data: The data, set up.
    """
    batches = {
        "limit_train_batches": len(data.train_set) // data.batch_size,
        "limit_val_batches": math.ceil(len(data.eval_set) / trainer.world_size),
    }
    for name, count in batches.items():
        limit = getattr(trainer, name)
        if isinstance(limit, float) and limit > 0 and int(count * limit) == 0:
            raise UserError(f"`trainer.{name}` {limit} of {count} batches is less than one batch")
    limit = trainer.limit_train_batches
    count = batches["limit_train_batches"]
    _check_interval(trainer, min(count, limit) if isinstance(limit, int) else int(count * limit))


def _check_interval(trainer: pl.Trainer, count: int) -> None:
    """Raise UserError if validations come never in an epoch, or between the batches of a step."""
    interval = trainer.val_check_interval
    if not isinstance(interval, int | float):  # a time
        return
    if isinstance(interval, int) and interval > count and trainer.check_val_every_n_epoch:
        raise UserError(
            f"`trainer.val_check_interval` {interval} is above the {count} batches of an epoch; "
            "it counts over epochs if `trainer.check_val_every_n_epoch` is null"
        )
    steps = trainer.accumulate_grad_batches
    every = interval if isinstance(interval, int) else max(1, int(count * interval))
    over_epochs = trainer.check_val_every_n_epoch is None
    if (every < count or over_epochs) and (every % steps or (over_epochs and count % steps)):
        raise UserError(
            f"`trainer.val_check_interval` validates every {every} of {count} batches, between the "
            f"{steps} batches of a step (`trainer.accumulate_grad_batches`); choose a multiple"
        )


def check_batch(task: SegmentationTask, images: int) -> None:
    """Raise UserError where a network cannot train on one image at a time.

    Decoders that pool the whole image normalize over a single value then.

    Args:
        task: The network.
        images: Images of a batch on each device.
    """
    if images > 1:
        return
    twin = copy.deepcopy(task.model).train()  # norms would count the image
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            twin(torch.zeros(1, len(task.mean), 64, 64))
    except ValueError as error:  # of a norm that got a single value for each channel
        raise UserError(
            f"{task.spec['arch']} with {task.spec['encoder_name']} cannot train on a single image "
            f"for each device ({error}); raise `batch_size`"
        ) from error
