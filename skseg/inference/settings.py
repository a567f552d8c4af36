"""How a picture goes through a network, and on which device."""

from dataclasses import dataclass
from typing import Literal

import torch

from skseg.errors import UserError


@dataclass(frozen=True)
class InferenceSettings:
    """How a picture goes through a network.

    Attributes:
        window: height and width of the sliding window in pixels; None takes the picture whole.
            A window is never larger than the (scaled) picture.
        overlap: share of its side by which a window overlaps the next, from 0 to below 1. The last
            one of a row or column is moved in to end with the picture, so it may overlap more.
        blend: weights of a window's logits: "gaussian" falls off from its centre with a standard
            deviation of an eighth of its side (as nnU-Net, Isensee et al. 2021), "uniform" is 1.
        scales: factors on both sides of the picture.
        flip: whether each scale is also seen as its left-right mirror image.
        precision: "32", or "bf16" for autocast to bfloat16.
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
        for key, (is_valid, expected) in rules.items():
            if not is_valid:
                raise UserError(f"--{key} is {getattr(self, key)!r}; it must be {expected}")


def best_device() -> torch.device:
    """Return a CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
