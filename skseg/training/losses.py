"""Losses on logits and class indices, void left out, and weighted sums of them."""

import math
from dataclasses import dataclass
from typing import Literal

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skseg.errors import UserError, check_values
from skseg.types import VOID

_OPTIONS: dict[str, set[str]] = {
    "cross_entropy": {"class_weights", "label_smoothing"},
    "ohem": {"class_weights", "threshold", "min_kept"},
    "dice": set(),
    "lovasz": set(),
    "focal": {"gamma"},
}


@dataclass(frozen=True)
class Loss:
    """One term of the training loss.

    Args:
        name: "cross_entropy"; "ohem", cross-entropy over the hardest pixels; "dice" and "lovasz"
            (Lovász-Softmax), both over the batch; "focal", of one class against the rest, averaged
            over the classes.
        weight: factor of the term in the sum.
        class_weights: of cross_entropy and ohem, one for each class, or "data" to compute them
            from the training set.
        label_smoothing: of cross_entropy, from 0 to below 1; 0 when unset.
        threshold: of ohem, the probability of the true class from which a pixel is easy; 0.7
            when unset.
        min_kept: of ohem, how many of the hardest pixels of an image count at least, on the
            average of the batch; 100,000 when unset.
        gamma: of focal, the exponent; 2 when unset.
    """

    name: Literal["cross_entropy", "ohem", "dice", "lovasz", "focal"] = "cross_entropy"
    weight: float = 1.0
    class_weights: list[float] | Literal["data"] | None = None
    label_smoothing: float | None = None
    threshold: float | None = None
    min_kept: int | None = None
    gamma: float | None = None

    def check(self) -> None:
        """Raise UserError where the values do not fit the loss.

        Not when it is made: the parser, trying what a list of these may be, would bury the error.
        """
        for key in sorted(set().union(*_OPTIONS.values())):  # the same error every time
            if getattr(self, key) is not None and key not in _OPTIONS[self.name]:
                names = " and ".join(name for name, keys in _OPTIONS.items() if key in keys)
                raise UserError(f"model.loss: {key} belongs to {names}; {self.name} has none")
        weights = self.class_weights if isinstance(self.class_weights, list) else []
        rules = {
            "weight": (self.weight > 0, "above 0"),
            "class_weights": (min(weights, default=1) > 0, "above 0 each"),
            "label_smoothing": (0 <= (self.label_smoothing or 0) < 1, "from 0 to below 1"),
            "threshold": (self.threshold is None or 0 < self.threshold <= 1, "above 0, at most 1"),
            "min_kept": (self.min_kept is None or self.min_kept >= 1, "at least 1"),
            "gamma": (self.gamma is None or self.gamma >= 0, "0 or more"),
        }
        check_values(vars(self), rules)


class Criterion(nn.Module):
    """A weighted sum of losses.

    Called on logits [B, K, H, W] float and a mask [B, H, W] of int64 class indices, void ignored,
    it returns the sum and the value of each term by name, scalars all; finite zeros when all
    pixels are void.
    """

    def __init__(self, losses: list[Loss], num_classes: int) -> None:
        """Take the terms.

        Raises:
            UserError: there is none, one occurs twice, or has not one weight for each class.
        """
        super().__init__()
        names = [loss.name for loss in losses]
        if not losses or len(set(names)) < len(names):
            raise UserError(f"model.loss is {names}; it must be one or more different losses")
        self.losses = losses
        for loss in losses:
            loss.check()
            given = loss.class_weights
            if isinstance(given, list) and len(given) != num_classes:
                raise UserError(
                    f"model.loss: {loss.name} has {len(given)} class_weights; "
                    f"it must have one for each of {num_classes} classes"
                )
            # Not in checkpoints: they are the config's, or follow from the data.
            weights = torch.tensor(given) if isinstance(given, list) else None
            self.register_buffer(f"{loss.name}_weights", weights, persistent=False)
        self.dice = smp.losses.DiceLoss("multiclass", ignore_index=VOID)
        self.lovasz = smp.losses.LovaszLoss("multiclass", ignore_index=VOID)

    @property
    def wants_class_weights(self) -> bool:
        """Whether `set_class_weights` must be called before the first use."""
        return any(loss.class_weights == "data" for loss in self.losses)

    def set_class_weights(self, weights: Tensor) -> None:
        """Give the weights [K] of those terms that want them from the data."""
        for loss in self.losses:
            if loss.class_weights == "data":
                self.register_buffer(f"{loss.name}_weights", weights, persistent=False)

    def forward(self, logits: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the sum and its terms, unweighted."""
        logits = logits.float()  # sums over an image overflow in half precision
        if (mask == VOID).all():
            zero = logits.sum() * 0  # has a gradient, and is NaN where a logit is
            return zero, {loss.name: zero for loss in self.losses}
        terms: dict[str, Tensor] = {
            loss.name: self._term(loss, logits, mask) for loss in self.losses
        }
        return sum((x.weight * terms[x.name] for x in self.losses), logits.new_zeros(())), terms

    def _term(self, loss: Loss, logits: Tensor, mask: Tensor) -> Tensor:
        weights: Tensor | None = getattr(self, f"{loss.name}_weights")
        value: Tensor
        if loss.name == "cross_entropy":
            value = F.cross_entropy(
                logits, mask, weights, ignore_index=VOID, label_smoothing=loss.label_smoothing or 0
            )
        elif loss.name == "ohem":
            value = ohem_cross_entropy(
                logits, mask, weights, loss.threshold or 0.7, loss.min_kept or 100_000
            )
        elif loss.name == "focal":
            gamma = 2.0 if loss.gamma is None else loss.gamma
            focal = smp.losses.FocalLoss("multiclass", gamma=gamma, ignore_index=VOID)
            value = focal(logits, mask)
        else:
            value = getattr(self, loss.name)(logits, mask)
        return value


def ohem_cross_entropy(
    logits: Tensor,
    mask: Tensor,
    weights: Tensor | None = None,
    threshold: float = 0.7,
    min_kept: int = 100_000,
) -> Tensor:
    """Mean cross-entropy over the hard pixels (online hard example mining).

    A pixel is hard where the true class has a probability below `threshold`, or if it is among
    the `min_kept` times B hardest of the batch, as in mmsegmentation's OHEMPixelSampler.

    Args:
        logits: [B, K, H, W] float.
        mask: [B, H, W] int64 class indices, void is ignored; not all of it may be void.
        weights: [K] factors of the pixels by true class; they do not decide which are hard.
        threshold: probability, above 0, at most 1.
        min_kept: pixels an image, at least 1.

    Returns:
        A scalar.
    """
    hardness = F.cross_entropy(logits, mask, ignore_index=VOID, reduction="none")  # [B, H, W]
    labelled = mask != VOID
    losses, classes = hardness[labelled], mask[labelled]
    kept = min(min_kept * len(mask), len(losses))
    kth_hardest = losses.detach().kthvalue(len(losses) - kept + 1).values
    hard = (losses > -math.log(threshold)) | (losses >= kth_hardest)
    factors = torch.ones_like(losses) if weights is None else weights[classes]
    factors = factors * hard
    return (losses * factors).sum() / hard.sum()
