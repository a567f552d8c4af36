"""The relative error of one implementation compared with another."""

import torch


def relative(value: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest error as a share of the largest expected value."""
    value, expected = value.detach().double(), expected.detach()
    return float((value - expected).abs().max() / expected.abs().max())
