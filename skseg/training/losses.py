"""Losses of logits and class indices, without void pixels, and weighted sums of them."""

import math
from dataclasses import dataclass
from typing import Literal

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skseg.errors import UserError, check_values
from skseg.types import VOID

# The options of each loss.
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
            (Lovász-Softmax), both over the batch; "focal", one class against the rest, averaged
            over the classes.
        weight: Factor of the term in the sum.
        class_weights: For cross_entropy and ohem: one weight per class, or "data" to compute them
            from the training set.
        label_smoothing: For cross_entropy: from 0 to below 1; 0 when unset.
        threshold: For ohem: a pixel is easy if its true class has at least this probability; 0.7
            when unset.
        min_kept: For ohem: the minimum number of hard pixels per image, averaged over the batch;
            100,000 when unset.
        gamma: For focal: the exponent; 2 when unset.

    Example:
        >>> Loss("ohem", class_weights=[1.0, 2.0], threshold=0.8).check()
    """

    name: Literal["cross_entropy", "ohem", "dice", "lovasz", "focal"] = "cross_entropy"
    weight: float = 1.0
    class_weights: list[float] | Literal["data"] | None = None
    label_smoothing: float | None = None
    threshold: float | None = None
    min_kept: int | None = None
    gamma: float | None = None

    def check(self) -> None:
        """Raise UserError if a value is out of its range or an option of another loss.

        The constructor does not: the command line's parser tries several types for a list of
        losses, and would bury the error.
        """
        for key in sorted(set().union(*_OPTIONS.values())):  # sorted: the same error every time
            if getattr(self, key) is not None and key not in _OPTIONS[self.name]:
                names = " and ".join(name for name, keys in _OPTIONS.items() if key in keys)
                raise UserError(f"`{key}` is an option of {names}, not of {self.name}")
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

    Called on logits, float [B, K, H, W], and a mask of class indices, int64 [B, H, W]. It returns
    the sum, and each term by name without its weight, all of them scalars. Void pixels do not
    count; if all pixels are void, all values are 0.

    Args:
        losses: The terms.
        num_classes: K.

    Raises:
        UserError: There is no term, two have the same name, or a value does not fit.

    Example:
        >>> criterion = Criterion([Loss(), Loss("dice", weight=0.5)], num_classes=2)
        >>> logits = torch.tensor([[2.0, 0.0]]).view(1, 2, 1, 1)
        >>> total, terms = criterion(logits, torch.tensor([[[0]]]))
        >>> f"{total:.3f}", {name: f"{value:.3f}" for name, value in terms.items()}
        ('0.143', {'cross_entropy': '0.127', 'dice': '0.032'})
    """

    def __init__(self, losses: list[Loss], num_classes: int) -> None:
        super().__init__()
        names = [loss.name for loss in losses]
        if not losses or len(set(names)) < len(names):
            raise UserError(f"`loss` must be one or more different losses, got {names}")
        self.losses = losses
        for loss in losses:
            loss.check()
            given = loss.class_weights
            if isinstance(given, list) and len(given) != num_classes:
                raise UserError(
                    f"`class_weights` of the loss {loss.name} must have one weight for each of "
                    f"{num_classes} classes, got {len(given)}"
                )
            # Not in checkpoints: they come from the config or from the data.
            weights = torch.tensor(given) if isinstance(given, list) else None
            self.register_buffer(f"{loss.name}_weights", weights, persistent=False)

    @property
    def needs_class_weights(self) -> bool:
        """Whether `set_class_weights` must be called before the first use."""
        return any(loss.class_weights == "data" for loss in self.losses)

    def set_class_weights(self, weights: Tensor) -> None:
        """Set the weights [K] of the terms whose `class_weights` are "data"."""
        for loss in self.losses:
            if loss.class_weights == "data":
                self.register_buffer(f"{loss.name}_weights", weights, persistent=False)

    def forward(self, logits: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the weighted sum and its unweighted terms."""
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
        if weights is None and loss.class_weights == "data":
            raise UserError(
                f"the class weights of {loss.name} are to come from the data: call "
                "set_class_weights first, as `skseg fit` does, or give numbers"
            )
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
        elif loss.name == "dice":
            value = smp.losses.DiceLoss("multiclass", ignore_index=VOID)(logits, mask)
        else:
            value = smp.losses.LovaszLoss("multiclass", ignore_index=VOID)(logits, mask)
        return value


def ohem_cross_entropy(
    logits: Tensor,
    mask: Tensor,
    weights: Tensor | None = None,
    threshold: float = 0.7,
    min_kept: int = 100_000,
) -> Tensor:
    """Compute the mean cross-entropy over the hard pixels (online hard example mining).

    A pixel is hard if its true class has a probability below `threshold`, or if it is among the
    `min_kept` times B hardest pixels of the batch, as in mmsegmentation's OHEMPixelSampler.

    Args:
        logits: Float [B, K, H, W].
        mask: Class indices, int64 [B, H, W]; void pixels do not count, and not all may be void.
        weights: [K] factors of the pixels by true class, which do not decide what is hard.
        threshold: A probability above 0, at most 1.
        min_kept: Pixels per image, at least 1.

    Returns:
        A scalar.

    Example:
        >>> logits = torch.tensor([[4.0, 0.0, 4.0], [0.0, 0.0, 0.0]]).view(1, 2, 1, 3)
        >>> mask = torch.tensor([[[0, 0, VOID]]])  # easy, hard, void
        >>> loss = ohem_cross_entropy(logits, mask, min_kept=1)
        >>> bool(torch.isclose(loss, torch.tensor(2.0).log()))
        True
    """
    hardness = F.cross_entropy(logits, mask, ignore_index=VOID, reduction="none")  # [B, H, W]
    labeled = mask != VOID
    losses, classes = hardness[labeled], mask[labeled]
    kept = min(min_kept * len(mask), len(losses))
    kth_hardest = losses.detach().kthvalue(len(losses) - kept + 1).values
    hard = (losses > -math.log(threshold)) | (losses >= kth_hardest)
    factors = torch.ones_like(losses) if weights is None else weights[classes]
    factors = factors * hard
    return (losses * factors).sum() / hard.sum()
