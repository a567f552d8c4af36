"""What a network is shown to see how attention follows a target: windows around objects."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from skseg.data import LABEL_IDS, DatasetSpec, Pair, read_pair
from skseg.errors import UserError
from skseg.inference import resize
from skseg.metrics.objects import SIDES
from skseg.streets import Growth, redraw
from skseg.types import VOID
from skseg.viz import Image

FACTORS = (1.0, 1.5, 2.0)
"""How much larger than it is an object is shown (the paper's figure 3)."""

SMALLEST = SIDES[0] ** 2
"""Area in pixels from which on an object is looked at."""


Window = tuple[slice, slice]
"""Rows and columns of a picture."""


class Thing(NamedTuple):
    """An object in a mask.

    Attributes:
        label: its class index.
        area: in pixels.
        box: top, left, height and width, in pixels.
    """

    label: int
    area: int
    box: tuple[int, int, int, int]


class Target(NamedTuple):
    """An object and what the network is shown of it.

    Attributes:
        label: its class index.
        size: its bin of `skseg.metrics.objects`, by its area in the picture as it is.
        windows: [S, S, 3] uint8 RGB, one for each factor.
    """

    label: int
    size: int
    windows: list[Image]


def find_things(mask: Image) -> list[Thing]:
    """Find the objects of `SMALLEST` pixels and more in class indices [H, W].

    An object is a connected component (8 neighbours) of one class, as in `skseg.metrics.objects`.
    """
    things = []
    for label in np.unique(mask[mask != VOID]).tolist():
        own = (mask == label).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(own, connectivity=8)
        for left, top, width, height, area in stats[1:].tolist():  # 0 is the background
            if area >= SMALLEST:
                things.append(Thing(label, area, (top, left, height, width)))
    return things


def window_around(box: tuple[int, int, int, int], side: int, shape: tuple[int, ...]) -> Window:
    """Place a square of `side` pixels about a box's middle, but inside a picture [H, W, ...]."""
    top, left, height, width = box
    first_row, first_column = (
        min(max(start + extent // 2 - side // 2, 0), limit - side)
        for start, extent, limit in ((top, height, shape[0]), (left, width, shape[1]))
    )
    return slice(first_row, first_row + side), slice(first_column, first_column + side)


def still_targets(image: Image, mask: Image, side: int, scale: float = 1.0) -> list[Target]:
    """Show every object as it is on the scaled picture, in a window of `side` pixels around it."""
    return [
        Target(thing.label, _size(thing.area), [_show(image, thing.box, side, scale)])
        for thing in find_things(mask)
    ]


def cropped_targets(image: Image, mask: Image, side: int, scale: float = 1.0) -> list[Target]:
    """Show objects growing by cropping and resizing, as the paper does.

    At factor f the window around the object is what has `side` pixels on the picture scaled by f
    times `scale`. So the surroundings grow too, and are less sharp where that is above 1. Objects
    that do not fit into the smallest window are left out: they would be cut, not grow.
    """
    return [
        Target(
            thing.label,
            _size(thing.area),
            [_show(image, thing.box, side, scale * factor) for factor in FACTORS],
        )
        for thing in find_things(mask)
        if max(thing.box[2:]) * scale * max(FACTORS) <= side
    ]


def growth_blurs(scale: float) -> bool:
    """Say whether `cropped_targets` of pictures scaled so are enlarged beyond their own pixels.

    If not, no pixel is made up. The smaller windows are then averages of more of them, so sharper
    or less noisy they may still be.
    """
    return scale * FACTORS[-1] > 1


def blurred_targets(image: Image, mask: Image, side: int, scale: float = 1.0) -> list[Target]:
    """Show the objects of `cropped_targets` as they are, and as blurred as enlarging makes them.

    The control of growth by cropping: the second window is shrunk to the pixels that the last
    factor's is made of and enlarged again, so nothing in it grows.
    """
    small = round(side / max(1.0, scale * FACTORS[-1]))
    targets = []
    for target in cropped_targets(image, mask, side, scale):
        sharp = target.windows[0]
        blurred = resize(resize(sharp, small, small), side, side)
        targets.append(target._replace(windows=[sharp, blurred]))
    return targets


def redrawn_targets(
    root: Path, split: str, name: str, side: int, scale: float = 1.0
) -> list[Target]:
    """Show the central object of a drawn scene growing, everything around it unchanged.

    The scene is drawn again with the one object larger, about the point where it stands; nothing
    is interpolated. The window stays where it is. The central object is the person, rider or
    vehicle nearest to the picture's middle that has `SMALLEST` pixels and fits into the window when
    it has grown.

    Returns:
        One target, or none where no object fits.
    """
    scene = redraw(root, split, name)
    height, width = scene.instance_ids.shape
    found: list[tuple[float, int, Thing]] = []
    for instance in np.unique(scene.instance_ids[scene.instance_ids >= 1000]).tolist():
        own = (scene.instance_ids == instance).astype(np.uint8)
        left, top, *extent = cv2.boundingRect(own)
        area = int(own.sum())
        if area < SMALLEST or max(extent) * scale * max(FACTORS) > side:
            continue
        label = list(LABEL_IDS.values()).index(instance // 1000)
        thing = Thing(label, area, (top, left, extent[1], extent[0]))
        aside = np.hypot(top + extent[1] / 2 - height / 2, left + extent[0] / 2 - width / 2)
        found.append((float(aside), instance, thing))
    if not found:
        return []
    _, instance, thing = min(found)
    scenes = [redraw(root, split, name, Growth(instance % 1000, factor)) for factor in FACTORS]
    left, top, columns, rows = cv2.boundingRect(
        (scenes[-1].instance_ids == instance).astype(np.uint8)
    )
    box = (top, left, rows, columns)
    images = [_show(drawn.image, box, side, scale) for drawn in scenes]
    return [Target(thing.label, _size(thing.area), images)]


def read_split(
    spec: DatasetSpec, pairs: list[Pair], side: int, scale: float = 1.0
) -> Iterator[tuple[Pair, Image, Image]]:
    """Yield each pair with its image and mask.

    Raises:
        UserError: a file cannot be read, or a scaled picture is smaller than a window.
    """
    for pair in pairs:
        image, mask = read_pair(spec, pair)
        if min(mask.shape) < round(side / scale):
            scaled = "" if scale == 1 else f" before it is scaled by {scale:g}"
            raise UserError(
                f"--window {side}: {pair.image} has only {mask.shape[1]}x{mask.shape[0]} pixels"
                f"{scaled}"
            )
        yield pair, image, mask


def _show(image: Image, box: tuple[int, int, int, int], side: int, scale: float) -> Image:
    """Cut a square about a box that has `side` pixels once it is scaled."""
    return resize(image[window_around(box, round(side / scale), image.shape)], side, side)


def _size(area: int) -> int:
    return int(np.digitize(area, np.square(SIDES)))
