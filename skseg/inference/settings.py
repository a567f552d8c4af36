"""How an image goes through a network, and on which device."""

from dataclasses import dataclass
from typing import Literal

import torch

from skseg.errors import check_values


@dataclass(frozen=True)
class InferenceSettings:
    """How an image goes through a network.

    Attributes:
        window: Height and width of the sliding window in pixels, which is cropped to the (scaled)
            image where it is larger; None runs the network on the whole image.
        overlap: Fraction of its side by which a window overlaps the next, from 0 to below 1. The
            last window of a row or column is moved to end with the image, so it may overlap more.
        blend: Weights of a window's logits: "gaussian" falls off from the center with a standard
            deviation of an eighth of the side (as nnU-Net, Isensee et al. 2021); "uniform" is 1.
        scales: Factors on both sides of the image.
        flip: Whether to add the left-right mirror image at each scale.
        precision: "32", or "bf16" for autocast to bfloat16.

    Raises:
        UserError: A value is out of range.

    Example:
        >>> InferenceSettings(window=(512, 512), scales=(0.75, 1.0, 1.25), flip=True).overlap
        0.5
        >>> InferenceSettings(overlap=1.0)
        Traceback (most recent call last):
        skseg.errors.UserError: `overlap` must be from 0 to below 1, got 1.0
    """

    window: tuple[int, int] | None = None
    overlap: float = 0.5
    blend: Literal["gaussian", "uniform"] = "gaussian"
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    precision: Literal["32", "bf16"] = "32"

    def __post_init__(self) -> None:
        rules = {
            "window": (self.window is None or min(self.window) >= 1, "sides of at least 1 pixel"),
            "overlap": (0 <= self.overlap < 1, "from 0 to below 1"),
            "blend": (self.blend in ("gaussian", "uniform"), "gaussian or uniform"),
            "scales": (
                bool(self.scales) and all(0 < s < float("inf") for s in self.scales),
                "one or more factors above 0",
            ),
            "precision": (self.precision in ("32", "bf16"), "32 or bf16"),
        }
        check_values(vars(self), rules)


def best_device() -> torch.device:
    """Return the CUDA device if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
