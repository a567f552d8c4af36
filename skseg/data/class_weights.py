"""Loss weights that balance classes by their share of the pixels."""

from torch import Tensor


def inverse_log_weights(counts: Tensor) -> Tensor:
    """Weigh classes by 1 / ln(1.02 + share of the pixels), as in ENet (Paszke et al., 2016).

    Args:
        counts: [K] labeled pixels of each class.

    Returns:
        [K] float32, from 1.42 for a class that covers everything to 50.5 for one that never occurs.

    Example:
        >>> import torch
        >>> inverse_log_weights(torch.tensor([900, 100])).round(decimals=2).tolist()
        [1.5299999713897705, 8.819999694824219]
    """
    share = counts.double() / counts.sum().clamp(min=1)
    return (1 / (1.02 + share).log()).float()
