"""The flags that several commands share."""

import argparse
from dataclasses import fields

from skseg.errors import UserError
from skseg.inference import InferenceSettings


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
