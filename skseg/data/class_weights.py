"""Loss weights that balance classes by their share of the pixels."""

from torch import Tensor


def inverse_log_weights(counts: Tensor) -> Tensor:
    """Weigh classes by 1 / ln(1.02 + share of the pixels), as in ENet (Paszke et al., 2016).

    Args:
        counts: [K] labelled pixels of each class.

    Returns:
        [K] float32, from 1.42 for a class that is everywhere to 50.5 for one that is nowhere.
    """
    share = counts.double() / counts.sum().clamp(min=1)
    return (1 / (1.02 + share).log()).float()
