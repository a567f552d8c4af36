"""The things that occur in a street: how often, and where."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from skseg.streets import people, scenery, vehicles
from skseg.streets.canvas import Canvas
from skseg.streets.place import Draw, Place
from skseg.streets.street import Street

Spot = Literal["lane", "parked", "sidewalk", "sidewalk_edge", "crossing", "behind_fronts"]
"""Where a thing stands: in a lane, parked at the curb, anywhere on the sidewalk, on its edge beside
the curb, on the road and heading across, or behind the fronts of the houses."""


@dataclass(frozen=True)
class Occurrence:
    """How often things of one sort occur, and where.

    Attributes:
        draw: Function that draws one.
        count: The mean number in a scene.
        where: Where they stand; see `Spot`.
        depth: The range of distances, in meters.
    """

    draw: Draw
    count: float
    where: Spot
    depth: tuple[float, float]


OCCURRENCES = (
    Occurrence(vehicles.car, 3.0, "lane", (7, 60)),
    Occurrence(vehicles.car, 4.0, "parked", (6, 50)),
    Occurrence(vehicles.truck, 0.9, "lane", (11, 40)),
    Occurrence(vehicles.truck, 0.5, "parked", (11, 40)),
    Occurrence(vehicles.bus, 1.3, "lane", (12, 45)),
    Occurrence(people.cyclist, 1.2, "lane", (4, 22)),
    Occurrence(people.cyclist, 0.7, "crossing", (5, 22)),
    Occurrence(people.motorcyclist, 1.2, "lane", (4, 22)),
    Occurrence(people.bicycle, 1.8, "sidewalk", (3, 18)),
    Occurrence(people.motorcycle, 1.6, "parked", (4, 20)),
    Occurrence(people.person, 5.0, "sidewalk", (3, 35)),
    Occurrence(people.person, 1.5, "crossing", (5, 30)),
    Occurrence(scenery.tree, 3.0, "sidewalk_edge", (7, 80)),
    Occurrence(scenery.tree, 6.0, "behind_fronts", (8, 100)),
    Occurrence(scenery.bush, 3.0, "behind_fronts", (5, 60)),
    Occurrence(scenery.lamp_post, 4.0, "sidewalk_edge", (4, 60)),
    Occurrence(scenery.traffic_sign, 3.0, "sidewalk_edge", (4, 35)),
    Occurrence(scenery.traffic_light, 2.2, "sidewalk_edge", (5, 35)),
    Occurrence(scenery.bin_or_box, 1.2, "sidewalk", (8, 40)),
)


class Growth(NamedTuple):
    """A thing of a scene to be drawn larger than it is.

    Attributes:
        number: Number of the thing, the last three digits of its instance id.
        factor: Factor on its sides in the image, about the point where it stands.
    """

    number: int
    factor: float


_LONG = (vehicles.truck, vehicles.bus)


class Drawable(NamedTuple):
    """Something to draw, at its turn: a canvas is painted from far to near.

    Attributes:
        distance: Distance from the camera, in meters.
        draw: Function that draws it.
    """

    distance: float
    draw: Callable[[], None]


def place_things(
    canvas: Canvas, rng: np.random.Generator, street: Street, growth: Growth | None = None
) -> list[Drawable]:
    """Place things of all sorts so that they do not overlap on the ground; one may be grown."""
    things: list[Drawable] = []
    taken: list[tuple[float, float, float]] = []
    for kind in OCCURRENCES:
        for _ in range(rng.poisson(kind.count)):
            # Uniform in the logarithm, so that near and far things are about equally frequent.
            z = float(np.exp(rng.uniform(*np.log(kind.depth))))
            x, heading, room = _where(rng, kind.where, street, z)
            gap = 13.0 if kind.draw in _LONG else room
            if any(abs(x - a) < 2.2 and abs(z - b) < (gap + c) / 2 for a, b, c in taken):
                continue
            taken.append((x, z, gap))
            place = Place(x, z, heading, street.sun, street.light, len(things))
            stream = rng.spawn(1)[0]
            draw = partial(kind.draw, canvas, stream, place)
            if growth is not None and growth.number == place.number:
                draw = partial(_draw_grown, draw, canvas, place, growth.factor)
            things.append(Drawable(z, draw))
    return things


def _draw_grown(draw: Callable[[], None], canvas: Canvas, place: Place, factor: float) -> None:
    with canvas.enlarged(factor, (place.x, 0, place.z)):
        draw()


def _where(
    rng: np.random.Generator, where: Spot, street: Street, z: float
) -> tuple[float, float, float]:
    """Draw x, a heading, and the length that a thing occupies along the street, in meters."""
    side = int(rng.integers(2))
    sign, curb, front = (-1, 1)[side], street.curb[side], street.front[side]
    match where:
        case "lane":
            x, heading = street.lanes[rng.integers(len(street.lanes))]
            return x + rng.normal(0, 0.3), heading + rng.normal(0, 0.05), 7
        case "parked":
            heading = np.pi if sign < 0 and len(street.lanes) > 1 else 0.0
            return curb - sign * rng.uniform(0.9, 1.2), heading + rng.normal(0, 0.04), 5.5
        case "sidewalk":
            inner = abs(curb) + street.verge[side] + 0.3
            x = sign * rng.uniform(inner, max(inner, abs(front) - 0.3))
            return x, rng.uniform(0, 2 * np.pi), 0.3
        case "sidewalk_edge":
            return curb + sign * rng.uniform(0.3, 0.8), 0, 0.3
        case "crossing":
            return rng.uniform(*street.curb), rng.choice([-1, 1]) * np.pi / 2, 1
        case "behind_fronts":
            return front + sign * rng.uniform(1.5, 12), 0, 0
