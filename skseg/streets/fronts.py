"""The fronts at both sides of a street: buildings, walls, fences and hedges."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from skseg.data.cityscapes import LABEL_IDS
from skseg.streets.canvas import Canvas, Floats, Ink
from skseg.streets.place import Place, leaf_color, paint_color
from skseg.streets.placement import Drawable
from skseg.streets.street import FAR, Street

_Texture = Callable[[Canvas, np.random.Generator, float, float], Floats]

_PIECE = 12.0  # meters: a bent street bends its fronts between pieces, and haze grows
_DEPTH = 9.0  # meters from the front of a building to its back


@dataclass(frozen=True)
class FrontStyle:
    """One sort of front, at the side of a street.

    Attributes:
        label: The label id.
        chance: Its mean share of the fronts.
        heights: The range of heights, in meters.
        lengths: The range of lengths, in meters.
        texture: Function that paints one of a length and a height, float32 [h, w, 4]: RGB and
            opacity.
    """

    label: int
    chance: float
    heights: tuple[float, float]
    lengths: tuple[float, float]
    texture: _Texture


def line_with_fronts(canvas: Canvas, rng: np.random.Generator, street: Street) -> list[Drawable]:
    """Line both sides of a street with fronts, before and behind its junction, with gaps."""
    things: list[Drawable] = []
    for side, x in zip((-1, 1), street.front, strict=True):
        # Some sides are mostly houses, others mostly walls, and so on.
        weights = np.array([style.chance for style in STYLES]) * rng.gamma(1, 1, len(STYLES))
        gap = 0.15 * rng.random()
        z = 0.8
        while z < FAR:
            style = STYLES[rng.choice(len(STYLES), p=weights / weights.sum())]
            end = z + rng.uniform(*style.lengths)
            if z < street.junction[0] < end:
                end = street.junction[0]
            if end - z > 2 and rng.random() > gap:
                things.append(_front(canvas, rng, street, style, side, x, (z, end)))
                if style is not BUILDING and rng.random() < 0.4:  # a house behind it
                    back = x + side * rng.uniform(4, 9)
                    things.append(_front(canvas, rng, street, BUILDING, side, back, (z + 1, end)))
            z = street.junction[1] if end == street.junction[0] else end
    return things


def _front(
    canvas: Canvas,
    rng: np.random.Generator,
    street: Street,
    style: FrontStyle,
    side: int,
    x: float,
    span: tuple[float, float],
) -> Drawable:
    """Design a front from `span[0]` to `span[1]` meters ahead."""
    start, end = span
    height = rng.uniform(*style.heights)
    place = Place(x, start, 0, street.sun, street.light, 0)
    along = place.shade(np.array([-side, 0, 0], np.float32)) * 1.35
    across = place.shade(np.array([0, 0, -1], np.float32)) * 1.35
    picture = style.texture(canvas, rng, end - start, height)
    gable = style.texture(canvas, rng, _DEPTH, height)
    roof = rng.uniform(1.5, 3.5) if height < 10 and rng.random() < 0.7 else 0.0
    tiles = np.array([0.4, 0.22, 0.16]) * rng.uniform(0.5, 1.3)

    def ink(z: float) -> Ink:
        return Ink(style.label, style.label, z)

    def draw_gable() -> None:
        outer, ridge, top = x + side * _DEPTH, x + side * _DEPTH / 2, height + roof
        if roof:
            slope = [(x, height, end), (ridge, top, end), (ridge, top, start), (x, height, start)]
            canvas.polygon(slope, tiles * along, ink((start + end) / 2))
            point = [(x, height, start), (ridge, top, start), (outer, height, start)]
            canvas.polygon(point, gable[0, 0, :3] * across, ink(start))
        corners = [(x, height, start), (outer, height, start), (outer, 0, start), (x, 0, start)]
        canvas.texture(corners, _lit(gable, across), ink(start), holes=False)

    def draw() -> None:
        if style is BUILDING:
            draw_gable()
        edges = np.linspace(end, start, max(1, round((end - start) / _PIECE)) + 1)
        columns = np.rint((edges - start) / (end - start) * picture.shape[1]).astype(int)
        for (far, near), (right, left) in zip(pairwise(edges), pairwise(columns), strict=True):
            corners = [(x, height, near), (x, height, far), (x, 0, far), (x, 0, near)]
            piece = _lit(picture[:, left:right], along)
            canvas.texture(corners, piece, ink((near + far) / 2), holes=style is HEDGE)

    return Drawable(end, draw)


def _lit(picture: Floats, brightness: float) -> Floats:
    return picture * np.array([brightness] * 3 + [1], np.float32)


def facade(canvas: Canvas, rng: np.random.Generator, length: float, height: float) -> Floats:
    """Paint the front of a building, float32 [h, w, 4]."""
    dpm = 20
    w, h = max(8, round(length * dpm)), max(8, round(height * dpm))
    base = np.array([0.62, 0.55, 0.46]) * rng.uniform(0.45, 1.35) + rng.normal(0, 0.07, 3)
    picture = np.ones((h, w, 4), np.float32)
    picture[..., :3] = np.clip(base, 0.08, 0.95) * _grain(canvas, rng, h, w, 0.25)
    if rng.random() < 0.3:  # bricks
        picture[:: dpm // 4, :, :3] *= 0.85
    story, bay = rng.uniform(2.8, 3.6) * dpm, rng.uniform(1.6, 3.2) * dpm
    size = rng.uniform(0.4, 0.65) * bay, rng.uniform(0.45, 0.6) * story
    frame = np.clip(rng.choice([0.25, 0.9]) + rng.normal(0, 0.05, 3), 0, 1)
    ground = story if rng.random() < 0.5 else 0  # shops on the ground floor
    for floor in range(int((h - ground) // story)):
        low = h - ground - floor * story
        picture[int(low - 0.06 * story) : int(low), :, :3] *= 0.85
        for column in range(int(w // bay)):
            x, y = (column + 0.5) * bay - size[0] / 2, low - story * 0.25 - size[1]
            _pane(rng, picture, x, y, size, frame)
    if ground:
        picture[h - int(ground) :, :, :3] = paint_color(rng) * 0.7
        wide = rng.uniform(2.5, 4.5) * dpm
        for shop in range(int(w // wide)):
            window = (wide * 0.84, ground * 0.7)
            _pane(rng, picture, (shop + 0.08) * wide, h - ground * 0.75, window, frame)
            if rng.random() < 0.6:  # an awning
                top, left = int(h - ground * 0.95), int((shop + 0.05) * wide)
                bottom, right = top + int(ground * 0.17), left + int(wide * 0.9)
                picture[top:bottom, left:right, :3] = paint_color(rng)
    picture[: dpm // 3, :, :3] *= 0.7
    return picture


def _pane(
    rng: np.random.Generator,
    picture: Floats,
    x: float,
    y: float,
    size: tuple[float, float],
    frame: Floats,
) -> None:
    left, top, right, bottom = (round(v) for v in (x, y, x + size[0], y + size[1]))
    left, top = max(left, 0), max(top, 0)
    if rng.random() < 0.04 or right - left < 4 or bottom - top < 4:
        return
    picture[top:bottom, left:right, :3] = frame
    glass = np.array([0.16, 0.19, 0.22]) * rng.uniform(0.4, 2.2)
    picture[top + 2 : bottom - 2, left + 2 : right - 2, :3] = glass
    if rng.random() < 0.4:  # a curtain or a blind
        low = top + int((bottom - top) * rng.uniform(0.2, 0.7))
        picture[top + 2 : low, left + 2 : right - 2, :3] = rng.uniform(0.5, 0.85)
    middle = (left + right) // 2
    picture[top:bottom, middle : middle + 2, :3] = frame


def wall(canvas: Canvas, rng: np.random.Generator, length: float, height: float) -> Floats:
    """Paint a garden wall or a noise barrier, float32 [h, w, 4]."""
    h, w = max(8, round(height * 40)), max(8, round(length * 20))
    picture = np.ones((h, w, 4), np.float32)
    base = np.array([0.55, 0.5, 0.45]) * rng.uniform(0.5, 1.4) + rng.normal(0, 0.05, 3)
    picture[..., :3] = np.clip(base, 0.08, 0.95) * _grain(canvas, rng, h, w, 0.5)
    style = rng.random()
    if style < 0.4:
        for row, y in enumerate(range(0, h, 8)):
            picture[y : y + 1, :, :3] *= 0.7
            picture[y : y + 8, (row % 2) * 6 :: 12, :3] *= 0.75
    elif style < 0.7:
        picture[:, :: round(rng.uniform(2, 4) * 20), :3] *= 0.6
    picture[:4, :, :3] *= 1.25
    if rng.random() < 0.3:  # graffiti
        for _ in range(5):
            points = rng.integers((0, 0), (w, h), (4, 2)).astype(np.int32)
            cv2.polylines(picture, [points], False, [*paint_color(rng).tolist(), 1], 3)
    return picture


def fence(canvas: Canvas, rng: np.random.Generator, length: float, height: float) -> Floats:
    """Paint bars, boards, a guard rail or a mesh that can be seen through, float32 [h, w, 4]."""
    h, w = max(12, round(height * 40)), max(12, round(length * 20))
    picture = np.zeros((h, w, 4), np.float32)
    picture[..., :3] = np.clip(paint_color(rng) * 0.8, 0.05, 0.9) * _grain(canvas, rng, h, w, 0.3)
    style = rng.random()
    if style < 0.45:  # bars
        step = int(rng.integers(4, 9))
        for offset in range(max(1, step // 3)):
            picture[:, offset::step, 3] = 1
        picture[h // 10 : h // 6, :, 3] = picture[-h // 5 : -h // 8, :, 3] = 1
    elif style < 0.7:  # boards
        step = int(rng.integers(6, 12))
        picture[..., 3] = 1
        picture[:, ::step, 3] = 0
        picture[:, 1::step, :3] *= 0.7
    elif style < 0.85:  # a guard rail
        picture[: h // 2, :, 3] = 1
        picture[h // 5 : h // 4, :, :3] *= 0.6
        for offset in range(4):
            picture[:, offset::40, 3] = 1
    else:  # wire mesh
        picture[..., 3] = 0.25
        for offset in range(2):
            picture[:, offset::60, 3] = 1
        picture[:3, :, 3] = 1
        picture[::6, :, 3] = np.maximum(picture[::6, :, 3], 0.6)
        picture[:, ::6, 3] = np.maximum(picture[:, ::6, 3], 0.6)
    return picture


def hedge(canvas: Canvas, rng: np.random.Generator, length: float, height: float) -> Floats:
    """Paint a hedge with a ragged top, float32 [h, w, 4]."""
    h, w = max(8, round(height * 30)), max(8, round(length * 20))
    grain = _grain(canvas, rng, h, w, 1.4)
    picture = np.ones((h, w, 4), np.float32)
    rows = np.linspace(0, 1, h, dtype=np.float32)[:, None]
    picture[..., :3] = leaf_color(rng) * grain * (1.25 - 0.65 * rows[..., None])
    picture[..., 3] = rows > 0.22 * (grain[..., 0] - 0.3)
    return picture


def _grain(
    canvas: Canvas, rng: np.random.Generator, height: int, width: int, strength: float
) -> Floats:
    """Cut a piece of noise around 1, float32 [h, w, 1]."""
    rows = (rng.integers(512) + np.arange(height)) % 512
    columns = (rng.integers(512) + np.arange(width)) % 512
    noise = canvas.grain[np.ix_(rows, columns)][..., None]
    return np.asarray(1 + strength * (noise - 0.5), np.float32)


BUILDING = FrontStyle(LABEL_IDS["building"], 0.5, (5, 17), (8, 22), facade)
WALL = FrontStyle(LABEL_IDS["wall"], 0.18, (1.0, 3.2), (10, 30), wall)
FENCE = FrontStyle(LABEL_IDS["fence"], 0.22, (0.9, 2.0), (10, 30), fence)
HEDGE = FrontStyle(LABEL_IDS["vegetation"], 0.1, (0.8, 2.2), (8, 20), hedge)
STYLES = (BUILDING, WALL, FENCE, HEDGE)
