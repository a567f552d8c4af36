"""Callbacks that save pictures to the run folder and log pictures and tables to W&B."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import wandb
from torch import Tensor

from skseg.metrics import pixel_record
from skseg.metrics.records import PixelScore
from skseg.nn import Unit, attention_units, record_attention
from skseg.pixels import denormalize
from skseg.training.loggers import wandb_loggers
from skseg.training.task import as_task
from skseg.types import VOID, Batch
from skseg.viz import Example, plot_examples, save_figure


class SavePredictions(pl.Callback):
    """Draw image, truth and prediction of a few validation images after each validation.

    The images are evenly spread over the set and the same every time.

    Args:
        directory: Folder of `step_NNNNNNN.png`, named by the optimizer steps done.
        count: Number of images.
    """

    def __init__(self, directory: Path, count: int = 4) -> None:
        self.directory = directory
        self.count = count
        self.samples: list[Example] = []

    @property
    def last(self) -> Path | None:
        """The latest picture, None before the first."""
        return max(self.directory.glob("step_*.png"), default=None)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first image of the batch if the batch is one of the chosen ones."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        batches = int(trainer.num_val_batches[dataloader_idx])
        if batch_idx in np.linspace(0, batches - 1, self.count).astype(int):
            task = as_task(pl_module)
            self.samples.append(
                Example(
                    batch["name"][0],
                    denormalize(batch["image"][0], task.mean, task.std),
                    _indices(batch["mask"][0]),
                    _indices(outputs[0]),
                )
            )

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the picture, and log the images to W&B."""
        if not self.samples:
            return
        task = as_task(pl_module)
        figure = plot_examples(self.samples, task.class_names, task.colors)
        save_figure(figure, self.directory / f"step_{trainer.global_step:07d}.png")
        for logger in wandb_loggers(trainer):
            logger.log_image(
                "val/predictions",
                images=[sample.image for sample in self.samples],
                # Lightning logs an epoch's scores under its last step, counted from 0.
                step=trainer.global_step - 1,
                caption=[sample.name for sample in self.samples],
                masks=[_masks(sample, task.class_names) for sample in self.samples],
            )
        self.samples = []


class LogAttention(pl.Callback):
    """Log the mean attention weight of each branch, by stage, over a validation.

    The keys are `val/attention/STAGE/SPAN`, where the span is the side in pixels of the branch's
    dilated kernel. Branches of a stage with equal spans are added. Networks without SK units log
    nothing, and no network is changed.
    """

    def __init__(self) -> None:
        self._units: list[Unit] = []
        self._open = ExitStack()
        self._recorded: dict[str, Tensor] = {}
        self._total = torch.zeros(0)  # sums by unit and branch, then the number of images

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start recording."""
        model = as_task(pl_module).model
        self._units = attention_units(model)
        self._recorded = self._open.enter_context(record_attention(model))
        size = sum(len(unit.spans) for unit in self._units) + 1
        self._total = torch.zeros(size, dtype=torch.float64)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a batch's attention, unless it only pads the share of this process: all void."""
        if not self._units or (batch["mask"] == VOID).all():
            return
        # [B, M, C] or [B, M, C, h, w]: the mean over channels, and regions, of each image.
        weights = [self._of_batch(unit) for unit in self._units]
        images = torch.full((1,), len(batch["mask"]))
        self._total += torch.cat([*(w.double().cpu() for w in weights), images])

    def _of_batch(self, unit: Unit) -> Tensor:
        """Return a unit's attention [M], summed over the last batch; zeros if it did not run."""
        if unit.name not in self._recorded:  # a shallow encoder does not run its last stages
            return torch.zeros(len(unit.spans))
        return self._recorded[unit.name].flatten(2).mean(2).sum(0)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop recording, and log."""
        self._open.close()
        if not self._units:
            return
        total = trainer.strategy.reduce(self._total.to(pl_module.device), reduce_op="sum")
        assert isinstance(total, Tensor)
        *sums, images = total.tolist()
        if not images:
            return
        by_stage: dict[str, list[float]] = {}
        units_of: dict[str, int] = {}
        spans = iter(sums)
        for unit in self._units:
            stage = unit.stage.removeprefix("encoder.")
            units_of[stage] = units_of.get(stage, 0) + 1
            own: dict[str, float] = {}
            for span in unit.spans:
                key = f"{stage}/{span}"
                own[key] = own.get(key, 0.0) + next(spans) / images
            for key, weight in own.items():
                by_stage.setdefault(key, []).append(weight)
        for key, units in by_stage.items():
            weight = sum(units) / units_of[key.rsplit("/", 1)[0]]
            if weight > 0:  # a stage that ran
                pl_module.log(f"val/attention/{key}", weight)


class LogTables(pl.Callback):
    """Log scores by class, the confusion matrix and the best checkpoint to W&B.

    After each validation: `val/classes`, a table of IoU, precision, recall and F1, and
    `val/confusion`, W&B's chart of a confusion matrix in pixels. At the end of the run: an artifact
    `RUN-best` of type "model", which holds `best.ckpt` and `best.json` and has the scores as
    metadata.

    Args:
        checkpoints: Folder of `best.ckpt` and `best.json`.
    """

    def __init__(self, checkpoints: Path) -> None:
        self.checkpoints = checkpoints

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the tables."""
        task = as_task(pl_module)
        if trainer.sanity_checking or task.last_confusion is None:
            return
        for logger in wandb_loggers(trainer):
            tables = score_tables(task.last_confusion, task.class_names)
            logger.log_metrics(tables, step=trainer.global_step - 1)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the best checkpoint."""
        files = [self.checkpoints / name for name in ("best.ckpt", "best.json")]
        if not all(file.is_file() for file in files):
            return
        record = json.loads(files[1].read_text(encoding="utf-8"))
        record.pop("confusion")  # too long for metadata; the file has it
        for logger in wandb_loggers(trainer):
            logger.log_best(files, record)


def score_tables(confusion: Tensor, class_names: list[str]) -> dict[str, Any]:
    """Return W&B's table of scores by class and its chart of the confusion matrix.

    Args:
        confusion: [K, K] counts, truth by row, prediction by column.
        class_names: K names.
    """
    record = pixel_record(confusion, class_names)
    columns: list[PixelScore] = ["iou", "precision", "recall", "f1"]
    classes = wandb.Table(
        columns=["class", *columns],
        data=[[name, *(record[key][name] for key in columns)] for name in class_names],
    )
    # The fields of W&B's preset; `wandb.plot.confusion_matrix` would need one row per pixel.
    fields = ("Actual", "Predicted", "nPredictions")
    cells = wandb.Table(
        columns=list(fields),
        data=[
            [truth, prediction, record["confusion"][i][j]]
            for i, truth in enumerate(class_names)
            for j, prediction in enumerate(class_names)
        ],
    )
    chart = wandb.plot_table(
        "wandb/confusion_matrix/v1",
        cells,
        {field: field for field in fields},
        {"title": "confusion, pixels"},
    )
    return {"val/classes": classes, "val/confusion": chart}


def _indices(mask: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return mask.cpu().numpy().astype(np.uint8)


def _masks(sample: Example, class_names: list[str]) -> dict[str, Any]:
    labels = {**dict(enumerate(class_names)), VOID: "void"}
    return {
        "prediction": {"mask_data": sample.prediction, "class_labels": labels},
        "truth": {"mask_data": sample.truth, "class_labels": labels},
    }
