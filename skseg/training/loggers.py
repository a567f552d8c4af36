"""Where a run's numbers go: `metrics.csv` and Weights & Biases."""

import csv
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import wandb
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only
from wandb.sdk.lib import RunDisabled
from wandb.sdk.mailbox import MailboxClosedError

from skseg.files import whole_file

_RUN_FOLDER = re.compile(r"(?:offline-)?run-(\d+_\d+)-(.+)")  # W&B's: time and id of the run


@dataclass
class Tracking:
    """Settings of Weights & Biases.

    Args:
        enabled: Record the run there. Without an API key, with WANDB_MODE=offline, or if W&B cannot
            be reached, the record stays in the run folder and can be uploaded later.
        project: Project of the run.
        name: Name of the run; the run folder's when unset.
        tags: Tags of the run.
    """

    enabled: bool = True
    project: str = "skseg"
    name: str | None = None
    tags: list[str] | None = None


class MetricsLogger(Logger):
    """Write each row to `metrics.csv` at once, so that a killed run loses none.

    Lightning's CSVLogger buffers rows, and deletes the file when a run is resumed.

    Args:
        path: The CSV file, created with the first row.
        steps_done: Optimizer steps of the checkpoint that the run resumes from, 0 for a new run.
            Rows of later steps are dropped from the file, because the run logs them again.
    """

    def __init__(self, path: Path, steps_done: int) -> None:
        super().__init__()
        self.path = path
        self.steps_done = steps_done
        self._keys: list[str] | None = None  # the header; None before the first row

    @property
    def name(self) -> str:
        """Lightning's name for the logger."""
        return "csv"

    @property
    def version(self) -> str:
        """Always empty: a run folder has one file, without versions."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: `config.yaml` has the hyperparameters."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row; `step` counts from 0."""
        row = {**metrics, "step": step}
        if self._keys is None or not row.keys() <= set(self._keys):
            rows = self._kept_rows()
            self._keys = sorted({"step", *metrics, *(rows[0] if rows else ())})
            self._rewrite(rows)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self._keys).writerow(row)

    def _kept_rows(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            # A killed process may leave half a line at the end.
            rows = [row for row in reader if None not in row.values()]
        if self._keys is None:
            rows = [row for row in rows if int(row["step"]) < self.steps_done]
        return rows

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        assert self._keys is not None
        with whole_file(self.path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._keys)
            writer.writeheader()
            writer.writerows(rows)


class RunWandbLogger(WandbLogger):
    """Record a run on W&B, and never stop it: what fails is recorded offline or skipped.

    If W&B cannot be started, or its process ends, recording goes on offline. What cannot be
    recorded is skipped. Each such event prints one line.

    Args:
        run_dir: Folder of the run.
        **arguments: Arguments of Lightning's logger.
    """

    def __init__(self, run_dir: Path, **arguments: Any) -> None:
        super().__init__(save_dir=run_dir, **arguments)
        self._wandb_init.pop("anonymous", None)  # Lightning sets it, and W&B warns about it
        self.run_dir = run_dir
        self._hyperparameters: Any = None
        self._said: set[str] = set()

    @property
    def experiment(self) -> Any:
        """The W&B run; it is started when it is first needed."""
        if self._experiment is None:
            try:
                return super().experiment
            except Exception as error:  # W&B raises many kinds of errors
                self.go_offline(_reason(error))
            try:
                return super().experiment
            except Exception as error:
                self._say(f"W&B records nothing of this run ({_reason(error)})")
                self._experiment = RunDisabled()
        return self._experiment

    def go_offline(self, reason: str) -> None:
        """Record what follows in the run folder, under the same id.

        Args:
            reason: Why, for the user.
        """
        runs = shlex.quote(str(self.run_dir / "wandb"))
        self._say(f"W&B is offline ({reason}): upload later with `wandb sync {runs}/*run-*`")
        self._wandb_init |= {"id": self.version, "mode": "offline"}
        self._wandb_init["settings"] = wandb.Settings(silent=True)
        self._wandb_init.pop("resume", None)  # W&B warns that only the upload resumes
        self._experiment = None

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Record the configuration."""
        self._hyperparameters = params
        self._try("the configuration", lambda: WandbLogger.log_hyperparams(self, params))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Record numbers, tables and pictures; `step` counts from 0."""
        media = [key for key, value in metrics.items() if not isinstance(value, float | int)]
        what = ", ".join(media) or "numbers"
        self._try(what, lambda: WandbLogger.log_metrics(self, metrics, step))

    @rank_zero_only
    def log_image(
        self, key: str, images: list[Any], step: int | None = None, **kwargs: Any
    ) -> None:
        """Record pictures."""
        self._try(key, lambda: WandbLogger.log_image(self, key, images, step, **kwargs))

    @rank_zero_only
    def log_best(self, files: Sequence[Path], metadata: Mapping[str, Any]) -> None:
        """Record the best checkpoint as an artifact.

        Args:
            files: The checkpoint, and the file of its scores.
            metadata: The scores.
        """

        def log() -> None:
            name = f"{self.experiment.id}-best"
            artifact = wandb.Artifact(name, type="model", metadata=dict(metadata))
            for file in files:
                # Without a copy in W&B's cache: the run folder holds all of a run.
                artifact.add_file(str(file), policy="immutable")
            self.experiment.log_artifact(artifact, aliases=["best"])

        self._try("the best checkpoint", log)

    def _try(self, what: str, log: Callable[[], None]) -> None:
        """Log; start again offline if W&B's process has ended, and skip what fails then."""
        try:
            try:
                log()
            except (ConnectionError, MailboxClosedError) as error:
                self._restart(f"its process has ended: {_reason(error)}")
                log()
        except Exception as error:  # W&B raises many kinds of errors, and must not stop a run
            self._say(f"W&B: {what} cannot be recorded and is skipped ({_reason(error)})")

    def _restart(self, reason: str) -> None:
        with suppress(Exception):
            wandb.teardown()  # raises for the same reason
        wandb.run = None  # else Lightning would go on with it
        self.go_offline(reason)
        if self._hyperparameters is not None:
            WandbLogger.log_hyperparams(self, self._hyperparameters)

    def _say(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            rank_zero_info(line)


def wandb_loggers(trainer: pl.Trainer) -> list[RunWandbLogger]:
    """Return the W&B loggers of a trainer that belong to its run folder."""
    return [logger for logger in trainer.loggers if isinstance(logger, RunWandbLogger)]


def wandb_logger(tracking: Tracking, run_dir: Path) -> RunWandbLogger:
    """Build the W&B logger of a run folder; it continues the W&B run that the folder has."""
    # W&B would keep files to upload in the user's home; a run folder must hold all of a run.
    _set_default("WANDB_DATA_DIR", str((run_dir / "wandb").resolve()))
    # How long a server that does not answer may hold up the start and the end of a run; W&B waits
    # for 90 seconds and for ever.
    _set_default("WANDB_INIT_TIMEOUT", "30")
    _set_default("WANDB_FINISH_TIMEOUT", "600")
    reason = _offline_reason()  # starts W&B, which reads its variables then
    earlier = sorted(filter(None, map(_recording, (run_dir / "wandb").glob("*run-*"))))
    logger = RunWandbLogger(
        run_dir,
        name=tracking.name or run_dir.name,
        project=tracking.project,
        tags=tracking.tags,
        id=earlier[-1][1] if earlier else None,
        settings=wandb.Settings(),
    )
    if reason is not None:
        logger.go_offline(reason)
    return logger


def _recording(folder: Path) -> tuple[str, str] | None:
    """Return time and id of a recording; its file has the id, to which the folder may add "-1"."""
    found = _RUN_FOLDER.fullmatch(folder.name)
    if found is None:
        return None
    ids = [file.stem.removeprefix("run-") for file in folder.glob("run-*.wandb")]
    return found[1], ids[0] if ids else found[2]


_defaults: dict[str, str] = {}  # set here, and so not the user's


def _set_default(name: str, value: str) -> None:
    """Set a variable that the user has not set; a later run in the same process sets its own."""
    if os.environ.get(name, _defaults.get(name)) == _defaults.get(name):
        os.environ[name] = _defaults[name] = value


def _offline_reason() -> str | None:
    """Return why W&B must be offline; None if it need not be, or is disabled."""
    if wrong := _drop_invalid_variables():
        return f"W&B does not accept that {wrong}"
    mode = wandb.setup().settings.mode
    if mode == "disabled":
        return None
    if mode in ("offline", "dryrun"):
        return f"WANDB_MODE is {mode}"
    try:
        return None if wandb.login(prompt=False) else "no API key"
    except Exception as error:  # W&B raises many kinds of errors
        return _reason(error)


def _drop_invalid_variables() -> str:
    """Remove the variables with which W&B would not start, not even offline; return what they are.

    The environment of this process changes, and not the user's.
    """
    wrong: dict[str, str] = {}
    while True:
        try:
            wandb.setup()
            return ", ".join(f"{name} is {value!r}" for name, value in wrong.items())
        except Exception as error:  # pydantic's and W&B's own
            given = {
                name: value
                for name, value in os.environ.items()
                if name.startswith("WANDB_") and name != "WANDB_API_KEY"  # never shown
            }
            if not given:
                raise
            found = {name: value for name, value in given.items() if value and value in str(error)}
            for name, value in (found or given).items():
                wrong[name] = value
                del os.environ[name]


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
