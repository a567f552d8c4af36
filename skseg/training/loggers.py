"""Where a run's numbers go: `metrics.csv` and Weights & Biases."""

import csv
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import wandb
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only

from skseg.files import whole_file

_RUN_FOLDER = re.compile(r"(?:offline-)?run-(\d+_\d+)-(.+)")  # W&B's: time and id of the run


@dataclass
class Tracking:
    """Settings of Weights & Biases.

    Args:
        enabled: Record the run there. Without an API key, or with WANDB_MODE=offline, the record
            stays in the run folder and can be uploaded later.
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
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self._keys).writerow(row)

    def _kept_rows(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        with self.path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            # A killed process may leave half a line at the end.
            rows = [row for row in reader if None not in row.values()]
        if self._keys is None:
            rows = [row for row in rows if int(row["step"]) < self.steps_done]
        return rows

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        assert self._keys is not None
        with whole_file(self.path) as part, part.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self._keys)
            writer.writeheader()
            writer.writerows(rows)


def wandb_loggers(trainer: pl.Trainer) -> list[WandbLogger]:
    """Return the W&B loggers of a trainer."""
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]


def wandb_logger(tracking: Tracking, run_dir: Path) -> WandbLogger:
    """Build the W&B logger of a run folder; it continues the W&B run that the folder has."""
    offline = _wandb_is_offline()
    if offline:
        rank_zero_info(
            f"W&B is offline (no API key): upload later with "
            f"`wandb sync {run_dir}/wandb/offline-run-*`"
        )
    # W&B would keep files to upload in the user's home; a run folder must hold all of a run.
    os.environ.setdefault("WANDB_DATA_DIR", str((run_dir / "wandb").resolve()))
    folders = [_RUN_FOLDER.fullmatch(path.name) for path in (run_dir / "wandb").glob("*run-*")]
    earlier = sorted(found.groups() for found in folders if found)
    logger = WandbLogger(
        name=tracking.name or run_dir.name,
        project=tracking.project,
        tags=tracking.tags,
        save_dir=run_dir,
        id=earlier[-1][1] if earlier else None,
        mode="offline" if offline else None,
        settings=wandb.Settings(silent=offline),
    )
    logger._wandb_init.pop("anonymous", None)  # Lightning sets it, and W&B warns about it
    if offline or wandb.setup().settings.mode == "offline":
        logger._wandb_init.pop("resume", None)  # W&B warns that only the upload resumes
    return logger


def _wandb_is_offline() -> bool:
    """Whether W&B must be offline: the user chose that, or chose nothing and has no API key."""
    settings = wandb.setup().settings
    if settings.mode in ("offline", "disabled"):
        return bool(settings.mode == "offline")
    has_key: bool = wandb.login(prompt=False)
    return not has_key
