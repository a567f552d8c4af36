"""From the values or colors of a mask file to class indices."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from skseg.data.files import Color
from skseg.errors import UserError
from skseg.types import VOID, Mask

_UNMAPPED = 254  # between the last possible class and void
_MOST_NAMED = 10  # values or colors in an error message


def remap_colors(
    mask: NDArray[np.uint8], classes: Mapping[Color, int], path: Path, hint: str = ""
) -> Mask:
    """Turn the colors of a mask file into class indices.

    Args:
        mask: uint8 [H, W, 3] RGB.
        classes: The class index, or `VOID`, of each color that may occur.
        path: The mask file, for the error message.
        hint: How to correct the mistake, for the error message.

    Returns:
        uint8 [H, W].

    Raises:
        UserError: A color has no entry in `classes`; the message has the number of its pixels.

    Example:
        >>> mask = np.array([[[255, 0, 0], [0, 0, 0]]], np.uint8)
        >>> remap_colors(mask, {(0, 0, 0): 0, (255, 0, 0): 1}, Path("mask.png")).tolist()
        [[1, 0]]
    """
    codes = mask.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    known = np.array([red << 16 | green << 8 | blue for red, green, blue in classes], np.int32)
    order = np.argsort(known)
    places = np.searchsorted(known[order], codes).clip(max=len(known) - 1)
    is_known = known[order][places] == codes
    if not is_known.all():
        values, counts = np.unique(codes[~is_known], return_counts=True)
        most = np.argsort(-counts, kind="stable")[:_MOST_NAMED]
        listed = ", ".join(
            f"[{values[i] >> 16}, {values[i] >> 8 & 255}, {values[i] & 255}] ({counts[i]} pixels)"
            for i in most
        )
        more = f" and {len(values) - len(most)} more" if len(values) > len(most) else ""
        raise UserError(f"{path}: mask color(s) {listed}{more} stand for no class{hint}")
    return np.asarray(np.array(list(classes.values()), np.uint8)[order][places])


def remap(mask: NDArray[np.uint8], classes: Mapping[int, int], path: Path, hint: str = "") -> Mask:
    """Turn the values of a mask file into class indices.

    Args:
        mask: uint8 [H, W].
        classes: The class index, or `VOID`, of each value that may occur. 255 is void unless it
            has an entry.
        path: The mask file, for the error message.
        hint: How to correct the mistake, for the error message; `{values}` stands for the values.

    Returns:
        uint8 [H, W].

    Raises:
        UserError: A value has no entry in `classes`.

    Example:
        >>> remap(np.array([[7, 8, 255]], np.uint8), {7: 0, 8: 1}, Path("mask.png")).tolist()
        [[0, 1, 255]]
    """
    table = np.full(256, _UNMAPPED, np.uint8)
    table[VOID] = VOID
    table[list(classes)] = list(classes.values())
    indices = cv2.LUT(mask, table).astype(np.uint8, copy=False)
    if indices.max() >= _UNMAPPED and (unmapped := indices == _UNMAPPED).any():
        values = ", ".join(map(str, np.unique(mask[unmapped])[:_MOST_NAMED]))
        raise UserError(
            f"{path}: mask value(s) {values} stand for no class; {_allowed(classes)}"
            f"{hint.format(values=values)}"
        )
    return indices


def _allowed(classes: Mapping[int, int]) -> str:
    """Write the values of classes and of void."""
    labeled = [value for value, index in classes.items() if index != VOID]
    void = [value for value, index in classes.items() if index == VOID]
    void += [VOID] if VOID not in classes else []
    said = f"the classes have {_ranges(labeled)}"
    return f"{said}, and void {_ranges(void)}" if void else said


def _ranges(values: Iterable[int]) -> str:
    """Write whole numbers as ranges: "0 to 10, 12"."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
