"""Cars, trucks and buses, made of prisms."""

import numpy as np
from numpy.typing import ArrayLike

from skseg.streets.canvas import Canvas, Floats, Ink
from skseg.streets.place import Place, paint_color, shade_below


def car(canvas: Canvas, rng: np.random.Generator, place: Place) -> None:
    """Draw a car, from a small one to a van."""
    van = rng.random() < 0.2
    length, width = rng.uniform(3.7, 4.9), rng.uniform(1.7, 1.9)
    waist = rng.uniform(0.85, 1.0) + 0.1 * van
    height = rng.uniform(1.85, 2.1) if van else rng.uniform(1.38, 1.65)
    color, ink = paint_color(rng), place.ink("car")
    glass = np.array([0.12, 0.15, 0.18], np.float32) * rng.uniform(0.5, 1.8)
    shade_below(canvas, place, length, width, height)
    half, w = length / 2, width / 2
    body = [(-half, 0.3), (-half * 0.98, waist), (half * 0.95, waist * 0.85), (half, 0.3)]
    _tires(canvas, place, half * 0.62, w, ink)
    _prism(canvas, place, body, [w] * 4, color, ink)
    rear, front = -half * (0.97 if van else rng.uniform(0.7, 0.97)), half * (0.6 if van else 0.45)
    slope = 0.1 if van else rng.uniform(0.25, 0.6)
    cabin = [(rear, waist), (rear + slope * 0.6, height), (front - slope, height), (front, waist)]
    _wheels(canvas, place, [-half * 0.62, half * 0.62], 0.32, w, ink)
    _prism(canvas, place, cabin, [w * 0.97, w * 0.8, w * 0.8, w * 0.97], color, ink, glass)
    lamp_width, lamp_low = rng.uniform(0.08, 0.18), waist * rng.uniform(0.6, 0.8)
    _lamps(canvas, place, half, (w * 0.95 - lamp_width, lamp_width), (lamp_low, waist * 0.88), ink)
    for end in (-half, half):
        _panel(canvas, place, end, (-0.26, 0.26, 0.45, 0.57), np.array([0.85, 0.85, 0.8]), ink)
        _panel(canvas, place, end, (-w, w, 0.25, 0.38), np.full(3, 0.08), ink)


def truck(canvas: Canvas, rng: np.random.Generator, place: Place) -> None:
    """Draw a truck: a cab and a box or an open bed."""
    length, width, height = rng.uniform(6, 10), rng.uniform(2.2, 2.5), rng.uniform(2.8, 3.7)
    color, cargo, ink = paint_color(rng), paint_color(rng), place.ink("truck")
    glass = np.full(3, 0.12, np.float32)
    shade_below(canvas, place, length, width, height)
    half, w = length / 2, width / 2
    nose, cab_height = half - rng.uniform(1.6, 2.1), height * rng.uniform(0.75, 0.95)
    cab = [(nose, 0.5), (nose, cab_height), (half - 0.25, cab_height), (half, 1.3), (half, 0.5)]
    box_top = height if rng.random() < 0.75 else rng.uniform(1.5, 2.0)
    box = [(-half, 0.8), (-half, box_top), (nose - 0.15, box_top), (nose - 0.15, 0.8)]
    chassis = [(-half * 0.97, 0.5), (-half * 0.97, 0.8), (half, 0.8), (half, 0.5)]

    def draw_cab() -> None:
        _prism(canvas, place, cab, [w * 0.95] * 5, color, ink)
        _panel(canvas, place, half, (-w * 0.85, w * 0.85, 1.4, cab_height * 0.88), glass, ink)

    def draw_box() -> None:
        _tires(canvas, place, half * 0.7, w * 0.95, ink)
        _prism(canvas, place, chassis, [w * 0.8] * 4, np.full(3, 0.12, np.float32), ink)
        _wheels(canvas, place, [-half * 0.65, -half * 0.35, half * 0.75], 0.48, w * 0.98, ink)
        _prism(canvas, place, box, [w] * 4, cargo, ink)
        _panel(canvas, place, -half, (-0.02, 0.02, 0.85, box_top), np.full(3, 0.1), ink)

    looks_away = np.cos(place.heading) > 0
    for draw in (draw_cab, draw_box) if looks_away else (draw_box, draw_cab):
        draw()
    _lamps(canvas, place, half, (w * 0.8, 0.14), (0.55, 0.75), ink)


def bus(canvas: Canvas, rng: np.random.Generator, place: Place) -> None:
    """Draw a bus: a long box with one or two rows of windows."""
    length, width, height = rng.uniform(9, 12.5), 2.5, rng.uniform(2.9, 3.2)
    if rng.random() < 0.15:
        height = 4.2
    color, ink = paint_color(rng), place.ink("bus")
    glass = np.array([0.1, 0.12, 0.14], np.float32)
    shade_below(canvas, place, length, width, height)
    half, w = length / 2, width / 2
    box = [(-half, 0.3), (-half, height), (half, height), (half, 0.3)]
    _tires(canvas, place, half * 0.65, w, ink)
    _prism(canvas, place, box, [w] * 4, color, ink)
    side = _visible_side(canvas, place)
    rows = [(1.3, 2.35)] if height < 4 else [(1.2, 2.0), (2.7, 3.6)]
    bays = round(length / 1.5)
    for low, high in rows:
        for bay in range(bays):
            a, b = (-half + length * (bay + t) / bays for t in (0.06, 0.94))
            pane = [(a, low), (b, low), (b, high), (a, high)]
            points = np.array([(p, u, side * w * 1.005) for p, u in pane])
            canvas.polygon(place.local(points), glass * rng.uniform(0.6, 1.8), ink)
        for end in (-half, half):
            _panel(canvas, place, end, (-w * 0.88, w * 0.88, low, high), glass, ink)
    _wheels(canvas, place, [-half * 0.6, half * 0.65], 0.48, w, ink)
    sign = (-w * 0.6, w * 0.6, height - 0.45, height - 0.15)
    _panel(canvas, place, half, sign, np.array([0.9, 0.6, 0.1]), ink)
    _lamps(canvas, place, half, (w * 0.8, 0.13), (0.55, 0.85), ink)


def _prism(
    canvas: Canvas,
    place: Place,
    profile: list[tuple[float, float]],
    half_widths: list[float],
    color: ArrayLike,
    ink: Ink,
    glass: Floats | None = None,
) -> None:
    """Draw a convex side view (ahead, up) with a width; with `glass`, upright faces get panes."""
    left, right = (
        place.local([(a, u, s * w) for (a, u), w in zip(profile, half_widths, strict=True)])
        for s in (-1, 1)
    )
    middle = (left.mean(0) + right.mean(0)) / 2
    # The camera as seen from a place that the bend has moved aside.
    eye = np.array([-canvas.camera.bend * place.z**2, canvas.camera.height, 0])
    around = [*range(1, len(profile)), 0]
    strips = np.stack([left, left[around], right[around], right], 1)
    for face in (left, right, *strips):
        normal = np.cross(face[1] - face[0], face[2] - face[1])
        normal = normal / np.linalg.norm(normal)
        center = face.mean(0)
        normal *= np.sign(normal @ (center - middle))
        if normal @ (eye - center) <= 0:
            continue
        brightness = place.shade(normal)
        canvas.polygon(face, np.asarray(color) * brightness, ink)
        if glass is not None and normal[1] < 0.85:
            canvas.polygon(center + (face - center) * (0.86, 0.78, 0.86), glass * brightness, ink)


def _panel(
    canvas: Canvas,
    place: Place,
    ahead: float,
    box: tuple[float, float, float, float],
    color: ArrayLike,
    ink: Ink,
) -> None:
    """Draw a box (left, right, low, high) on the front or the back of a thing, if visible."""
    if np.cos(place.heading) * np.sign(ahead) < -0.1:
        left, right, low, high = box
        corners = [(left, low), (right, low), (right, high), (left, high)]
        canvas.polygon(place.local([(ahead, u, a) for a, u in corners]), color, ink)


def _lamps(
    canvas: Canvas,
    place: Place,
    half_length: float,
    aside: tuple[float, float],
    height: tuple[float, float],
    ink: Ink,
) -> None:
    """Draw headlights and tail lights; `aside` is the middle and half the width of one."""
    middle, half = aside
    for side in (-1, 1):
        box = (side * middle - half, side * middle + half, *height)
        _panel(canvas, place, -half_length, box, (0.65, 0.04, 0.03), ink)
        _panel(canvas, place, half_length, box, (0.95, 0.95, 0.85), ink)


def _tires(canvas: Canvas, place: Place, axle: float, half_width: float, ink: Ink) -> None:
    """Draw the treads of the tires below the front or the back."""
    for end in (-axle, axle):
        for side in (-1, 1):
            outer, inner = side * half_width, side * (half_width - 0.2)
            _panel(canvas, place, end, (outer, inner, 0, 0.6), (0.03, 0.03, 0.03), ink)


def _wheels(
    canvas: Canvas, place: Place, axles: list[float], radius: float, half_width: float, ink: Ink
) -> None:
    """Draw the wheels on the visible side."""
    aside = _visible_side(canvas, place) * half_width * 1.01
    angles = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    for axle in axles:
        for share, gray in ((1.0, 0.03), (0.55, 0.25)):
            ahead, up = (
                axle + share * radius * np.cos(angles),
                radius * (1 + share * np.sin(angles)),
            )
            rim = np.stack([ahead, up, np.full_like(up, aside)], 1)
            canvas.polygon(place.local(rim), (gray, gray, gray), ink)


def _visible_side(canvas: Canvas, place: Place) -> int:
    """Return -1 if the left side of a thing is visible, 1 if its right side is."""
    x = place.x + canvas.camera.bend * place.z**2
    return -1 if x * np.cos(place.heading) > place.z * np.sin(place.heading) else 1
