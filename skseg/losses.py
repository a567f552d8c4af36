"""Losses on logits and class indices."""

import torch
import torch.nn.functional as F
from torch import Tensor

from skseg.contract import VOID


def cross_entropy(logits: Tensor, mask: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over the pixels that are not void.

    Args:
        logits: [B, K, H, W] float.
        mask: [B, H, W] int64 class indices, void is ignored.
        weight: [K], how much a pixel of each class counts; the mean is weighted too.

    Returns:
        A scalar; 0 when all pixels are void, where torch's own mean is NaN.
    """
    total = F.cross_entropy(logits, mask, weight, ignore_index=VOID, reduction="sum")
    valid = mask != VOID
    count = valid.sum() if weight is None else weight[mask.where(valid, 0)].mul(valid).sum()
    return total / count.clamp(min=torch.finfo(logits.dtype).tiny)
