"""The description of a network in a checkpoint, which may come from anywhere."""

import inspect
import math
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import fields
from types import UnionType
from typing import Any

from skseg.encoders import SKSettings
from skseg.models import build_model


def description_problem(spec: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a checkpoint's description of a network, None if nothing is.

    It may have the keys of `SegmentationTask.spec` only. `encoder_weights`, in it or in its
    `decoder`, would make smp download them.
    """
    own = set(inspect.signature(build_model).parameters) - {"decoder"}
    settings = {field.name for field in fields(SKSettings)}
    rules: dict[str, Callable[[Any], bool]] = {
        "class_names": lambda v: v and _are(v, str),
        "colors": lambda v: _are(v, list | tuple) and all(_is_color(c) for c in v),
        "mean": lambda v: v and _are(v, float | int) and all(map(math.isfinite, v)),
        "std": lambda v: v and _are(v, float | int) and all(0 < x < math.inf for x in v),
        "arch": lambda v: isinstance(v, str),
        "encoder_name": lambda v: isinstance(v, str),
        "encoder_depth": lambda v: isinstance(v, int | None),
        "encoder_output_stride": lambda v: isinstance(v, int | None),
        "decoder": lambda v: isinstance(v, dict) and _are([*v], str) and not own & v.keys(),
        "sk": lambda v: v is None or (isinstance(v, dict) and v.keys() <= settings),
    }
    for key, value in spec.items():
        if key not in rules:
            return f"its network has the unknown key {key!r}"
        if not rules[key](value):
            return f"its network has an invalid {key}: {textwrap.shorten(repr(value), 100)}"
    required = ("class_names", "colors", "mean", "std", "arch", "encoder_name")
    if missing := [key for key in required if key not in spec]:
        return f"its network lacks {', '.join(missing)}"
    if len(spec["colors"]) != len(spec["class_names"]) or len(spec["mean"]) != len(spec["std"]):
        return "the numbers of its class names and colors differ, or those of its mean and std"
    return None


def _is_color(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(type(part) is int and 0 <= part <= 255 for part in value)
    )


def _are(values: object, kind: type | UnionType) -> bool:
    """Whether a value is a list or tuple of one kind."""
    return isinstance(values, list | tuple) and all(isinstance(value, kind) for value in values)
