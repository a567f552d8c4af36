"""Windows around objects, at their original size and growing: the inputs of the analysis."""

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
from skseg.types import VOID, Image, Mask

FACTORS = (1.0, 1.5, 2.0)
"""Sizes at which an object is shown, relative to its original size (the paper's figure 3)."""

SMALLEST_AREA = SIDES[0] ** 2
"""Smallest area in pixels of an object that is analyzed."""


class MaskObject(NamedTuple):
    """An object in a mask.

    Attributes:
        label: Class index.
        area: Number of pixels.
        box: Top, left, height and width in pixels.
    """

    label: int
    area: int
    box: tuple[int, int, int, int]


class Target(NamedTuple):
    """An object and the windows that the network is shown.

    Attributes:
        label: Class index.
        size: Bin of `skseg.metrics.objects`, by the area in the original image.
        windows: [S, S, 3] uint8 RGB, one for each factor.
    """

    label: int
    size: int
    windows: list[Image]


def find_objects(mask: Mask) -> list[MaskObject]:
    """Find the objects of at least `SMALLEST_AREA` pixels in class indices [H, W].

    An object is a connected component (8 neighbors) of one class, as in `skseg.metrics.objects`.

    Example:
        >>> mask = np.zeros((64, 64), np.uint8)
        >>> mask[10:30, 20:60] = 5
        >>> find_objects(mask)[1]
        MaskObject(label=5, area=800, box=(10, 20, 20, 40))
    """
    objects = []
    for label in np.unique(mask[mask != VOID]).tolist():
        own = (mask == label).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(own, connectivity=8)
        for left, top, width, height, area in stats[1:].tolist():  # 0 is the background
            if area >= SMALLEST_AREA:
                objects.append(MaskObject(label, area, (top, left, height, width)))
    return objects


def window_around(
    box: tuple[int, int, int, int], side: int, shape: tuple[int, ...]
) -> tuple[slice, slice]:
    """Center a square window on a box, moved as far as needed to lie inside the image.

    Args:
        box: Top, left, height and width in pixels.
        side: Side of the window in pixels; at most the image's shorter side.
        shape: Shape of the image, [H, W, ...].

    Returns:
        The window's rows and columns.

    Example:
        >>> window_around((0, 40, 10, 20), side=32, shape=(64, 128))
        (slice(0, 32, None), slice(34, 66, None))
    """
    top, left, height, width = box
    first_row, first_column = (
        min(max(start + extent // 2 - side // 2, 0), limit - side)
        for start, extent, limit in ((top, height, shape[0]), (left, width, shape[1]))
    )
    return slice(first_row, first_row + side), slice(first_column, first_column + side)


def original_targets(image: Image, mask: Mask, window: int, scale: float = 1.0) -> list[Target]:
    """Show every object at its original size.

    Args:
        image: [H, W, 3] uint8 RGB.
        mask: [H, W] class indices.
        window: Side of the windows, in pixels of the scaled image.
        scale: Factor on the sides of the image.
    """
    return [
        Target(found.label, _size_bin(found.area), [_crop(image, found.box, window, scale)])
        for found in find_objects(mask)
    ]


def cropped_targets(image: Image, mask: Mask, window: int, scale: float = 1.0) -> list[Target]:
    """Show objects growing by cropping and resizing, as the paper does.

    At factor f the image is scaled by f times `scale` and cropped around the object. The
    surroundings grow too, and are blurred if that scale is above 1. Objects that do not fit into
    the window at the last factor are left out, as they would be cut.

    Args:
        image: [H, W, 3] uint8 RGB.
        mask: [H, W] class indices.
        window: Side of the windows, in pixels of the scaled image.
        scale: Factor on the sides of the image.
    """
    return [
        Target(
            found.label,
            _size_bin(found.area),
            [_crop(image, found.box, window, scale * factor) for factor in FACTORS],
        )
        for found in find_objects(mask)
        if max(found.box[2:]) * scale * max(FACTORS) <= window
    ]


def growth_blurs(scale: float) -> bool:
    """Return whether `cropped_targets` enlarges images of this scale beyond their own pixels.

    If it does not, no pixel is interpolated. Windows at small factors then average more pixels, so
    they may still be sharper or less noisy than those at large factors.

    Example:
        >>> growth_blurs(1.0), growth_blurs(0.5)
        (True, False)
    """
    return scale * FACTORS[-1] > 1


def blurred_targets(image: Image, mask: Mask, window: int, scale: float = 1.0) -> list[Target]:
    """Show the objects of `cropped_targets` sharp, and as blurred as enlarging makes them.

    This is the control of growth by cropping. The second window is the first one, shrunk to as many
    pixels as the last factor's window comes from and enlarged again, so nothing in it grows. The
    arguments are those of `cropped_targets`.
    """
    small = round(window / max(1.0, scale * FACTORS[-1]))
    targets = []
    for target in cropped_targets(image, mask, window, scale):
        sharp = target.windows[0]
        blurred = resize(resize(sharp, small, small), window, window)
        targets.append(target._replace(windows=[sharp, blurred]))
    return targets


def redrawn_targets(
    root: Path, split: str, name: str, window: int, scale: float = 1.0
) -> list[Target]:
    """Show the central object of a drawn scene growing, with everything around it unchanged.

    The scene is drawn again with a larger object at the same place, so nothing is interpolated and
    the window does not move. The central object is the person, rider or vehicle nearest to the
    image's center that has at least `SMALLEST_AREA` pixels and fits into the window at the last
    factor.

    Args:
        root: Directory of the drawn scenes.
        split: One of their splits.
        name: Name of the scene.
        window: Side of the windows, in pixels of the scaled image.
        scale: Factor on the sides of the image.

    Returns:
        One target, or none if no object fits.
    """
    scene = redraw(root, split, name)
    height, width = scene.instance_ids.shape
    candidates: list[tuple[float, int, MaskObject]] = []
    for instance in np.unique(scene.instance_ids[scene.instance_ids >= 1000]).tolist():
        own = (scene.instance_ids == instance).astype(np.uint8)
        left, top, *extent = cv2.boundingRect(own)
        area = int(own.sum())
        if area < SMALLEST_AREA or max(extent) * scale * max(FACTORS) > window:
            continue
        label = list(LABEL_IDS.values()).index(instance // 1000)
        found = MaskObject(label, area, (top, left, extent[1], extent[0]))
        distance = np.hypot(top + extent[1] / 2 - height / 2, left + extent[0] / 2 - width / 2)
        candidates.append((float(distance), instance, found))
    if not candidates:
        return []
    _, instance, central = min(candidates)
    scenes = [redraw(root, split, name, Growth(instance % 1000, factor)) for factor in FACTORS]
    left, top, columns, rows = cv2.boundingRect(
        (scenes[-1].instance_ids == instance).astype(np.uint8)
    )
    box = (top, left, rows, columns)
    images = [_crop(drawn.image, box, window, scale) for drawn in scenes]
    return [Target(central.label, _size_bin(central.area), images)]


def read_split(
    spec: DatasetSpec, pairs: list[Pair], window: int, scale: float = 1.0
) -> Iterator[tuple[Pair, Image, Mask]]:
    """Yield each pair with its image [H, W, 3] and mask [H, W].

    Raises:
        UserError: A file cannot be read, or a scaled image is smaller than the window.
    """
    for pair in pairs:
        image, mask = read_pair(spec, pair)
        if min(mask.shape) < round(window / scale):
            scaled = "" if scale == 1 else f" before it is scaled by {scale:g}"
            raise UserError(
                f"`window` must be at most an image's shorter side, not {window}: {pair.image} has "
                f"{mask.shape[1]}x{mask.shape[0]} pixels{scaled}"
            )
        yield pair, image, mask


def _crop(image: Image, box: tuple[int, int, int, int], window: int, scale: float) -> Image:
    """Cut the square around a box that has `window` pixels a side after scaling, and scale it."""
    return resize(image[window_around(box, round(window / scale), image.shape)], window, window)


def _size_bin(area: int) -> int:
    return int(np.digitize(area, np.square(SIDES)))
