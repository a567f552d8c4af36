"""The command line of training: parser, run folder, loggers and the fit itself."""

import csv
import logging
import sys
import warnings
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import wandb
from lightning_fabric.loggers.logger import rank_zero_experiment
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_info
from rich.console import Console

from skseg.callbacks import SavePredictions
from skseg.data import SegmentationDataModule
from skseg.errors import UserError
from skseg.metrics import evaluation_record
from skseg.report import iou_table
from skseg.task import SegmentationTask


@dataclass
class Tracking:
    """Weights & Biases.

    Args:
        enabled: whether to record the run there. Without an API key, or with WANDB_MODE=offline,
            it is recorded in the run folder to be synced later.
        project: project of the run.
        name: name of the run; the run folder's when unset.
        tags: tags of the run.
    """

    enabled: bool = True
    project: str = "skseg"
    name: str | None = None
    tags: list[str] | None = None


class MetricsLogger(CSVLogger):
    """Lightning's CSV logger, but a resumed run adds to `metrics.csv` instead of deleting it."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The writer, which starts from the rows that are there."""
        if self._experiment is None:
            path = Path(self.log_dir) / "metrics.csv"
            rows = path.read_text() if path.is_file() else ""
            writer = super().experiment  # deletes the file
            if rows:
                path.write_text(rows)
                writer.metrics_keys = next(csv.reader([rows.splitlines()[0]]))
        return self._experiment


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
        parser.add_argument("--wandb", type=Tracking, default=Tracking())
        for name in ("class_names", "colors", "mean", "std"):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    def before_instantiate_classes(self) -> None:
        """Settle the run folder before anything is built or written."""
        config = self.config
        stem = Path(str(config.config[0])).stem if config.get("config") else "fit"
        self.run_dir, self.ckpt_path = find_run(config.run_dir, config.ckpt_path, stem)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Build the trainer around the run folder."""
        self.pictures = SavePredictions(self.run_dir / "pictures")
        own: list[pl.Callback] = [
            # find_run has seen to it that only a run's own checkpoint is overwritten.
            ModelCheckpoint(
                self.run_dir / "checkpoints",
                filename="last",  # after every epoch
                save_on_train_epoch_end=True,
                enable_version_counter=False,
            ),
            LearningRateMonitor("step"),
            self.pictures,
        ]
        config = self.config_init.trainer
        given = config.callbacks or []
        loggers = self._loggers()
        if isinstance(config.logger, Logger):
            loggers.append(config.logger)
        elif isinstance(config.logger, list):
            loggers.extend(config.logger)
        return super().instantiate_trainer(
            default_root_dir=str(self.run_dir),
            callbacks=[*(given if isinstance(given, list) else [given]), *own],
            logger=loggers,
            **kwargs,
        )

    def _loggers(self) -> list[Logger]:
        loggers: list[Logger] = [MetricsLogger(self.run_dir, name="", version="")]
        tracking: Tracking = self.config_init.wandb
        if tracking.enabled and self.config_init.trainer.logger is not False:
            offline = _wandb_is_offline()
            if offline:
                rank_zero_info(
                    f"W&B is offline (no API key): upload later with "
                    f"`wandb sync {self.run_dir}/wandb/offline-run-*`"
                )
            logger = WandbLogger(
                name=tracking.name or self.run_dir.name,
                project=tracking.project,
                tags=tracking.tags,
                save_dir=self.run_dir,
                mode="offline" if offline else None,
                settings=wandb.Settings(silent=offline),
            )
            logger._wandb_init.pop("anonymous", None)  # W&B warns of what Lightning sets here
            loggers.append(logger)
        return loggers

    def save_config(self) -> None:
        """Write the full configuration to the run folder and to the loggers."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.parser.save(self.config, self.run_dir / "config.yaml", overwrite=True)
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_hyperparams(self.config.clone(with_meta=False).as_dict())


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
        found = sorted(searched.glob("**/checkpoints/*.ckpt"), key=lambda p: p.stat().st_mtime)
        if not found:
            raise UserError(f"--ckpt_path last: no checkpoint below {searched}")
        return Path(run_dir) if run_dir else found[-1].parents[1], str(found[-1])
    if ckpt_path is not None and not Path(ckpt_path).is_file():
        raise UserError(f"--ckpt_path {ckpt_path}: no such file; give a file, or 'last'")
    path = Path(run_dir) if run_dir else _new_folder(Path("runs") / stem)
    if path.exists() and not path.is_dir():
        raise UserError(f"--run_dir {path}: is a file")
    if ckpt_path is None and path.is_dir() and any(path.iterdir()):
        raise UserError(
            f"--run_dir {path} holds a run already: name another folder, or go on with "
            "--ckpt_path last"
        )
    return path, ckpt_path


def _new_folder(parent: Path) -> Path:
    name = datetime.now().strftime("%Y%m%d-%H%M%S")
    path, count = parent / name, 2
    while path.exists():
        path, count = parent / f"{name}-{count}", count + 1
    return path


def _wandb_is_offline() -> bool:
    """Whether W&B has to go offline by itself: nobody chose a mode and there is no API key."""
    settings = wandb.setup().settings
    if settings.mode in ("offline", "disabled"):
        return bool(settings.mode == "offline")
    has_key: bool = wandb.login(prompt=False)
    return not has_key


# Lightning's advice on what this project settles by itself.
_SETTLED = (
    ".*does not have many workers.*",  # data.num_workers is the user's
    ".*is smaller than the logging interval.*",  # short runs log every epoch all the same
    ".*Checkpoint directory .* exists and is not empty.*",  # find_run has checked
    ".*Experiment logs directory .* exists and is not empty.*",
    ".*isinstance.treespec, LeafSpec.*",  # Lightning's own use of torch
)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless cloud" not in record.getMessage()


def fit(args: list[str] | None = None) -> int:
    """Train as the command line says; return its exit code.

    Args:
        args: arguments; those of the process when None.
    """
    for message in _SETTLED:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_is_no_advertisement)
    try:
        cli = SegmentationCLI(
            SegmentationTask,
            SegmentationDataModule,
            args=args,
            run=False,
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            seed_everything_default=0,
            parser_kwargs={"allow_abbrev": False},
            trainer_defaults={"use_distributed_sampler": False, "max_epochs": 10},
        )
        cli.datamodule.setup("fit")  # missing data ends here, before a folder is made
        cli.save_config()
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=cli.ckpt_path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if cli.trainer.is_global_zero:
        _print_end(cli)
    return 0


def _print_end(cli: SegmentationCLI) -> None:
    console = Console()
    confusion = cli.model.last_confusion
    if confusion is not None:
        record = evaluation_record(confusion, cli.model.class_names)
        console.print(iou_table(record, f"{cli.datamodule.eval_split}, last epoch"))
    if cli.pictures.last:
        console.print(f"picture    {cli.pictures.last}", soft_wrap=True)
    console.print(f"checkpoint {cli.run_dir / 'checkpoints' / 'last.ckpt'}", soft_wrap=True)
    console.print(f"run folder {cli.run_dir}", soft_wrap=True)
