"""The LightningModule that trains and validates a segmentation model, and its checkpoints."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Self, cast

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.cli import OptimizerCallable
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric

from skseg.convert import Conversion
from skseg.convert.restore import restore_units
from skseg.encoders import SKSettings, has_sk_units
from skseg.errors import UserError, check_class_names, check_values
from skseg.inference import padded_side, predict_logits
from skseg.metrics import confusion_matrix, scores
from skseg.models import build_model, input_rule
from skseg.pixels import IMAGENET_MEAN, IMAGENET_STD, voc_color
from skseg.training.checkpoints import (
    CHECKPOINT_FORMAT,
    WeightsSource,
    read_checkpoint,
    weights_source,
)
from skseg.training.description import description_problem
from skseg.training.losses import Criterion, Loss
from skseg.training.network import (
    STRIDE_16,
    auxiliary_head,
    check_normalization,
    freeze_part,
    unused_parameters,
)
from skseg.training.optim import Schedule, build_optimizer
from skseg.training.steps import LogSteps
from skseg.types import VOID, as_batch


class SegmentationTask(pl.LightningModule):
    """Train an smp model to segment, and score it on whole images.

    Args:
        class_names: Names of the classes, in the order of their indices.
        colors: An RGB color (0 to 255) for each class; the palette of Pascal VOC when unset.
        mean: Mean of each input channel in the images' normalization, as fractions. Its length is
            the number of input channels.
        std: Standard deviation of each input channel, as fractions.
        arch: Decoder, a key of `skseg.models.ARCHS`.
        encoder_name: An encoder of skseg, of smp, or "tu-NAME" for timm's NAME.
        encoder_weights: Name of the encoder's pretrained weights, or path of a file of them; random
            weights when unset.
        initial_weights: A checkpoint of this project. The network starts from its weights, decoder
            included, where names and shapes fit; `unfitting` lists the others. In place of
            `encoder_weights`.
        encoder_depth: Number of encoder stages; smp's default when unset.
        encoder_output_stride: Stride of the encoder's last stage; smp's default when unset.
        decoder: Further arguments of the smp architecture, such as decoder_channels.
        sk: Settings of the encoder's SK units. An encoder without SK units is converted with these
            settings. The encoder stays as it is when unset.
        optimizer: A torch optimizer; its lr and weight_decay are the encoder's. Norms and biases
            are not decayed.
        decoder_lr_factor: Learning rate of the decoder over that of the encoder.
        layer_decay: Learning rate of each encoder stage over that of the next deeper stage.
        schedule: Learning rate over the run.
        freeze: "encoder" trains the decoder only. "encoder_norms" keeps the encoder's norms and
            their statistics unchanged, for batches of a few images.
        auxiliary_weight: Factor of the loss of an additional FCN head on the encoder's stage of
            stride 16, used in training only. 0 for no such head; 0.4 is common.
        loss: Terms of the training loss, summed by their weights; cross-entropy when unset.

    Raises:
        UserError: A name is unknown, a value is out of its range, or the pretrained weights expect
            another normalization.

    Example:
        >>> task = SegmentationTask(class_names=["road", "sky"], encoder_name="sknet_tiny")
        >>> task(torch.zeros(2, 3, 50, 70)).shape
        torch.Size([2, 2, 50, 70])
    """

    def __init__(
        self,
        class_names: list[str],
        colors: Sequence[tuple[int, int, int]] | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        arch: str = "fpn",
        encoder_name: str = "sknet50",
        encoder_weights: str | None = None,
        initial_weights: str | None = None,
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
        check_class_names(class_names)
        rules = {
            "decoder_lr_factor": (decoder_lr_factor >= 0, "at least 0"),
            "layer_decay": (layer_decay > 0, "above 0"),
            "auxiliary_weight": (auxiliary_weight >= 0, "at least 0"),
            "std": (len(std) == len(mean), f"{len(mean)} numbers, as many as `mean`"),
        }
        check_values(
            {
                "decoder_lr_factor": decoder_lr_factor,
                "layer_decay": layer_decay,
                "auxiliary_weight": auxiliary_weight,
                "std": std,
            },
            rules,
        )
        if initial_weights and encoder_weights:
            raise UserError("set `initial_weights` or `encoder_weights`, not both")
        if colors is None:
            colors = [voc_color(index) for index in range(len(class_names))]
        # Plain values: a checkpoint holds them, and no code, to rebuild the model.
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
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.model = build_model(
            arch,
            encoder_name,
            encoder_weights,
            in_channels=len(mean),
            classes=len(class_names),
            encoder_depth=encoder_depth,
            encoder_output_stride=encoder_output_stride,
            sk=sk,
            **(decoder or {}),
        ).to(memory_format=torch.channels_last)  # the faster format on CPUs and tensor cores
        if encoder_weights is not None:
            check_normalization(encoder_name, encoder_weights, mean, std)
        self.unfitting = self._start_from(initial_weights) if initial_weights else []
        self.input_rule = input_rule(self.model)
        self.make_optimizer = optimizer
        self.decoder_lr_factor = decoder_lr_factor
        self.schedule = schedule
        self.layer_decay = layer_decay
        self.frozen = freeze_part(self.model, freeze)
        self.auxiliary_weight = auxiliary_weight
        self.auxiliary = auxiliary_head(self.model, len(class_names)) if auxiliary_weight else None
        self.criterion = Criterion(loss or [Loss()], len(class_names))
        self.confusion = confusion_matrix(len(class_names))
        self.val_loss = MeanMetric()  # over all labeled pixels
        self.last_confusion: Tensor | None = None  # of the latest validation
        self.source: WeightsSource | None = None  # set by `load_model`

    @property
    def conversion(self) -> Conversion | None:
        """What was converted, if `sk` converts the encoder."""
        return vars(self.model).get("conversion")

    def _start_from(self, path: str) -> list[str]:
        """Load what fits of a checkpoint's network; return the names of what does not.

        Raises:
            UserError: The images of the checkpoint were normalized in another way, or nothing of
                its encoder fits.
        """
        checkpoint = read_checkpoint(path)
        spec = checkpoint["skseg"]["task"]
        for key in ("mean", "std"):
            if list(spec[key]) != self.spec[key]:
                raise UserError(
                    f"`initial_weights` {path}: `{key}` is {spec[key]} there, {self.spec[key]} here"
                )
        shapes = {name: tensor.shape for name, tensor in self.state_dict().items()}
        fitting = {
            name: tensor
            for name, tensor in checkpoint["state_dict"].items()
            if shapes.get(name) == tensor.shape
        }
        if not any(name.startswith("model.encoder.") for name in fitting):
            raise UserError(
                f"`initial_weights` {path}: no weight of its encoder, {spec['encoder_name']}, "
                f"fits {self.spec['encoder_name']}"
            )
        self.load_state_dict(fitting, strict=False)
        return sorted(shapes.keys() - fitting.keys())

    def forward(self, image: Tensor) -> Tensor:
        """Map normalized images [B, 3, H, W] of any size to logits [B, K, H, W]."""
        return predict_logits(self.model, image, self.input_rule)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen parts stay in eval mode."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def configure_callbacks(self) -> list[pl.Callback]:
        """Log losses and learning rates to the loggers of any trainer."""
        has_it = any(isinstance(c, LogSteps) for c in getattr(self.trainer, "callbacks", []))
        return [] if has_it else [LogSteps()]

    def setup(self, stage: str) -> None:
        """Keep parameters without a gradient from DDP, which would wait for them.

        Such are the last stages of an encoder that a shallow decoder does not use.
        """
        if stage == "fit" and isinstance(self.trainer.strategy, DDPStrategy):
            unused = [f"model.{name}" for name in unused_parameters(self.model, len(self.mean))]
            ignore = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
            ignore(self, unused)  # type: ignore[no-untyped-call]

    def configure_optimizers(self) -> Any:
        """Build the optimizer and its schedule, which is stepped once per iteration."""
        optimizer, scheduler = self.build_optimizer(int(self.trainer.estimated_stepping_batches))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def build_optimizer(self, total_steps: int) -> tuple[Optimizer, LRScheduler]:
        """Build the optimizer of a run of so many steps, and its schedule.

        Raises:
            UserError: The optimizer refuses a value, such as a negative `lr`.
        """
        try:
            return build_optimizer(
                self.make_optimizer,
                self.schedule,
                self.model,
                total_steps,
                decoder_lr_factor=self.decoder_lr_factor,
                layer_decay=self.layer_decay,
                auxiliary=self.auxiliary,
            )
        except (ValueError, TypeError) as error:
            raise UserError(f"`optimizer`: {error}") from error

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Return the `loss` of a batch of crops, its number of `images`, and the values to `log`.

        Args:
            batch: A `Batch`, or a tuple of its image and mask.
            batch_idx: Number of the batch in the epoch, from 0.

        Raises:
            UserError: The loss is not finite.
        """
        batch = as_batch(batch)
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
                f"{', '.join(batch['name'])}; the latest checkpoint was saved before this step. "
                "Lower the learning rate, warm up, or clip gradients (`gradient_clip_val`)"
            )
        self.log("loss", loss.detach(), prog_bar=True, logger=False)
        log = {"train/loss": loss.detach()}
        if len(terms) > 1:
            log |= {f"train/{name}": term.detach() for name, term in terms.items()}
        return {"loss": loss, "images": len(image), "log": log}

    def _both_logits(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of the model and of the auxiliary head, both [B, K, H, W]."""
        features: list[Tensor] = []
        # The encoder runs inside smp's model and must run only once, hence the hook.
        hook = self.model.encoder.register_forward_hook(  # type: ignore[union-attr]
            lambda module, inputs, outputs: features.append(outputs[STRIDE_16])
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
        """Copy the norm statistics of process 0, which the checkpoint holds."""
        self._share_buffers()

    def on_test_epoch_start(self) -> None:
        """Copy the norm statistics of process 0, which the checkpoint holds."""
        self._share_buffers()

    def _share_buffers(self) -> None:
        if self.trainer.world_size > 1:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Count a batch of whole images; return its class indices, uint8 [B, H, W].

        Args:
            batch: A `Batch`, or a tuple of its image and mask.
            batch_idx: Number of the batch, from 0.
        """
        batch = as_batch(batch)
        logits: Tensor = self(batch["image"])  # [B, K, H, W]
        labeled = (batch["mask"] != VOID).sum()
        # Plain cross-entropy whatever the training loss, so that runs can be compared.
        total = F.cross_entropy(logits, batch["mask"], ignore_index=VOID, reduction="sum")
        self.val_loss.update(total / labeled.clamp(min=1), labeled)
        predicted = logits.argmax(1)
        self.confusion.update(predicted, batch["mask"])
        return predicted.to(torch.uint8)

    def test_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Do the same as `validation_step`."""
        return self.validation_step(batch, batch_idx)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the class indices of a batch of whole images, uint8 [B, H, W].

        Args:
            batch: Images, float32 [B, 3, H, W]; or a batch as in `validation_step`.
            batch_idx: Number of the batch, from 0.
        """
        logits: Tensor = self(as_batch(batch)["image"])
        return logits.argmax(1).to(torch.uint8)

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the whole set, summed over all processes."""
        confusion = self._log_scores("val")
        if not self.trainer.sanity_checking:  # which scores a few images of an untrained network
            self.last_confusion = confusion

    def on_test_epoch_end(self) -> None:
        """Log the scores of the whole set, summed over all processes."""
        self._log_scores("test")

    def _log_scores(self, stage: str) -> Tensor:
        """Log the scores of what was counted; return the counts [K, K]."""
        confusion: Tensor = self.confusion.compute()
        self.confusion.reset()
        self.log(f"{stage}/loss", self.val_loss.compute(), prog_bar=True)
        self.val_loss.reset()
        values = scores(confusion)
        self.log(f"{stage}/miou", values["miou"], prog_bar=True)
        self.log(f"{stage}/pixel_accuracy", values["pixel_accuracy"])
        self.log(f"{stage}/mean_accuracy", values["mean_accuracy"])
        for name, iou in zip(self.class_names, values["iou"], strict=True):
            # Lightning would refuse a class called dataloader_idx_0 if it were to add one itself.
            self.log(f"{stage}/iou/{name}", iou, add_dataloader_idx=False)
        return confusion

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Self:
        """Do the same as `load_model`, which needs nothing beside the checkpoint.

        Raises:
            UserError: There are further arguments, or the file is not a checkpoint.
        """
        if args or kwargs:
            raise UserError(
                "load_from_checkpoint accepts a path alone; the checkpoint has the rest"
            )
        return cast(Self, load_model(checkpoint_path))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record what `load_model` needs."""
        # With averaging there are two sets of weights; `state_dict` has those that are validated.
        weights = "averaged" if "averaging_state" in checkpoint else "trained"
        checkpoint["skseg"] = {"format": CHECKPOINT_FORMAT, "task": self.spec, "weights": weights}


def load_model(path: str | Path) -> SegmentationTask:
    """Rebuild a trained model from its checkpoint alone; no code in the file runs.

    Builds the structure and loads the weights. Nothing is downloaded, and a conversion is not
    proved again.

    Args:
        path: A checkpoint of `scripts/fit.py`.

    Returns:
        The task in eval mode, with `class_names`, `colors`, `mean` and `std`; `source` says which
        weights it has. Called on normalized images [B, 3, H, W] of any size it returns logits
        [B, K, H, W].

    Raises:
        UserError: The file does not exist, is damaged, is not a checkpoint of this project, or has
            weights that are not finite.

    Example:
        >>> import tempfile
        >>> task = SegmentationTask(
        ...     ["road", "sky"], [(128, 64, 128), (70, 130, 180)], (0.5,) * 3, (0.25,) * 3,
        ...     encoder_name="sknet_tiny",
        ... )
        >>> path = Path(tempfile.mkdtemp()) / "last.ckpt"
        >>> checkpoint = {"state_dict": task.state_dict()}  # as Lightning does
        >>> task.on_save_checkpoint(checkpoint)
        >>> torch.save(checkpoint, path)
        >>> load_model(path).class_names
        ['road', 'sky']
    """
    checkpoint = read_checkpoint(path)
    spec = checkpoint["skseg"]["task"]
    # Only training has an auxiliary head.
    state = {k: v for k, v in checkpoint["state_dict"].items() if not k.startswith("auxiliary.")}
    if problem := description_problem(spec):
        raise UserError(f"checkpoint {path}: {problem}")
    try:
        task = _rebuild(spec, state)
        task.load_state_dict(state)
    except Exception as error:  # a foreign description can fail anywhere in smp and timm
        reason = textwrap.shorten(str(error) or type(error).__name__, 300)
        raise UserError(
            f"checkpoint {path}: its weights are not those of the network that it describes "
            f"({reason})"
        ) from error
    task.source = weights_source(path, checkpoint)
    return task.eval()


def _rebuild(spec: Mapping[str, Any], state: dict[str, Tensor]) -> SegmentationTask:
    """Build the structure that a checkpoint describes, with random weights."""
    arguments = dict(spec)
    settings = arguments.pop("sk", None)
    sk = SKSettings(**settings) if settings else None
    if sk is None or has_sk_units(spec["encoder_name"]):
        return SegmentationTask(**arguments, sk=sk)
    task = SegmentationTask(**arguments)
    _restore_conversion(task, sk, state)
    return task


def _restore_conversion(task: SegmentationTask, sk: SKSettings, state: dict[str, Tensor]) -> None:
    """Give a task the structure of its converted twin, whose weights are `state`."""
    prefix = "model.encoder."
    of_encoder = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    restore_units(task.model.get_submodule("encoder"), sk, of_encoder)
    task.model.to(memory_format=torch.channels_last)
    task.spec["sk"] = asdict(sk)


def as_task(module: pl.LightningModule) -> SegmentationTask:
    """Return the module that Lightning hands to a callback as the task that it is."""
    assert isinstance(module, SegmentationTask)
    return module
