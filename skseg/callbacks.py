"""Callbacks that leave something to look at in the run folder and on W&B."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor

from skseg.contract import VOID, Batch
from skseg.report import Sample, plot_samples, to_picture
from skseg.task import SegmentationTask


class SavePredictions(pl.Callback):
    """Draw image, truth and prediction of a few validation images after each epoch.

    The images are spread evenly over the set and the same every time.

    Args:
        directory: where `epoch_NNN.png` go.
        count: how many images.
    """

    def __init__(self, directory: Path, count: int = 4) -> None:
        self.directory = directory
        self.count = count
        self.samples: list[Sample] = []

    @property
    def last(self) -> Path | None:
        """The newest picture, None before the first."""
        return max(self.directory.glob("epoch_*.png"), default=None)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the batch's first image if it is one of the chosen."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        batches = int(trainer.num_val_batches[dataloader_idx])
        if batch_idx in np.linspace(0, batches - 1, self.count).astype(int):
            assert isinstance(pl_module, SegmentationTask)
            self.samples.append(
                Sample(
                    batch["name"][0],
                    to_picture(batch["image"][0], pl_module.mean, pl_module.std),
                    _indices(batch["mask"][0]),
                    _indices(outputs[0]),
                )
            )

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the picture and log it."""
        if not self.samples:
            return
        assert isinstance(pl_module, SegmentationTask)
        self.directory.mkdir(parents=True, exist_ok=True)
        figure = plot_samples(self.samples, pl_module.class_names, pl_module.colors)
        figure.savefig(self.directory / f"epoch_{trainer.current_epoch:03d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image(
                    "val/predictions",
                    images=[sample.image for sample in self.samples],
                    # Lightning files an epoch's scores under its last step, counted from 0.
                    step=trainer.global_step - 1,
                    caption=[sample.name for sample in self.samples],
                    masks=[_masks(sample, pl_module.class_names) for sample in self.samples],
                )
        self.samples = []


def _indices(mask: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return mask.cpu().numpy().astype(np.uint8)


def _masks(sample: Sample, class_names: list[str]) -> dict[str, Any]:
    labels = {**dict(enumerate(class_names)), VOID: "void"}
    return {
        "prediction": {"mask_data": sample.prediction, "class_labels": labels},
        "truth": {"mask_data": sample.truth, "class_labels": labels},
    }
