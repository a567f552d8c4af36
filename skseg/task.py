"""The LightningModule that trains and validates a segmentation model, and its checkpoints."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor

from skseg.contract import Batch
from skseg.errors import UserError
from skseg.inference import predict_logits
from skseg.losses import cross_entropy
from skseg.metrics import confusion_matrix, scores
from skseg.models import build_model, input_rule
from skseg.optim import Schedule, build_optimizer

CHECKPOINT_FORMAT = 1


class SegmentationTask(pl.LightningModule):
    """Train an smp model to segment, and score it on whole images.

    Args:
        class_names: names of the classes, in the order of their indices.
        colors: an RGB colour (0 to 255) for each class.
        mean: mean of each input channel that images are normalised with, as fractions.
        std: standard deviation of each input channel, likewise.
        arch: decoder, see `skseg.models.ARCHS`.
        encoder_name: an encoder of skseg, of smp, or "tu-NAME" for timm's NAME.
        encoder_weights: name of the encoder's pretrained weights; random ones when unset.
        encoder_depth: number of encoder stages; smp's default when unset.
        encoder_output_stride: stride of the encoder's last stage; smp's default when unset.
        decoder: further arguments of the smp architecture, such as decoder_channels.
        class_weights: how much a pixel of each class counts in the loss; all the same when unset.
        optimizer: a torch optimizer; its lr and weight_decay are the encoder's. Norms and biases
            are not decayed.
        decoder_lr_factor: learning rate of the decoder over that of the encoder.
        schedule: learning rate over the run.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        class_names: list[str],
        colors: list[tuple[int, int, int]],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        arch: str = "fpn",
        encoder_name: str = "sknet50",
        encoder_weights: str | None = None,
        encoder_depth: int | None = None,
        encoder_output_stride: int | None = None,
        decoder: dict[str, Any] | None = None,
        class_weights: list[float] | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        decoder_lr_factor: float = 1.0,
        schedule: Schedule = Schedule(),  # noqa: B008  frozen
    ) -> None:
        super().__init__()
        # Plain values only: what a checkpoint needs to rebuild the model without any code in it.
        self.spec: dict[str, Any] = {
            "class_names": list(class_names),
            "colors": [list(color) for color in colors],
            "mean": list(mean),
            "std": list(std),
            "arch": arch,
            "encoder_name": encoder_name,
            "encoder_depth": encoder_depth,
            "encoder_output_stride": encoder_output_stride,
            "decoder": dict(decoder or {}),
        }
        self.class_names = list(class_names)
        self.colors = [tuple(color) for color in colors]
        self.mean = (mean[0], mean[1], mean[2])
        self.std = (std[0], std[1], std[2])
        self.model = build_model(
            arch,
            encoder_name,
            encoder_weights,
            classes=len(class_names),
            encoder_depth=encoder_depth,
            encoder_output_stride=encoder_output_stride,
            **(decoder or {}),
        ).to(memory_format=torch.channels_last)  # the faster one, on CPUs and on tensor cores
        self.input_rule = input_rule(self.model)
        if class_weights is not None and len(class_weights) != len(class_names):
            raise UserError(
                f"model.class_weights has {len(class_weights)} numbers for "
                f"{len(class_names)} classes"
            )
        weights = None if class_weights is None else torch.tensor(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)
        self.make_optimizer = optimizer
        self.decoder_lr_factor = decoder_lr_factor
        self.schedule = schedule
        self.confusion = confusion_matrix(len(class_names))
        self.last_confusion: Tensor | None = None  # of the newest validation

    def forward(self, image: Tensor) -> Tensor:
        """Map normalised images [B, 3, H, W] of any size to logits [B, K, H, W]."""
        return predict_logits(self.model, image, self.input_rule)

    def configure_optimizers(self) -> Any:
        """Build the optimizer and its schedule over the whole run, stepped by iteration."""
        total = int(self.trainer.estimated_stepping_batches)
        optimizer, scheduler = build_optimizer(
            self.make_optimizer, self.schedule, self.model, self.decoder_lr_factor, total
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch of crops."""
        loss, _ = self._step(batch, "train")
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Count a batch of whole images; return its class indices [B, H, W], uint8."""
        _, logits = self._step(batch, "val")
        predicted = logits.argmax(1)
        self.confusion.update(predicted, batch["mask"])
        return predicted.to(torch.uint8)

    def _step(self, batch: Batch, stage: str) -> tuple[Tensor, Tensor]:
        logits = self(batch["image"])  # [B, K, H, W]
        loss = cross_entropy(logits, batch["mask"], self.class_weights)
        size = len(batch["name"])
        self.log(f"{stage}/loss", loss, batch_size=size, prog_bar=True, sync_dist=stage != "train")
        return loss, logits

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the whole set, over all processes."""
        self.last_confusion = self.confusion.compute()
        self.confusion.reset()
        values = scores(self.last_confusion)
        self.log("val/miou", values["miou"], prog_bar=True)
        self.log("val/pixel_accuracy", values["pixel_accuracy"])
        self.log("val/mean_accuracy", values["mean_accuracy"])
        for name, iou in zip(self.class_names, values["iou"], strict=True):
            self.log(f"val/iou/{name}", iou)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record what `load_model` needs."""
        checkpoint["skseg"] = {"format": CHECKPOINT_FORMAT, "task": self.spec}


def load_model(path: str | Path) -> SegmentationTask:
    """Rebuild a trained model from its checkpoint alone; no code in the file runs.

    Args:
        path: a checkpoint of `scripts/fit.py`.

    Returns:
        The task in eval mode, with `class_names`, `colors`, `mean` and `std`. Called on
        normalised images [B, 3, H, W] of any size it returns logits [B, K, H, W].

    Raises:
        UserError: no such file, or not a checkpoint of this project.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"checkpoint {path}: no such file")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the bytes may be, torch raises all kinds of errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"checkpoint {path}: cannot be read safely ({reason})") from error
    record = checkpoint.get("skseg") if isinstance(checkpoint, dict) else None
    if record is None:
        raise UserError(f"checkpoint {path}: not written by skseg's fit")
    if record["format"] != CHECKPOINT_FORMAT:
        raise UserError(
            f"checkpoint {path}: format {record['format']}, this version reads {CHECKPOINT_FORMAT}"
        )
    task = SegmentationTask(**record["task"])
    task.load_state_dict(checkpoint["state_dict"])
    return task.eval()
