"""Persons, and two-wheelers with and without a rider."""

from collections.abc import Sequence

import numpy as np

from skseg.streets.canvas import Canvas
from skseg.streets.place import Place, paint_color, shade_below

_Limb = Sequence[tuple[float, float]]


def person(canvas: Canvas, rng: np.random.Generator, place: Place) -> None:
    """Draw a person who stands or walks."""
    height = rng.uniform(1.5, 1.92) if rng.random() < 0.85 else rng.uniform(0.95, 1.4)
    step = rng.uniform(-0.14, 0.14)
    shade_below(canvas, place, 0.35, 0.4, height)
    legs = [((side * 0.05, 0.47), (side * 0.06 + step * side, 0.02)) for side in (-1, 1)]
    arms = [
        ((side * 0.12, 0.8), (side * 0.16, 0.6), (side * 0.14 - side * step * 0.5, 0.45))
        for side in (-1, 1)
    ]
    _figure(canvas, rng, place, "person", height, 0.0, legs, arms)


def cyclist(canvas: Canvas, rng: np.random.Generator, place: Place) -> None:
    """Draw a bicycle and its rider."""
    _ride(canvas, rng, place, "bicycle")


def motorcyclist(canvas: Canvas, rng: np.random.Generator, place: Place) -> None:
    """Draw a motorcycle and its rider."""
    _ride(canvas, rng, place, "motorcycle")


def bicycle(canvas: Canvas, rng: np.random.Generator, place: Place) -> None:
    """Draw a parked bicycle."""
    _two_wheeler(canvas, rng, place, "bicycle")


def motorcycle(canvas: Canvas, rng: np.random.Generator, place: Place) -> None:
    """Draw a parked motorcycle."""
    _two_wheeler(canvas, rng, place, "motorcycle")


def _ride(canvas: Canvas, rng: np.random.Generator, place: Place, name: str) -> None:
    seen = _two_wheeler(canvas, rng, place, name)
    side = 0.09 * (1 - abs(seen))
    foot = rng.uniform(0.08, 0.3)
    legs = [
        ((-0.12 * seen - side, 0.5), (0.08 * seen - side * 1.3, 0.42), (0.0 - side, foot)),
        ((-0.12 * seen + side, 0.5), (0.1 * seen + side * 1.3, 0.38), (0.0 + side, 0.36 - foot)),
    ]
    arms = [
        (
            (0.06 * seen + s * side, 0.78),
            (0.15 * seen + s * side * 1.6, 0.66),
            (0.22 * seen + s * side * 1.4, 0.58),
        )
        for s in (-1, 1)
    ]
    height = rng.uniform(1.6, 1.85)
    _figure(canvas, rng, place, "rider", height, 0.06 * seen, legs, arms)


def _two_wheeler(canvas: Canvas, rng: np.random.Generator, place: Place, name: str) -> float:
    """Draw a bicycle or a motorcycle; return the visible share of its length, with a sign."""
    ink = place.ink(name)
    turn = float(np.sin(place.heading))
    seen = float(np.copysign(max(abs(turn), 0.12), turn))
    color = paint_color(rng)
    is_motor = name == "motorcycle"
    radius, base, tire = (0.31, 0.7, 0.13) if is_motor else (0.34, 0.52, 0.045)
    shade_below(canvas, place, 1.6, 0.5, 0.9)

    def points(line: list[tuple[float, float]]) -> list[tuple[float, float, float]]:
        return [(place.x + a * seen, u, place.z) for a, u in line]

    for axle in (-base, base):
        rim = [
            (axle + radius * float(np.cos(t)), radius + radius * float(np.sin(t)))
            for t in np.linspace(0, 2 * np.pi, 17)
        ]
        canvas.stroke(points(rim), tire, np.full(3, 0.05), ink)
        if is_motor:
            canvas.disc(points([(axle, radius)])[0], 0.12 * abs(seen), np.full(3, 0.35), ink)
    if is_motor:
        body = [(-0.75, 0.75), (-0.2, 0.72), (0.1, 0.92), (0.5, 0.95), (0.45, 0.5), (-0.3, 0.3)]
        canvas.polygon(points(body), color, ink)
        canvas.stroke(points([(0.7, 0.31), (0.45, 1.05)]), 0.09, np.full(3, 0.25), ink)
        canvas.stroke(points([(-0.3, 0.5), (-0.3, 0.85)]), 0.32 * (1.1 - abs(seen)), color, ink)
        lamp = np.array([0.7, 0.05, 0.05] if np.cos(place.heading) > 0 else [0.95, 0.95, 0.8])
        canvas.disc(points([(np.copysign(0.55, -np.cos(place.heading)), 0.85)])[0], 0.08, lamp, ink)
    else:
        frame = [(-base, radius), (-0.1, 0.3), (0.4, 0.78), (-0.2, 0.75), (-0.1, 0.3)]
        canvas.stroke(points(frame), 0.05, color, ink)
        canvas.stroke(points([(base, radius), (0.38, 0.95)]), 0.05, color, ink)
        canvas.stroke(points([(-base, radius), (-0.2, 0.75), (-0.24, 0.88)]), 0.05, color, ink)
        canvas.stroke(points([(-0.34, 0.9), (-0.12, 0.9)]), 0.08, np.full(3, 0.06), ink)
    middle, half = place.x + 0.4 * seen, 0.28 * (1 - abs(seen)) + 0.05
    handlebar = [(middle - half, 1.0, place.z), (middle + half, 1.0, place.z)]
    canvas.stroke(handlebar, 0.05, np.full(3, 0.1), ink)
    return seen


def _figure(
    canvas: Canvas,
    rng: np.random.Generator,
    place: Place,
    name: str,
    height: float,
    lean: float,
    legs: Sequence[_Limb],
    arms: Sequence[_Limb],
) -> None:
    """Draw a body from limbs (aside, up), in fractions of its height."""
    ink = place.ink(name)
    light = 0.6 + 0.5 * place.light
    skin = np.array([0.85, 0.62, 0.48]) * rng.uniform(0.35, 1.05) * light
    top, trousers = (paint_color(rng) * 0.8 * light for _ in range(2))
    girth, shoes = rng.uniform(0.85, 1.2), top * 0.3

    def points(limb: _Limb) -> list[tuple[float, float, float]]:
        return [(place.x + a * height, u * height, place.z) for a, u in limb]

    if rng.random() < 0.25:  # a coat or a skirt
        hem = rng.uniform(0.2, 0.4)
        cloth = ((-0.08, 0.55), (0.08, 0.55), (0.11, hem), (-0.11, hem))
        canvas.polygon(points(cloth), top * 0.9, ink)
    for leg in legs:
        canvas.stroke(points(leg), 0.085 * height * girth, trousers, ink)
        foot, ground = leg[-1]
        canvas.stroke(points([(foot, ground), (foot + 0.03, ground)]), 0.05 * height, shoes, ink)
    canvas.stroke(points(arms[0]), 0.055 * height, top * 0.75, ink)
    torso = ((-0.09, 0.8), (lean, 0.84), (0.09, 0.8), (0.075, 0.47), (-0.075, 0.47))
    canvas.polygon(points(tuple((a * girth + lean * (u > 0.6), u) for a, u in torso)), top, ink)
    canvas.stroke(points(arms[-1]), 0.055 * height, top * 0.9, ink)
    if rng.random() < 0.35:
        bag = points(((lean + rng.choice([-0.1, 0.1]), 0.62),))[0]
        canvas.disc(bag, 0.07 * height, paint_color(rng), ink)
    head = points(((lean * 1.4, 0.925),))[0]
    canvas.stroke([head, points(((lean, 0.82),))[0]], 0.05 * height, skin, ink)
    canvas.disc(head, 0.066 * height, skin, ink)
    cap = points(((lean * 1.4, 0.955),))[0]
    hair = paint_color(rng) if name == "rider" else np.array([0.25, 0.17, 0.1]) * rng.uniform(0, 2)
    canvas.disc(cap, 0.06 * height, hair, ink)
