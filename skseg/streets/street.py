"""The plan of a street: its cross-section, its light, and the camera in it."""

from dataclasses import dataclass

import numpy as np

from skseg.streets.canvas import Camera, Floats

FAR = 130.0
"""The distance in meters to which a street is built."""


@dataclass(frozen=True)
class Street:
    """The cross-section of a street; every pair is left and right, in meters from the camera.

    Attributes:
        curb: The edges of the road.
        front: The positions of the fronts.
        verge: The width of a green strip beside the road, or 0.
        junction: The distances where a side street begins and ends.
        lanes: The middle of each lane, with the heading of its traffic.
        sun: The unit vector towards the sun.
        light: The share of the light that comes from the sun.
    """

    curb: tuple[float, float]
    front: tuple[float, float]
    verge: tuple[float, float]
    junction: tuple[float, float]
    lanes: tuple[tuple[float, float], ...]
    sun: Floats
    light: float


def plan_street(rng: np.random.Generator) -> Street:
    """Draw a random street: its lanes, its sides and the position of the sun."""
    lane_width, ours = rng.uniform(2.9, 3.6), int(rng.integers(1, 3))
    theirs, parking = int(rng.integers(0, 3)), rng.choice([0.3, 2.2], 2)
    right = lane_width / 2 + rng.normal(0, 0.25)
    lanes = [(right - lane_width * (i + 0.5), 0.0) for i in range(ours)]
    lanes += [(right - lane_width * (ours + i + 0.5), np.pi) for i in range(theirs)]
    curb = (right - lane_width * (ours + theirs) - parking[0], right + parking[1])
    verge = rng.choice([0.0, rng.uniform(1, 4)], 2, p=[0.6, 0.4])
    walk = rng.uniform(1.5, 4.5, 2)
    start = rng.uniform(14, 60)
    azimuth, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 1.2)
    sun = (
        np.cos(elevation) * np.sin(azimuth),
        np.sin(elevation),
        np.cos(elevation) * np.cos(azimuth),
    )
    return Street(
        curb=curb,
        front=(curb[0] - verge[0] - walk[0], curb[1] + verge[1] + walk[1]),
        verge=(verge[0], verge[1]),
        junction=(start, start + rng.uniform(7, 12)) if rng.random() < 0.6 else (FAR, FAR),
        lanes=tuple(lanes),
        sun=np.array(sun, np.float32),
        light=rng.choice([0.0, rng.uniform(0.3, 1)], p=[0.35, 0.65]),
    )


def set_up_camera(rng: np.random.Generator, height: int, width: int) -> Camera:
    """Draw a random camera for an image of this size in pixels."""
    return Camera(
        focal=width * rng.uniform(0.75, 1.15),
        center=width * rng.uniform(0.4, 0.6),
        horizon=height * rng.uniform(0.38, 0.5),
        height=rng.uniform(1.2, 1.9),
        bend=rng.choice([0.0, rng.normal(0, 0.0012)]),
    )
