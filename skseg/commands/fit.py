"""The command line of training: parser, run folder, loggers and the fit itself."""

import logging
import os
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from jsonargparse.typing import OpenUnitInterval, PositiveInt
from pytorch_lightning.callbacks import EMAWeightAveraging
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger
from rich.console import Console

from skseg.data import SegmentationDataModule
from skseg.data.class_weights import inverse_log_weights
from skseg.errors import UserError, exits_on_mistakes
from skseg.metrics import pixel_record
from skseg.metrics.tables import iou_table
from skseg.training.checkpoints import AtomicCheckpointIO, read_checkpoint
from skseg.training.loggers import MetricsLogger, Tracking, wandb_logger, wandb_loggers
from skseg.training.saving import FinishedEpochs, RunCheckpoint
from skseg.training.steps import LogSteps, SeedSteps
from skseg.training.sync_norm import TimmSyncBatchNorm
from skseg.training.task import SegmentationTask
from skseg.training.tracking import LogAttention, LogTables, SavePredictions


class SegmentationCLI(LightningCLI):
    """LightningCLI with a run folder that holds all of a run.

    A run folder has `config.yaml`, `metrics.csv`, `checkpoints/`, `pictures/` and, with tracking
    on, `wandb/`.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's arguments and tie the model to the data."""
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Folder of the run; a new one, runs/CONFIG/TIME, when unset.",
        )
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="Checkpoint to go on from: a file, or 'last' for the newest of --run_dir or, "
            "without one, of the newest run of the same config.",
        )
        parser.add_argument(
            "--checkpoint_every",
            type=PositiveInt | None,
            default=None,
            help="Optimizer steps between checkpoints; only after epochs when unset.",
        )
        parser.add_argument(
            "--ema",
            type=OpenUnitInterval | None,
            default=None,
            help="Decay, above 0 and below 1, of an exponential moving average of the weights, "
            "which is then what is validated, and what a checkpoint's user gets.",
        )
        parser.add_argument("--wandb", type=Tracking, default=Tracking())
        for name in ("class_names", "colors", "mean", "std"):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    def before_instantiate_classes(self) -> None:
        """Settle the run folder before anything is built or written."""
        config = self.config
        stem = Path(str(config.config[0])).stem if config.get("config") else "fit"
        self.run_dir, ckpt_path = find_run(config.run_dir, config.ckpt_path, stem)
        self.checkpoint: dict[str, Any] | None = read_checkpoint(ckpt_path) if ckpt_path else None
        self.ckpt_path = ckpt_path
        # A checkpoint has all weights, so what a run started from may be gone when it goes on.
        self.encoder_weights = config.model.encoder_weights
        if ckpt_path is not None:
            config.model.encoder_weights = None

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Build the trainer around the run folder."""
        config = self.config_init.trainer
        _check_precision(config.precision, config.accelerator)
        plugins = [*_as_list(config.plugins), AtomicCheckpointIO()]
        self.pictures = SavePredictions(self.run_dir / "pictures")
        self.last = RunCheckpoint(self.run_dir / "checkpoints", self.config_init.checkpoint_every)
        seed = int(self.config_init.seed_everything)
        own: list[pl.Callback] = [SeedSteps(seed), LogSteps(), LogAttention(), self.pictures]
        own += [LogTables(self.last.directory), FinishedEpochs(), self.last]
        if self.config_init.ema is not None:
            own.insert(0, EMAWeightAveraging(decay=self.config_init.ema))
        if config.sync_batchnorm:
            kwargs["sync_batchnorm"] = False  # would drop the activation of timm's norms
            plugins.append(TimmSyncBatchNorm())
        return super().instantiate_trainer(
            default_root_dir=str(self.run_dir),
            callbacks=[*_as_list(config.callbacks), *own],
            logger=self._loggers(),
            plugins=plugins,
            **kwargs,
        )

    def _loggers(self) -> list[Logger]:
        steps_done = self.checkpoint["global_step"] if self.checkpoint else 0
        loggers: list[Logger] = [MetricsLogger(self.run_dir / "metrics.csv", steps_done)]
        given, tracking = self.config_init.trainer.logger, self.config_init.wandb
        if tracking.enabled and given is not False and is_main_process():
            loggers.append(wandb_logger(tracking, self.run_dir))
        return [*loggers, *(_as_list(given) if not isinstance(given, bool) else [])]

    def check_resumed_model(self) -> None:
        """Raise UserError where the checkpoint to go on from is of another network."""
        if self.checkpoint is None:
            return
        for key, value in self.model.spec.items():
            before = self.checkpoint["skseg"]["task"].get(key)
            if before != value:
                raise UserError(
                    f"--ckpt_path {self.ckpt_path}: {key} is {before!r} in the checkpoint, "
                    f"{value!r} here"
                )

    def save_config(self) -> None:
        """Write the full configuration to the run folder and to the loggers."""
        try:
            self.run_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"--run_dir {self.run_dir}: cannot be made ({error.strerror})"
            ) from error
        self.config.model.encoder_weights = self.encoder_weights
        self.parser.save(self.config, self.run_dir / "config.yaml", overwrite=True)
        for logger in wandb_loggers(self.trainer):
            logger.log_hyperparams(self.config.clone(with_meta=False).as_dict())


def _check_precision(precision: str | int | None, accelerator: str) -> None:
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    if on_cpu and str(precision).startswith("16"):  # Lightning would take bf16 and say nothing
        raise UserError(
            f"trainer.precision {precision} is for GPUs; on a CPU take bf16-mixed or 32-true"
        )


def find_run(run_dir: str | None, ckpt_path: str | None, stem: str) -> tuple[Path, str | None]:
    """Settle a run's folder and the checkpoint it goes on from.

    Args:
        run_dir: folder that the user named.
        ckpt_path: "last", a checkpoint's file, or None for a run from the start.
        stem: name of the config, the parent of folders that the user did not name.

    Returns:
        The folder and the checkpoint's path, None for a run from the start.

    Raises:
        UserError: there is no such checkpoint, or a new run would land in a used folder.
    """
    if ckpt_path == "last":
        searched = Path(run_dir) if run_dir else Path("runs") / stem
        found = sorted(searched.glob("**/checkpoints/last.ckpt"), key=lambda p: p.stat().st_mtime)
        if not found:
            raise UserError(f"--ckpt_path last: no checkpoint below {searched}")
        return Path(run_dir) if run_dir else found[-1].parents[1], str(found[-1])
    if ckpt_path is not None and not Path(ckpt_path).is_file():
        raise UserError(f"--ckpt_path {ckpt_path}: no such file; give a file, or 'last'")
    path = Path(run_dir) if run_dir else _new_folder(Path("runs") / stem)
    if path.exists() and not path.is_dir():
        raise UserError(f"--run_dir {path}: is a file")
    # The other processes of a job may find what the first one has made already.
    if ckpt_path is None and is_main_process() and path.is_dir() and any(path.iterdir()):
        raise UserError(
            f"--run_dir {path} holds a run already: name another folder, or go on with "
            "--ckpt_path last"
        )
    return path, ckpt_path


def is_main_process() -> bool:
    """Whether this process is the first of its job, as its launcher says in the environment.

    Lightning, torchrun and Slurm set these before Lightning itself knows its ranks.
    """
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID"))
    if rank is not None:
        return int(rank) == 0
    node = os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0"))
    return int(node) == 0 and int(os.environ.get("LOCAL_RANK", "0")) == 0


def _new_folder(parent: Path) -> Path:
    name = datetime.now().strftime("%Y%m%d-%H%M%S")
    path, count = parent / name, 2
    while path.exists():
        path, count = parent / f"{name}-{count}", count + 1
    return path


# Lightning's advice on what this project settles by itself.
_SETTLED = (
    ".*does not have many workers.*",  # data.num_workers is the user's
    ".*is smaller than the logging interval.*",  # short runs log every epoch all the same
    ".*module.s. in eval mode at the start of training.*",  # frozen ones are
    ".*your dataloader is not resumable.*",  # the datamodule is
    ".*It is recommended to use `self.log.*sync_dist=True`.*",  # all processes log the same
    ".*isinstance.treespec, LeafSpec.*",  # Lightning's own use of torch
    ".*LightningCLI's args parameter is intended.*",  # for what it is used by `skseg fit`
)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless cloud" not in record.getMessage()


@exits_on_mistakes
def main(args: list[str] | None = None) -> int:
    """Train as the command line says; return its exit code.

    Args:
        args: arguments; those of the process when None.
    """
    for message in _SETTLED:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_is_no_advertisement)
    cli = SegmentationCLI(
        SegmentationTask,
        SegmentationDataModule,
        args=args,
        run=False,
        save_config_callback=None,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        seed_everything_default=0,
        parser_kwargs={"allow_abbrev": False, "usage": "%(prog)s --config FILE [--KEY VALUE ...]"},
        trainer_defaults={"use_distributed_sampler": False, "max_epochs": 10},
    )
    cli.datamodule.trainer = cli.trainer  # knows the number of devices
    cli.datamodule.setup("fit")  # missing data ends here, before a folder is made
    cli.check_resumed_model()
    if cli.model.criterion.needs_class_weights:
        weights = inverse_log_weights(cli.datamodule.train_counts())
        cli.model.criterion.set_class_weights(weights)
    if is_main_process():
        cli.save_config()
        if cli.model.conversion is not None:
            print(cli.model.conversion)
    cli.trainer.fit(
        cli.model, datamodule=cli.datamodule, ckpt_path=cli.ckpt_path, weights_only=True
    )
    if cli.trainer.is_global_zero:
        _print_end(cli)
    return 0


def _print_end(cli: SegmentationCLI) -> None:
    console = Console()
    confusion = cli.model.last_confusion
    if confusion is not None:
        record = pixel_record(confusion, cli.model.class_names)
        console.print(iou_table(record, f"{cli.datamodule.eval_split}, last epoch"))
    if cli.pictures.last:
        console.print(f"picture    {cli.pictures.last}", soft_wrap=True)
    console.print(f"checkpoint {cli.last.path}", soft_wrap=True)
    if cli.last.best.is_file():
        console.print(f"best       {cli.last.best}", soft_wrap=True)
    console.print(f"run folder {cli.run_dir}", soft_wrap=True)


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]
