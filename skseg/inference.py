"""From normalised images of any size to logits of that size.

One path for validation, evaluation and prediction.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from skseg.models import InputRule


def padded_side(side: int, rule: InputRule) -> int:
    """Return the smallest side, at least `side` (pixels), that the rule allows."""
    return max(-(-side // rule.multiple) * rule.multiple, rule.minimum)


def predict_logits(model: nn.Module, image: Tensor, rule: InputRule) -> Tensor:
    """Run a model on whole images of any size.

    The image is padded right and bottom with zeros, after normalisation, to a size the model
    takes, and the logits are cropped back.

    Args:
        model: maps [B, C, H, W] to logits [B, K, H, W] for sides that `rule` allows.
        image: [B, C, H, W] float, normalised.
        rule: sides the model takes.

    Returns:
        [B, K, H, W] logits.
    """
    height, width = image.shape[-2:]
    bottom = padded_side(height, rule) - height
    right = padded_side(width, rule) - width
    logits: Tensor = model(F.pad(image, (0, right, 0, bottom)))
    return logits[..., :height, :width]
