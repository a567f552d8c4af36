"""The LightningModule that trains and validates a segmentation model, and its checkpoints."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Self

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torchmetrics import MeanMetric
from torchvision.models.segmentation.fcn import FCNHead

from skseg.convert import Conversion
from skseg.encoders import LITE_ENCODERS, LITE_NORMALIZATION, SKSettings
from skseg.errors import UserError
from skseg.inference import padded_side, predict_logits
from skseg.metrics import confusion_matrix, scores
from skseg.models import build_model, input_rule
from skseg.training.checkpoints import CHECKPOINT_FORMAT, read_checkpoint
from skseg.training.losses import Criterion, Loss
from skseg.training.optim import Schedule, build_optimizer
from skseg.types import VOID, Batch

_STRIDE_16 = 4  # the index of the feature that has stride 16 unless the encoder is dilated


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
        sk: settings of the encoder's SK units, which an encoder without any gets by conversion; as
            the encoder is when unset.
        optimizer: a torch optimizer; its lr and weight_decay are the encoder's. Norms and biases
            are not decayed.
        decoder_lr_factor: learning rate of the decoder over that of the encoder.
        layer_decay: learning rate of each encoder stage over that of the next deeper one.
        schedule: learning rate over the run.
        freeze: "encoder" trains the decoder alone; "encoder_norms" keeps the norms of the encoder
            as they are, statistics too, for batches of a few images.
        auxiliary_weight: factor of the loss of a further FCN head on the encoder's stage of
            stride 16, in training only; 0 has none, 0.4 is usual.
        loss: terms of the training loss, summed by their weights; cross-entropy when unset.
    """

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
        sk: SKSettings | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        decoder_lr_factor: float = 1.0,
        layer_decay: float = 1.0,
        schedule: Schedule = Schedule(),  # noqa: B008  frozen
        freeze: Literal["encoder", "encoder_norms"] | None = None,
        auxiliary_weight: float = 0.0,
        loss: list[Loss] | None = None,
    ) -> None:
        super().__init__()
        _check_normalization(encoder_name, encoder_weights, mean, std)
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
            "sk": asdict(sk) if sk else None,
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
            sk=sk,
            **(decoder or {}),
        ).to(memory_format=torch.channels_last)  # the faster one, on CPUs and on tensor cores
        self.input_rule = input_rule(self.model)
        self.make_optimizer = optimizer
        self.decoder_lr_factor = decoder_lr_factor
        self.schedule = schedule
        self.layer_decay = layer_decay
        self.frozen = _freeze(self.model, freeze)
        self.auxiliary_weight = auxiliary_weight
        self.auxiliary = _auxiliary_head(self.model, len(class_names)) if auxiliary_weight else None
        self.criterion = Criterion(loss or [Loss()], len(class_names))
        self.confusion = confusion_matrix(len(class_names))
        self.val_loss = MeanMetric()  # over all labelled pixels
        self.last_confusion: Tensor | None = None  # of the newest validation

    @property
    def conversion(self) -> Conversion | None:
        """What was converted, if `sk` converts the encoder."""
        return vars(self.model).get("conversion")

    def forward(self, image: Tensor) -> Tensor:
        """Map normalised images [B, 3, H, W] of any size to logits [B, K, H, W]."""
        return predict_logits(self.model, image, self.input_rule)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all but frozen parts, which stay in eval mode."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def configure_optimizers(self) -> Any:
        """Build the optimizer and its schedule over the whole run, stepped by iteration."""
        total = int(self.trainer.estimated_stepping_batches)
        optimizer, scheduler = build_optimizer(
            self.make_optimizer,
            self.schedule,
            self.model,
            total,
            decoder_lr_factor=self.decoder_lr_factor,
            layer_decay=self.layer_decay,
            auxiliary=self.auxiliary,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Return the `loss` of a batch of crops, and what to `log` of it.

        Raises:
            UserError: the loss is not finite.
        """
        image, mask = batch["image"], batch["mask"]
        if self.auxiliary is None:
            loss, terms = self.criterion(self(image), mask)
        else:
            logits, auxiliary = self._both_logits(image)
            loss, terms = self.criterion(logits, mask)
            extra, _ = self.criterion(auxiliary, mask)
            loss, terms = loss + self.auxiliary_weight * extra, terms | {"auxiliary": extra}
        if not loss.isfinite():
            raise UserError(
                f"the loss is {loss.item()} in step {self.global_step + 1}, on the images "
                f"{', '.join(batch['name'])}; the newest checkpoint is of before. Lower the "
                "learning rate, warm up, or clip gradients (--trainer.gradient_clip_val)"
            )
        self.log("loss", loss.detach(), prog_bar=True, logger=False)
        log = {"train/loss": loss.detach()}
        if len(terms) > 1:
            log |= {f"train/{name}": term.detach() for name, term in terms.items()}
        return {"loss": loss, "log": log}

    def _both_logits(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of the model and of the auxiliary head, both [B, K, H, W]."""
        features: list[Tensor] = []
        # A hook, because the encoder runs within smp's model, and must run once.
        hook = self.model.encoder.register_forward_hook(  # type: ignore[union-attr]
            lambda module, inputs, outputs: features.append(outputs[_STRIDE_16])
        )
        try:
            logits: Tensor = self(image)
        finally:
            hook.remove()
        assert self.auxiliary is not None
        height, width = image.shape[-2:]
        size = (padded_side(height, self.input_rule), padded_side(width, self.input_rule))
        coarse = self.auxiliary(features[0])
        auxiliary = F.interpolate(coarse, size, mode="bilinear", align_corners=False)
        return logits, auxiliary[..., :height, :width]

    def on_validation_epoch_start(self) -> None:
        """Take process 0's norm statistics, which are those of the checkpoint."""
        if self.trainer.world_size > 1:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Count a batch of whole images; return its class indices [B, H, W], uint8."""
        logits: Tensor = self(batch["image"])  # [B, K, H, W]
        labelled = (batch["mask"] != VOID).sum()
        # Plain cross-entropy whatever is trained on, so that runs compare.
        total = F.cross_entropy(logits, batch["mask"], ignore_index=VOID, reduction="sum")
        self.val_loss.update(total / labelled.clamp(min=1), labelled)
        predicted = logits.argmax(1)
        self.confusion.update(predicted, batch["mask"])
        return predicted.to(torch.uint8)

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the whole set, over all processes."""
        self.last_confusion = self.confusion.compute()
        self.confusion.reset()
        self.log("val/loss", self.val_loss.compute(), prog_bar=True)
        self.val_loss.reset()
        values = scores(self.last_confusion)
        self.log("val/miou", values["miou"], prog_bar=True)
        self.log("val/pixel_accuracy", values["pixel_accuracy"])
        self.log("val/mean_accuracy", values["mean_accuracy"])
        for name, iou in zip(self.class_names, values["iou"], strict=True):
            self.log(f"val/iou/{name}", iou)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record what `load_model` needs."""
        # Of two sets of weights, `state_dict` has those that are validated, and so does this say.
        weights = "averaged" if "averaging_state" in checkpoint else "trained"
        checkpoint["skseg"] = {"format": CHECKPOINT_FORMAT, "task": self.spec, "weights": weights}


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
    checkpoint = read_checkpoint(path)
    spec = dict(checkpoint["skseg"]["task"])
    if spec.get("sk"):
        spec["sk"] = SKSettings(**spec["sk"])
    task = SegmentationTask(**spec)
    state = checkpoint["state_dict"]
    task.load_state_dict({k: v for k, v in state.items() if not k.startswith("auxiliary.")})
    return task.eval()


def _check_normalization(
    encoder_name: str, encoder_weights: str | None, mean: Sequence[float], std: Sequence[float]
) -> None:
    """Raise UserError where weights were trained on images normalised otherwise."""
    if encoder_name not in LITE_ENCODERS or encoder_weights != "imagenet":
        return
    for key, given, own in zip(("mean", "std"), (mean, std), LITE_NORMALIZATION, strict=True):
        if not all(math.isclose(g, o, abs_tol=1e-3) for g, o in zip(given, own, strict=True)):
            raise UserError(
                f"the weights {encoder_weights} of {encoder_name} want images normalised with "
                f"--data.{key} [{', '.join(f'{o:.4f}' for o in own)}], not {list(given)}"
            )


def _freeze(model: nn.Module, what: str | None) -> list[nn.Module]:
    """Stop the training of parts of a model; return the modules to keep in eval mode."""
    if what is None:
        return []
    encoder = model.encoder
    assert isinstance(encoder, nn.Module)
    frozen = [encoder]
    if what == "encoder_norms":
        norms = (_NormBase, nn.GroupNorm, nn.LayerNorm)
        frozen = [module for module in encoder.modules() if isinstance(module, norms)]
    for module in frozen:
        module.requires_grad_(False).eval()
    return frozen


def _auxiliary_head(model: nn.Module, num_classes: int) -> nn.Module:
    channels = list(model.encoder.out_channels)  # type: ignore[arg-type, union-attr]
    if len(channels) <= _STRIDE_16:
        raise UserError(
            f"model.auxiliary_weight wants a stage of stride 16: encoder_depth of at least "
            f"{_STRIDE_16}, not {len(channels) - 1}"
        )
    head: nn.Module = FCNHead(channels[_STRIDE_16], num_classes)
    return head
