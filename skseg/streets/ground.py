"""The background of a street: the sky, the horizon and the ground."""

import cv2
import numpy as np
from numpy.typing import NDArray

from skseg.data.cityscapes import LABEL_IDS
from skseg.streets.canvas import Canvas, Floats, Ink
from skseg.streets.place import leaf_color
from skseg.streets.street import Street


def paint_sky(canvas: Canvas, rng: np.random.Generator, street: Street) -> Floats:
    """Paint the sky over everything, and return the color of the haze."""
    height, width = canvas.labels.shape
    blue = np.array([0.35, 0.55, 0.85]) + rng.normal(0, 0.05, 3)
    gray = np.full(3, rng.uniform(0.55, 0.9))
    top = blue * street.light + gray * (1 - street.light)
    low = np.array([0.85, 0.87, 0.9]) + rng.normal(0, 0.04) * np.array([1, 0.3, -1])
    rows = np.clip(np.arange(height) / canvas.camera.horizon, 0, 1)[:, None, None]
    sky = top * (1 - rows) + low * rows
    # Clouds look flatter the nearer they are to the horizon.
    noise = np.roll(canvas.grain, rng.integers(512, size=2), (0, 1))
    v = (75 / (1.15 - rows[:, 0, 0])).astype(int) % 512
    u = (np.arange(width)[None, :] - width / 2) / (1.3 - rows[:, 0] * 0.9) * 0.35
    cover, contrast = rng.uniform(0.1, 0.9), rng.uniform(1.5, 4)
    clouds = np.clip((noise[v[:, None], u.astype(int) % 512] - cover) * contrast, 0, 1)
    soft = cv2.GaussianBlur(clouds, (0, 0), 2)[..., None]
    canvas.rgb[:] = sky
    canvas.rgb += soft * (rng.uniform(0.7, 1.0) - canvas.rgb)
    canvas.labels[:] = canvas.instances[:] = LABEL_IDS["sky"]
    canvas.depth[:] = 0  # the sky has its own haze
    return np.asarray(low, np.float32)


def paint_backdrop(canvas: Canvas, rng: np.random.Generator) -> None:
    """Close the horizon with far buildings and trees."""
    x = -260.0
    while x < 260:
        w, z = rng.uniform(8, 40), rng.uniform(140, 220)
        if rng.random() < 0.5:
            h = rng.uniform(5, 28)
            label = LABEL_IDS["building"]
            outline = [(x, -1, z), (x, h, z), (x + w, h, z), (x + w, -1, z)]
            gray = np.array([0.5, 0.48, 0.45]) * rng.uniform(0.6, 1.2)
            canvas.polygon(outline, gray, Ink(label, label, z))
        else:
            label, green = LABEL_IDS["vegetation"], leaf_color(rng)
            for step in np.arange(0, w, 5):
                size = rng.uniform(6, 15)
                point = (x + step, size * 0.35, z)
                canvas.blob(point, (size, size), green, Ink(label, label, z), int(step))
        x += w * rng.uniform(0.6, 1.1)


def paint_ground(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    """Paint everything below the horizon by its place on the ground."""
    camera = canvas.camera
    height, width = canvas.labels.shape
    first = int(camera.horizon) + 1
    rows = np.arange(first, height, dtype=np.float32)[:, None] + 0.5
    ahead = camera.focal * camera.height / (rows - camera.horizon)
    columns = np.arange(width, dtype=np.float32)[None, :]
    aside = (columns - camera.center) * ahead / camera.focal - camera.bend * ahead * ahead
    x = aside.astype(np.float32)
    z = np.broadcast_to(ahead, x.shape).astype(np.float32)

    grain, patches = (
        canvas.grain[(z * per_meter).astype(int) % 512, (x * per_meter).astype(int) % 512]
        for per_meter in (40, 6)
    )
    noise = (0.55 * grain + 0.45 * patches - 0.5) / (1 + z / 40)

    at_junction = (z > street.junction[0]) & (z < street.junction[1])
    is_road = ((x > street.curb[0]) & (x < street.curb[1])) | at_junction
    is_verge = (x < street.curb[0]) & (x > street.curb[0] - street.verge[0])
    is_verge |= (x > street.curb[1]) & (x < street.curb[1] + street.verge[1])
    is_back = (x < street.front[0]) | (x > street.front[1])

    gray = rng.uniform(0.22, 0.5) + rng.normal(0, 0.015, 3)
    paving = gray * rng.uniform(0.8, 1.6) + rng.normal(0, 0.03, 3)
    layers = (
        ("sidewalk", np.ones_like(is_road), paving, 0.3),
        ("terrain", is_verge | is_back, _grass(rng), 0.9),
        ("road", is_road, gray, 0.25),
    )
    rgb = canvas.rgb[first:]
    for name, mask, color, strength in layers:
        rgb[mask] = np.clip(color, 0.03, 1) * (1 + strength * noise[mask])[:, None]
        canvas.labels[first:][mask] = canvas.instances[first:][mask] = LABEL_IDS[name]
    canvas.depth[first:] = z

    is_walk = ~(is_road | is_verge | is_back)
    if rng.random() < 0.6:  # slabs
        size = rng.uniform(0.5, 1.2)
        rgb[is_walk & ((x % size < 0.04) | (z % size < 0.05))] *= 0.8
    for edge in street.curb:
        rgb[(np.abs(x - edge) < 0.09) & ~at_junction] *= rng.uniform(0.6, 1.5)
    _markings(rgb, rng, street, x, z, is_road, at_junction)
    if street.light > 0.2:  # the shadow of the fronts on the side of the sun
        side = 0 if street.sun[0] < 0 else 1
        reach = 9 * abs(street.sun[0]) / street.sun[1] * (0.7 + 0.6 * (np.floor(z / 13) % 3) / 2)
        inside = x - street.front[0] if side == 0 else street.front[1] - x
        rgb[(inside > 0) & (inside < reach) & ~at_junction] *= 1 - 0.45 * street.light


def _grass(rng: np.random.Generator) -> Floats:
    green, earth = np.array([0.32, 0.42, 0.16]), np.array([0.45, 0.37, 0.26])
    share = rng.random() ** 2
    return np.asarray((1 - share) * green + share * earth + rng.normal(0, 0.03, 3), np.float32)


def _markings(
    rgb: Floats,
    rng: np.random.Generator,
    street: Street,
    x: Floats,
    z: Floats,
    is_road: NDArray[np.bool_],
    at_junction: NDArray[np.bool_],
) -> None:
    """Paint lane lines and, in front of a junction, a crossing; worn to some degree."""
    paint = np.clip(np.array([0.85, 0.85, 0.82]) * rng.uniform(0.7, 1.1), 0, 1)
    wear = rng.uniform(0.3, 0.95)
    middles = [lane for lane, _ in street.lanes]
    lines = np.zeros_like(is_road)
    for left, right in zip(middles[1:], middles, strict=False):
        dashes = (z % 9 < 4) if rng.random() < 0.7 else np.ones_like(is_road)
        lines |= (np.abs(x - (left + right) / 2) < 0.07) & dashes
    if rng.random() < 0.5:
        lines |= np.abs(x - street.curb[1] + 0.25) < 0.07
    if rng.random() < 0.7:
        start = street.junction[0] - 4.5
        lines |= (z > start) & (z < start + 3) & (x % 1.0 < 0.5)
        lines |= (z > start - 1.6) & (z < start - 1.2) & (x > middles[0] - 1.7)
    lines &= is_road & ~at_junction
    rgb[lines] = wear * paint + (1 - wear) * rgb[lines]
