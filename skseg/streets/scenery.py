"""Plants, poles, signs and street furniture."""

import numpy as np

from skseg.streets.canvas import Canvas, Floats, Ink
from skseg.streets.place import STATIC, Place, leaf_color, paint_color, stuff

_LAMPS = ((0.95, 0.1, 0.05), (1.0, 0.65, 0.1), (0.15, 0.9, 0.45))

_RED, _BLUE, _YELLOW = (0.75, 0.08, 0.08), (0.1, 0.25, 0.65), (0.9, 0.75, 0.1)
_WHITE, _BLACK, _BARE = (0.9, 0.9, 0.9), (0.08, 0.08, 0.08), (0.5, 0.5, 0.5)

# Colors of a plate from the rim to the middle; the bare one is the back of a plate.
_PLATES = (
    (_RED, _WHITE, _BLACK),
    (_WHITE, _BLUE, _WHITE),
    (_RED, _RED, _WHITE),
    (_WHITE, _YELLOW, _BLACK),
    (_BLUE, _WHITE, _BLACK),
    (_BARE, _BARE, _BARE),
)


def tree(canvas: Canvas, rng: np.random.Generator, place: Place) -> None:
    """Draw a tree: a trunk, and branches or a crown of leafy clumps."""
    height = rng.uniform(4, 11)
    trunk, spread = height * rng.uniform(0.2, 0.4), height * rng.uniform(0.18, 0.3)
    ink, color = stuff("vegetation", place.z), leaf_color(rng) * (0.7 + 0.5 * place.light)
    bark = np.array([0.22, 0.17, 0.13]) * rng.uniform(0.6, 1.4)
    top = (place.x + rng.normal(0, 0.2), height * 0.7, place.z)
    canvas.stroke([(place.x, 0, place.z), top], height * 0.035, bark, ink)
    if rng.random() < 0.12:  # a bare tree
        for _ in range(14):
            start, turn = rng.uniform(0.3, 0.8), rng.normal(0, 0.8)
            length = height * (1 - start) * 0.8
            end = (place.x + np.sin(turn) * length, height * start + np.cos(turn) * length, place.z)
            canvas.stroke([(place.x, height * start, place.z), end], height * 0.01, bark, ink)
        return
    for _ in range(rng.integers(7, 13)):
        u, v = rng.uniform(-1, 1, 2) * np.sqrt(rng.random())
        size = spread * rng.uniform(0.8, 1.4)
        middle = (trunk + height) / 2 + v * (height - trunk) * 0.4
        point = (place.x + u * spread, middle, place.z)
        tint = color * rng.uniform(0.75, 1.15) * (1 + 0.15 * v)
        canvas.blob(point, (size * 1.3, size * 1.1), tint, ink, int(rng.integers(512)))


def bush(canvas: Canvas, rng: np.random.Generator, place: Place) -> None:
    """Draw a bush: leafy clumps on the ground."""
    size, ink = rng.uniform(0.7, 1.8), stuff("vegetation", place.z)
    color = leaf_color(rng) * (0.7 + 0.5 * place.light)
    for _ in range(3):
        point = (place.x + rng.normal(0, 0.4) * size, size * rng.uniform(0.25, 0.4), place.z)
        canvas.blob(point, (size * 1.2, size * 0.9), color, ink, int(rng.integers(512)))


def lamp_post(canvas: Canvas, rng: np.random.Generator, place: Place) -> None:
    """Draw a street lamp or a plain post."""
    height, ink = rng.uniform(4, 8), stuff("pole", place.z)
    color = np.full(3, rng.uniform(0.08, 0.6))
    toward = -np.sign(place.x) * rng.choice([0, 1, 1]) * rng.uniform(0.6, 2)
    line = [(place.x, 0, place.z), (place.x, height * 0.93, place.z)]
    canvas.stroke([*line, (place.x + toward, height, place.z)], rng.uniform(0.1, 0.2), color, ink)
    if toward:
        end = place.x + toward
        lamp = [(end - 0.3, height, place.z), (end + 0.3, height, place.z)]
        canvas.stroke(lamp, 0.14, np.full(3, 0.75), Ink(STATIC, STATIC, place.z))


def traffic_light(canvas: Canvas, rng: np.random.Generator, place: Place) -> None:
    """Draw a traffic light: a post with one or two heads and one lit lamp in each."""
    pole, light = stuff("pole", place.z), stuff("traffic light", place.z)
    height = rng.uniform(2.6, 3.4)
    color = np.full(3, rng.uniform(0.2, 0.6))
    line = [(place.x, 0, place.z), (place.x, height, place.z)]
    heads = [(place.x, height)]
    if rng.random() < 0.5:  # one more over the road
        over = place.x - np.sign(place.x) * rng.uniform(1.5, 3.5)
        line += [(place.x, 5.4, place.z), (over, 5.6, place.z)]
        heads.append((over, 5.2))
    canvas.stroke(line, 0.14, color, pole)
    shows_front = rng.random() < 0.75
    lit = int(rng.integers(3))
    for x, y in heads:
        left, right, low, high = x - 0.2, x + 0.2, y - 0.5, y + 0.55
        box = [(u, v, place.z) for u, v in ((left, low), (right, low), (right, high), (left, high))]
        canvas.polygon(box, np.full(3, 0.08), light)
        if shows_front:
            for i, lamp in enumerate(_LAMPS):
                tint = np.array(lamp) * (1.0 if i == lit else 0.13)
                canvas.disc((x, y + 0.36 - 0.33 * i, place.z), 0.12, tint, light)


def traffic_sign(canvas: Canvas, rng: np.random.Generator, place: Place) -> None:
    """Draw a traffic sign: a post with one or two plates, from the front or from behind."""
    pole, sign = stuff("pole", place.z), stuff("traffic sign", place.z)
    height, light = rng.uniform(2.0, 2.9), 0.65 + 0.4 * place.light
    post = [(place.x, 0, place.z), (place.x, height + 0.2, place.z)]
    canvas.stroke(post, 0.09, _BARE, pole)
    for plate in range(rng.choice([1, 2], p=[0.7, 0.3])):
        y, radius = height - 0.75 * plate, rng.uniform(0.3, 0.45)
        outline = _outline(int(rng.choice([3, 4, 8, 24])), upright=rng.random() < 0.25)
        colors = _PLATES[rng.integers(len(_PLATES))]
        for share, color in zip((1.0, 0.78, 0.3), colors, strict=True):
            points = [(place.x + a, y + b, place.z) for a, b in outline * radius * share]
            canvas.polygon(points, np.array(color) * light, sign)


def _outline(corners: int, *, upright: bool) -> Floats:
    """Return the shape of a plate, [n, 2]: a rectangle, or `corners` corners."""
    if upright:
        return np.array([(-0.7, -1), (0.7, -1), (0.7, 1), (-0.7, 1)], np.float32)
    # Octagons stand on a side, the others with a corner up.
    turn = np.pi / 2 + (np.pi / 8 if corners == 8 else 0)
    angles = turn + np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def bin_or_box(canvas: Canvas, rng: np.random.Generator, place: Place) -> None:
    """Draw street furniture, which belongs to no class."""
    w, h = rng.uniform(0.2, 0.6), rng.uniform(0.6, 1.5)
    corners = [(place.x + a, b, place.z) for a, b in ((-w, 0), (w, 0), (w, h), (-w, h))]
    canvas.polygon(corners, paint_color(rng) * 0.7, Ink(STATIC, STATIC, place.z))
