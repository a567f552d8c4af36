"""How a picture goes through a network, and the flags that say so."""

import argparse
from dataclasses import dataclass, fields
from typing import Literal

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


def add_inference_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for each of the settings; `inference_settings` reads them."""
    default = InferenceSettings()
    group = parser.add_argument_group("inference")
    group.add_argument(
        "--window",
        type=int,
        nargs="+",
        metavar="PIXELS",
        help="side, or height and width, of a sliding window; the whole picture when unset",
    )
    group.add_argument(
        "--overlap", type=float, default=default.overlap, help="share of a window (default: 0.5)"
    )
    group.add_argument(
        "--blend", default=default.blend, help="of windows: gaussian (default) or uniform"
    )
    group.add_argument(
        "--scales", type=float, nargs="+", default=default.scales, help="factors (default: 1)"
    )
    group.add_argument("--flip", action="store_true", help="see the mirror image too")
    group.add_argument("--precision", default=default.precision, help="32 (default) or bf16")


def inference_settings(args: argparse.Namespace) -> InferenceSettings:
    """Read the settings from parsed flags.

    Raises:
        UserError: a value is out of its range.
    """
    given = {field.name: getattr(args, field.name) for field in fields(InferenceSettings)}
    if args.window is not None:
        if len(args.window) > 2:
            raise UserError(f"--window has {len(args.window)} values; give a side, or two")
        given["window"] = (args.window[0], args.window[-1])
    given["scales"] = tuple(args.scales)
    return InferenceSettings(**given)
