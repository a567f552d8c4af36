"""How far numbers are from those of another implementation."""

import torch


def relative(value: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest error as a share of the largest expected value."""
    value, expected = value.detach().double(), expected.detach()
    return float((value - expected).abs().max() / expected.abs().max())
