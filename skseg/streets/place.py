"""Where a thing stands, how the light falls on it, and helpers that all things share."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from skseg.data.cityscapes import LABEL_IDS
from skseg.streets.canvas import Canvas, Floats, Ink

STATIC = 4
"""The label id of street furniture, which belongs to no class."""


@dataclass(frozen=True)
class Place:
    """Where a thing stands, and how the light falls.

    Attributes:
        x: Meters to the right of the camera.
        z: Meters ahead.
        heading: Radians; 0 looks away from the camera.
        sun: The unit vector towards the sun.
        light: The share of the light that comes from the sun, from 0 to 1.
        number: Number of the thing in the scene.
    """

    x: float
    z: float
    heading: float
    sun: Floats
    light: float
    number: int

    def local(self, points: ArrayLike) -> Floats:
        """Turn points [n, 3] of a thing (ahead, up, aside) into those of the street."""
        ahead, up, aside = np.asarray(points, np.float32).T
        sin, cos = np.sin(self.heading), np.cos(self.heading)
        x, z = self.x + ahead * sin + aside * cos, self.z + ahead * cos - aside * sin
        return np.stack([x, up, z], 1)

    def shade(self, normal: Floats) -> float:
        """Return the brightness of a surface."""
        return (
            0.45 + 0.25 * float(normal[1]) + self.light * 0.6 * max(0.0, float(normal @ self.sun))
        )

    def ink(self, name: str) -> Ink:
        """Return the ink of an instance of a class."""
        label = LABEL_IDS[name]
        return Ink(label, label * 1000 + self.number, self.z)


Draw = Callable[[Canvas, np.random.Generator, Place], None]
"""A function that draws one thing."""


def paint_color(rng: np.random.Generator) -> Floats:
    """Draw a random color for cars, clothes and signs: often gray, sometimes bright."""
    gray = np.full(3, rng.uniform(0.06, 0.9))
    tint = rng.random(3) ** 1.5
    share = rng.choice([0.08, 0.35, 0.85], p=[0.5, 0.25, 0.25])
    return np.asarray((1 - share) * gray + share * tint, np.float32)


def shade_below(canvas: Canvas, place: Place, length: float, width: float, height: float) -> None:
    """Darken the ground below a box and in its shadow."""
    half = np.array([(a * length / 2, 0.0, s * width / 2) for a in (-1, 1) for s in (-1, 1)])
    base = place.local(half)
    canvas.shade(base, 0.6)
    if place.light > 0.2:
        offset = -place.sun / max(place.sun[1], 0.3) * height
        canvas.shade(np.concatenate([base, base + np.array([offset[0], 0, offset[2]])]), 0.35)


def leaf_color(rng: np.random.Generator) -> Floats:
    """Draw a random color of leaves: green, or brown in autumn."""
    green = np.array([0.22, 0.36, 0.12]) + rng.normal(0, 0.04, 3)
    autumn = np.array([0.42, 0.30, 0.12]) + rng.normal(0, 0.05, 3)
    share = rng.choice([0.0, rng.random()], p=[0.75, 0.25])
    color = (1 - share) * green + share * autumn
    return np.asarray(np.clip(color, 0.03, 1), np.float32)


def stuff(name: str, z: float) -> Ink:
    """Return the ink of a class without instances."""
    return Ink(LABEL_IDS[name], LABEL_IDS[name], z)
