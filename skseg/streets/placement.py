"""Which things occur in a street, how often, and where."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from skseg.streets import people, scenery, vehicles
from skseg.streets.canvas import Canvas
from skseg.streets.place import Draw, Place
from skseg.streets.street import Street


@dataclass(frozen=True)
class Kind:
    """How often a thing occurs, and where.

    Attributes:
        draw: Draws one.
        count: The mean number in a scene.
        where: `lane`, `curb` (parked at it), `walk` (on the sidewalk), `kerb` (the sidewalk's
            edge), `crossing` (on the road, across) or `back` (behind the fronts).
        depth: The range of distances, in metres.
    """

    draw: Draw
    count: float
    where: str
    depth: tuple[float, float]


KINDS = (
    Kind(vehicles.car, 3.0, "lane", (7, 60)),
    Kind(vehicles.car, 4.0, "curb", (6, 50)),
    Kind(vehicles.truck, 0.9, "lane", (11, 40)),
    Kind(vehicles.truck, 0.5, "curb", (11, 40)),
    Kind(vehicles.bus, 1.3, "lane", (12, 45)),
    Kind(people.cyclist, 1.2, "lane", (4, 22)),
    Kind(people.cyclist, 0.7, "crossing", (5, 22)),
    Kind(people.biker, 1.2, "lane", (4, 22)),
    Kind(people.bicycle, 1.8, "walk", (3, 18)),
    Kind(people.motorcycle, 1.6, "curb", (4, 20)),
    Kind(people.person, 5.0, "walk", (3, 35)),
    Kind(people.person, 1.5, "crossing", (5, 30)),
    Kind(scenery.tree, 3.0, "kerb", (7, 80)),
    Kind(scenery.tree, 6.0, "back", (8, 100)),
    Kind(scenery.bush, 3.0, "back", (5, 60)),
    Kind(scenery.lamp_post, 4.0, "kerb", (4, 60)),
    Kind(scenery.traffic_sign, 3.0, "kerb", (4, 35)),
    Kind(scenery.traffic_light, 2.2, "kerb", (5, 35)),
    Kind(scenery.bin_or_box, 1.2, "walk", (8, 40)),
)


class Growth(NamedTuple):
    """One thing of a scene, drawn larger than it is.

    Attributes:
        number: The thing's own, the last three digits of its instance id.
        factor: Of its sides in the picture, about the point where it stands.
    """

    number: int
    factor: float


_LONG = (vehicles.truck, vehicles.bus)

Thing = tuple[float, Callable[[], None]]
"""A distance, and what draws the thing there."""


def place_things(
    canvas: Canvas, rng: np.random.Generator, street: Street, growth: Growth | None = None
) -> list[Thing]:
    """Places things of all kinds, where they do not run into each other; one may be grown."""
    things: list[Thing] = []
    taken: list[tuple[float, float, float]] = []
    for kind in KINDS:
        for _ in range(rng.poisson(kind.count)):
            # Even in the logarithm, so that near and far are about as many.
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
                draw = partial(_draw_grown, kind.draw, canvas, stream, place, growth.factor)
            things.append((z, draw))
    return things


def _draw_grown(
    draw: Draw, canvas: Canvas, rng: np.random.Generator, place: Place, factor: float
) -> None:
    """Draws a thing through a lens that enlarges about its foot: no pixel is interpolated."""
    camera = canvas.camera
    canvas.camera = camera.enlarged(factor, camera.project([[place.x, 0, place.z]])[0])
    draw(canvas, rng, place)
    canvas.camera = camera


def _where(
    rng: np.random.Generator, where: str, street: Street, z: float
) -> tuple[float, float, float]:
    """Chooses x, a heading, and the room that a thing takes up along the street."""
    side = int(rng.integers(2))
    sign, curb, front = (-1, 1)[side], street.curb[side], street.front[side]
    match where:
        case "lane":
            x, heading = street.lanes[rng.integers(len(street.lanes))]
            return x + rng.normal(0, 0.3), heading + rng.normal(0, 0.05), 7
        case "curb":
            heading = np.pi if sign < 0 and len(street.lanes) > 1 else 0.0
            return curb - sign * rng.uniform(0.9, 1.2), heading + rng.normal(0, 0.04), 5.5
        case "walk":
            inner = abs(curb) + street.verge[side] + 0.3
            x = sign * rng.uniform(inner, max(inner, abs(front) - 0.3))
            return x, rng.uniform(0, 2 * np.pi), 0.3
        case "kerb":
            return curb + sign * rng.uniform(0.3, 0.8), 0, 0.3
        case "crossing":
            return rng.uniform(*street.curb), rng.choice([-1, 1]) * np.pi / 2, 1
        case _:
            return front + sign * rng.uniform(1.5, 12), 0, 0
