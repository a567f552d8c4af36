"""Where a run's numbers go: `metrics.csv` and Weights & Biases."""

import csv
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only

_RUN_FOLDER = re.compile(r"(?:offline-)?run-(\d+_\d+)-(.+)")  # W&B's: time, id of the run


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


class MetricsLogger(Logger):
    """Writes each row to `metrics.csv` at once, so that a killed run has lost none.

    Lightning's CSVLogger keeps rows back and deletes the file of a run that goes on.
    """

    def __init__(self, path: Path, steps_done: int) -> None:
        """Start, or go on with, a file.

        Args:
            path: of the CSV file, made with the first row.
            steps_done: optimizer steps of the checkpoint that the run goes on from, 0 for a new
                run. What the file has of later steps will come again and is dropped.
        """
        super().__init__()
        self.path = path
        self.steps_done = steps_done
        self._keys: list[str] | None = None  # of the header; None before the first row

    @property
    def name(self) -> str:
        """Lightning's name of the logger."""
        return "csv"

    @property
    def version(self) -> str:
        """None: a run folder has one file."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: `config.yaml` has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row; `step` counts from 0."""
        row = {**metrics, "step": step}
        if self._keys is None or not row.keys() <= set(self._keys):
            rows = self._kept_rows()
            self._keys = sorted({"step", *metrics, *(rows[0] if rows else ())})
            self._rewrite(rows)
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._keys).writerow(row)

    def _kept_rows(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="") as file:
            reader = csv.DictReader(file)
            # A killed process may have left half a line at the end.
            rows = [row for row in reader if None not in row.values()]
        if self._keys is None:
            rows = [row for row in rows if int(row["step"]) < self.steps_done]
        return rows

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        assert self._keys is not None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f".{self.path.name}.part")
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._keys)
            writer.writeheader()
            writer.writerows(rows)
        part.replace(self.path)


def wandb_logger(tracking: Tracking, run_dir: Path) -> WandbLogger:
    """Build the W&B logger of a run folder; one that has a W&B run goes on with it."""
    offline = _wandb_is_offline()
    if offline:
        rank_zero_info(
            f"W&B is offline (no API key): upload later with "
            f"`wandb sync {run_dir}/wandb/offline-run-*`"
        )
    # What waits to be uploaded lies in the user's home otherwise; a run folder holds all of a run.
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
    logger._wandb_init.pop("anonymous", None)  # W&B warns of what Lightning sets here
    if offline or wandb.setup().settings.mode == "offline":
        logger._wandb_init.pop("resume", None)  # it warns that the upload will do that
    return logger


def _wandb_is_offline() -> bool:
    """Whether W&B has to go offline by itself: nobody chose a mode and there is no API key."""
    settings = wandb.setup().settings
    if settings.mode in ("offline", "disabled"):
        return bool(settings.mode == "offline")
    has_key: bool = wandb.login(prompt=False)
    return not has_key
