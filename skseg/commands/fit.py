"""`skseg fit`: train a segmentation model."""

import functools
import logging
import operator
import sys
import warnings
from argparse import _ArgumentGroup, _HelpAction
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import pytorch_lightning as pl
from jsonargparse import ActionConfigFile
from jsonargparse.typing import NonNegativeInt, OpenUnitInterval, PositiveInt
from pytorch_lightning.callbacks import EMAWeightAveraging
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from rich.console import Console

from skseg.commands.limits import check_batch, check_flags, check_limits
from skseg.commands.parser import CommandParser, HelpFormatter, describe, exit_code
from skseg.commands.runs import DUMP_HEADER, claimed, find_run, is_main_process
from skseg.data import SegmentationDataModule
from skseg.data.class_weights import inverse_log_weights
from skseg.errors import UserError
from skseg.metrics import pixel_record
from skseg.metrics.tables import iou_table
from skseg.training.checkpoints import AtomicCheckpointIO
from skseg.training.loggers import MetricsLogger, Tracking, wandb_logger, wandb_loggers
from skseg.training.resuming import check_resumable, read_resume_point
from skseg.training.saving import FinishedEpochs, RunCheckpoint
from skseg.training.steps import SeedSteps
from skseg.training.stopping import StopSignals
from skseg.training.sync_norm import TimmSyncBatchNorm
from skseg.training.task import SegmentationTask
from skseg.training.tracking import LogAttention, LogTables, SavePredictions


class FitParser(CommandParser, LightningArgumentParser):
    """LightningCLI's parser with two help pages: the project's own flags, and the Trainer's."""

    shows_trainer = False

    def format_help(self, formatter: Any = None) -> str:
        """Return the help page."""
        groups, description = self._action_groups, self.description
        try:
            if self.shows_trainer:
                self.description = "Flags of Lightning's Trainer."
                self._action_groups = [group for group in groups if _part(group) == "trainer"]
            else:
                shown = [group for group in groups if _part(group) in _SHOWN]
                self._action_groups = sorted(shown, key=lambda group: _SHOWN.index(_part(group)))
            return super().format_help()
        finally:
            self._action_groups, self.description = groups, description


_SHOWN = ("run_dir", "data", "model", "wandb")  # parts of the configuration on the help page


def _part(group: _ArgumentGroup) -> str:
    """Return the part of the configuration that a group of flags belongs to."""
    flags = [flag for action in group._group_actions for flag in action.option_strings]
    names = [flag.removeprefix("--").split(".")[0] for flag in flags if flag.startswith("--")]
    return next((name for name in ("trainer", *_SHOWN) if name in names), "")


class _TrainerHelp(_HelpAction):
    """Prints the help page of the Trainer's flags."""

    def __call__(self, parser: Any, *args: Any, **kwargs: Any) -> None:
        """Print the page and exit."""
        parser.shows_trainer = True
        parser.print_help()
        parser.exit()


class SegmentationCLI(LightningCLI):
    """LightningCLI with a run folder that holds all of a run.

    A run folder has `config.yaml`, `metrics.csv`, `checkpoints/`, `pictures/` and, with tracking
    on, `wandb/`.
    """

    def __init__(self, parser: FitParser, args: list[str] | None, context: ExitStack) -> None:
        """Parse the command line and build model, data and trainer.

        Args:
            parser: A new parser, to which all flags are added.
            args: The arguments; those of this process when None.
            context: Keeps the run's folder for this run while it is open.

        Raises:
            UserError: A value cannot be used.
        """
        self._own_parser = parser
        self._context = context
        self.stop = StopSignals()
        super().__init__(
            SegmentationTask,
            SegmentationDataModule,
            args=args,
            run=False,
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            seed_everything_default=0,
            trainer_defaults={"use_distributed_sampler": False, "max_epochs": 10},
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Return the parser with the flags that come before all others."""
        parser = self._own_parser
        parser.add_argument(
            "--help.trainer", action=_TrainerHelp, help="Show the flags of Lightning's Trainer."
        )
        parser.add_argument(
            *("-c", "--config"), action=ActionConfigFile, help="File of a configuration in YAML."
        )
        return parser

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the flags of trainer, model and data.

        Where the Trainer accepts a count or a share, as in `limit_train_batches`, the order of the
        types decides whether 1 is one batch or all of them. `typing` caches Union[int, float] and
        Union[float, int] as one type, so the order depends on which was used first.
        """
        super().add_core_arguments_to_parser(parser)
        actions: list[Any] = list(parser._actions)
        for action in actions:
            hint = getattr(action, "_typehint", None)
            parts = get_args(hint)
            if get_origin(hint) is Union and int in parts and float in parts:
                parts = (int, *(part for part in parts if part is not int))
                action._typehint = functools.reduce(operator.or_, parts)

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add Lightning's flag for the seed."""
        parser.add_argument(
            "--seed_everything",
            type=bool | NonNegativeInt,
            default=self.seed_everything_default,
            help="Seed of the run, 0 or more.",
        )

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
            help="Checkpoint to resume from: a file; 'last' for the latest one of --run_dir or, "
            "without --run_dir, of the latest run of the same config; 'auto' to resume --run_dir "
            "if it has a checkpoint, and to start otherwise.",
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
            help="Decay, above 0 and below 1, of an exponential moving average of the weights. "
            "The average is what is validated and what load_model loads.",
        )
        parser.add_argument("--wandb", type=Tracking, default=Tracking())
        for name in ("class_names", "colors", "mean", "std"):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments; a loss on the command line replaces all terms of the config.

        jsonargparse merges two lists of one length item by item, and replaces others.
        """
        words: list[str] = []
        for word in sys.argv[1:] if args is None else args:
            words += ["--model.loss=null"] if word.split("=")[0] == "--model.loss" else []
            words.append(word)
        super().parse_arguments(parser, words)

    def before_instantiate_classes(self) -> None:
        """Choose the run folder and check the data before anything is built or written."""
        self.full_config = self.config
        stem = Path(str(self.config.config[0])).stem if self.config.get("config") else "fit"
        place = find_run(self.config.run_dir, self.config.ckpt_path, stem)
        self.resumed = read_resume_point(place.checkpoint) if place.checkpoint else None
        self.run_dir = place.folder
        # One for the check alone: that of the run is built together with the network.
        SegmentationDataModule(**self.config.data.clone(with_meta=False).as_dict()).check_files()
        if is_main_process():
            self.run_dir = self._context.enter_context(claimed(place))
            if not place.is_new:  # another run may have used the folder until now
                place = find_run(str(self.run_dir), self.config.ckpt_path, stem)
                self.resumed = read_resume_point(place.checkpoint) if place.checkpoint else None
        if self.resumed:
            # The checkpoint has all weights, and the file of the first ones may be gone.
            self.config = self.full_config.clone()
            self.config.model.encoder_weights = None
            self.config.model.initial_weights = None

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Build the trainer around the run folder."""
        config = self.config_init.trainer
        check_flags(config)
        plugins = [*_as_list(config.plugins), AtomicCheckpointIO()]
        self.pictures = SavePredictions(self.run_dir / "pictures")
        self.last = RunCheckpoint(
            self.run_dir / "checkpoints", self.config_init.checkpoint_every, self.stop
        )
        seed = int(self.config_init.seed_everything)
        own: list[pl.Callback] = [SeedSteps(seed), LogAttention(), self.pictures]
        own += [LogTables(self.last.directory), FinishedEpochs(), self.last]
        if self.config_init.ema is not None:
            own.insert(0, EMAWeightAveraging(decay=self.config_init.ema))
        if config.sync_batchnorm:
            kwargs["sync_batchnorm"] = False  # would drop the activation of timm's norms
            plugins.append(TimmSyncBatchNorm())
        try:
            return super().instantiate_trainer(
                default_root_dir=str(self.run_dir),
                callbacks=[*_as_list(config.callbacks), *own],
                logger=self._loggers(),
                plugins=plugins,
                **kwargs,
            )
        except (MisconfigurationException, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"`trainer`: {reason}") from error

    def _loggers(self) -> list[Logger]:
        steps_done = self.resumed.global_step if self.resumed else 0
        loggers: list[Logger] = [MetricsLogger(self.run_dir / "metrics.csv", steps_done)]
        given, tracking = self.config_init.trainer.logger, self.config_init.wandb
        if tracking.enabled and given is not False and is_main_process():
            loggers.append(wandb_logger(tracking, self.run_dir))
        return [*loggers, *(_as_list(given) if not isinstance(given, bool) else [])]

    def check(self) -> None:
        """Raise UserError for what would stop the run later: nothing is written so far."""
        self.datamodule.trainer = self.trainer  # has the number of devices
        self.datamodule.setup("fit")
        check_limits(self.trainer, self.datamodule)
        check_batch(self.model, self.datamodule.batch_size // self.trainer.world_size)
        optimizer, _ = self.model.build_optimizer(total_steps=1)
        if self.resumed:
            check_resumable(self.resumed, self.model, self.trainer, self.datamodule, optimizer)

    def save_config(self) -> None:
        """Write the full configuration to the run folder and to the loggers."""
        self.parser.save(
            self.full_config, self.run_dir / "config.yaml", overwrite=True, multifile=False
        )
        for logger in wandb_loggers(self.trainer):
            logger.log_hyperparams(self.full_config.clone(with_meta=False).as_dict())


# Lightning's warnings about what this project does on purpose.
_WARNINGS = (
    ".*does not have many workers.*",  # data.num_workers is the user's
    ".*is smaller than the logging interval.*",  # short runs log every epoch anyway
    ".*module.s. in eval mode at the start of training.*",  # frozen ones are
    ".*your dataloader is not resumable.*",  # the datamodule is
    ".*It is recommended to use `self.log.*sync_dist=True.*",  # all processes log the same
    ".*isinstance.treespec, LeafSpec.*",  # Lightning's own use of torch
    ".*LightningCLI's args parameter is intended.*",  # which is what `skseg fit` does
)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless cloud" not in record.getMessage()


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code.

    Args:
        args: The arguments; those of this process when None.
    """
    parser = _parser()
    arguments = None if args is None else list(args)
    with ExitStack() as context:
        return exit_code(parser, lambda: fit(SegmentationCLI(parser, arguments, context)))


def train(arguments: Sequence[str]) -> dict[str, float]:
    """Train as `skseg fit` does, from Python, in any thread.

    Args:
        arguments: The command's arguments, such as ["--config", "configs/streets.yaml"].

    Returns:
        The scores of the last validation of this call by name, such as `val/miou`; empty if there
        was none.

    Raises:
        UserError: A value cannot be used.
        SystemExit: The arguments cannot be parsed; the reason is printed.
    """
    with ExitStack() as context:
        cli = SegmentationCLI(_parser(), list(arguments), context)
        fit(cli)
    values = cli.trainer.callback_metrics
    return {name: float(value) for name, value in values.items() if name.startswith("val/")}


def _parser() -> FitParser:
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_is_no_advertisement)
    return FitParser(
        prog="skseg fit",
        description=describe(fit),
        usage="%(prog)s --config FILE [--FLAG VALUE ...]",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
        dump_header=[f"{DUMP_HEADER}{pl.__version__}"],  # of config.yaml, as LightningCLI's
    )


def fit(cli: SegmentationCLI) -> int:
    """Train a segmentation model.

    A run's folder holds its configuration, metrics, checkpoints and pictures. Every value of a
    config file is a flag here. `--help.trainer` lists the flags of Lightning's Trainer, such as
    `--trainer.max_epochs`.

    Examples:
        skseg fit --config configs/streets.yaml --run_dir runs/demo
        skseg fit --config configs/streets.yaml --run_dir runs/demo --ckpt_path auto

    Args:
        cli: The parsed command line, with model, data and trainer built.
    """
    cli.check()
    if cli.model.criterion.needs_class_weights:
        weights = inverse_log_weights(cli.datamodule.train_counts())
        cli.model.criterion.set_class_weights(weights)
    if is_main_process():
        cli.save_config()
        if cli.model.conversion is not None:
            print(cli.model.conversion)
        if cli.model.unfitting:
            names = ", ".join(cli.model.unfitting)
            print(f"initial_weights: nothing fits these, which start from random values: {names}")
    ckpt_path = cli.resumed.path if cli.resumed else None
    with cli.stop.handled():
        cli.trainer.fit(
            cli.model, datamodule=cli.datamodule, ckpt_path=ckpt_path, weights_only=True
        )
    if cli.trainer.is_global_zero:
        _print_end(cli)
    return 0


def _print_end(cli: SegmentationCLI) -> None:
    console = Console(markup=False, emoji=False)  # paths and names are only text
    confusion = cli.model.last_confusion
    if confusion is not None and cli.last.validated is not None:
        record = pixel_record(confusion, cli.model.class_names)
        weights = "averaged" if cli.config_init.ema is not None else "trained"
        epoch, step = cli.last.validated
        title = f"{cli.datamodule.eval_split}, {weights} weights, step {step} (epoch {epoch})"
        console.print(iou_table(record, title))
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
