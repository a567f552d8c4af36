"""A drawn street scene with its annotation, from a seed alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skseg.streets.canvas import Canvas
from skseg.streets.fronts import line_with_fronts
from skseg.streets.ground import paint_backdrop, paint_ground, paint_sky
from skseg.streets.placement import Growth, place_things
from skseg.streets.sensor import expose
from skseg.streets.street import plan_street, set_up_camera
from skseg.types import Image

_SUPERSAMPLING = 2  # smooth edges in the image


@dataclass(frozen=True)
class Scene:
    """A drawn image and its annotation, in the format of Cityscapes.

    Attributes:
        image: RGB, uint8 [H, W, 3].
        label_ids: Label ids, not training ids, uint8 [H, W].
        instance_ids: uint16 [H, W]: the label id times 1000 plus a number for classes with
            instances, else the label id.
    """

    image: Image
    label_ids: NDArray[np.uint8]
    instance_ids: NDArray[np.uint16]


def draw_scene(
    seed: int, height: int = 256, width: int = 512, growth: Growth | None = None
) -> Scene:
    """Draw the street scene of a seed.

    Args:
        seed: Seed that determines the scene.
        height: Height of the image, in pixels.
        width: Width of the image, in pixels.
        growth: A thing to draw larger, with its shadow; everything else stays the same.

    Returns:
        The image with its label ids and instance ids.

    Example:
        >>> scene = draw_scene(seed=0, height=64, width=128)
        >>> scene.image.shape, scene.label_ids.shape, scene.instance_ids.dtype
        ((64, 128, 3), (64, 128), dtype('uint16'))
    """
    rng = np.random.default_rng(seed)
    size = height * _SUPERSAMPLING, width * _SUPERSAMPLING
    canvas = Canvas(*size, set_up_camera(rng, *size), rng)
    street = plan_street(rng)
    haze_color = paint_sky(canvas, rng, street)
    paint_backdrop(canvas, rng)
    paint_ground(canvas, rng, street)
    things = line_with_fronts(canvas, rng, street) + place_things(canvas, rng, street, growth)
    for thing in sorted(things, key=lambda thing: -thing.distance):
        thing.draw()
    return Scene(*expose(canvas, rng, haze_color, _SUPERSAMPLING))
