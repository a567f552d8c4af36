"""A street scene with its annotation, from nothing but a seed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skseg.streets.canvas import Canvas
from skseg.streets.fronts import line_with_fronts
from skseg.streets.ground import paint_backdrop, paint_ground, paint_sky
from skseg.streets.placement import Growth, place_things
from skseg.streets.sensor import expose
from skseg.streets.street import plan_street, set_up_camera

_SUPERSAMPLING = 2  # smooth edges in the image


@dataclass(frozen=True)
class Scene:
    """A drawn picture and its annotation, as Cityscapes has them.

    Attributes:
        image: RGB, uint8 `[H, W, 3]`.
        label_ids: Label ids, not training ids, uint8 `[H, W]`.
        instance_ids: uint16 `[H, W]`: the label id times 1000 plus a number for things that are
            counted, else the label id.
    """

    image: NDArray[np.uint8]
    label_ids: NDArray[np.uint8]
    instance_ids: NDArray[np.uint16]


def draw_scene(
    seed: int, height: int = 256, width: int = 512, growth: Growth | None = None
) -> Scene:
    """Draws the street scene of a seed.

    Args:
        seed: Everything about the scene follows from it.
        height: Of the picture, in pixels.
        width: Of the picture, in pixels.
        growth: A thing to draw larger, with its shadow; all else stays as it is.

    Returns:
        The picture with its label ids and instance ids.
    """
    rng = np.random.default_rng(seed)
    size = height * _SUPERSAMPLING, width * _SUPERSAMPLING
    canvas = Canvas(*size, set_up_camera(rng, *size), rng)
    street = plan_street(rng)
    haze_color = paint_sky(canvas, rng, street)
    paint_backdrop(canvas, rng)
    paint_ground(canvas, rng, street)
    things = line_with_fronts(canvas, rng, street) + place_things(canvas, rng, street, growth)
    for _, draw in sorted(things, key=lambda thing: -thing[0]):
        draw()
    return Scene(*expose(canvas, rng, haze_color, _SUPERSAMPLING))
