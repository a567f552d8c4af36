"""Losses on logits and class indices."""

import torch.nn.functional as F
from torch import Tensor

from skseg.contract import VOID


def cross_entropy(logits: Tensor, mask: Tensor) -> Tensor:
    """Mean cross-entropy over the pixels that are not void.

    Args:
        logits: [B, K, H, W] float.
        mask: [B, H, W] int64 class indices, void is ignored.

    Returns:
        A scalar; 0 when all pixels are void, where torch's own mean is NaN.
    """
    total = F.cross_entropy(logits, mask, ignore_index=VOID, reduction="sum")
    return total / (mask != VOID).sum().clamp(min=1)
