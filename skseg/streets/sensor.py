"""From a painted canvas to the image of a camera: haze, lens, noise, the hood of its own car."""

import cv2
import numpy as np
from numpy.typing import NDArray

from skseg.streets.canvas import Canvas, Floats
from skseg.streets.place import paint_color

_EGO_VEHICLE, _OUT_OF_ROI = 1, 3


def expose(
    canvas: Canvas, rng: np.random.Generator, haze_color: Floats, scale: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint16]]:
    """Take the image of a canvas that is `scale` times as large.

    Returns:
        The image, uint8 [H, W, 3]; label ids, uint8 [H, W]; instance ids, uint16 [H, W].
    """
    visibility = np.float32(rng.choice([90, 200, 500], p=[0.15, 0.45, 0.4]))
    haze = 1 - np.exp(-canvas.depth / visibility)
    rgb = canvas.rgb + (haze_color - canvas.rgb) * haze[..., None]
    rgb = cv2.GaussianBlur(rgb, (0, 0), rng.uniform(0.7, 1.5))
    height, width = (size // scale for size in canvas.labels.shape)
    rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
    v, u = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    vignette = 1 - rng.uniform(0, 0.25) * (u * u + v * v) / 2
    cast = rng.uniform(0.7, 1.35) * (1 + rng.normal(0, 0.035, 3))
    rgb *= (vignette[..., None] * cast).astype(np.float32)
    rgb = np.clip(rgb, 0, 1) ** np.float32(rng.uniform(0.75, 1.1))
    noise = rng.standard_normal(rgb.shape, np.float32)
    rgb += noise * np.float32(rng.uniform(0.004, 0.025))

    labels = canvas.labels[1::scale, 1::scale].copy()
    instances = canvas.instances[1::scale, 1::scale].copy()
    if rng.random() < 0.4:
        _hood(rng, rgb, labels, instances)
    if rng.random() < 0.3:  # the border that rectifying leaves
        border = max(1, height // 100)
        for side in (np.s_[:border], np.s_[-border:], np.s_[:, :border], np.s_[:, -border:]):
            labels[side] = instances[side] = _OUT_OF_ROI
            rgb[side] = 0
    image = np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8)
    return image, labels, instances


def _hood(
    rng: np.random.Generator,
    rgb: Floats,
    labels: NDArray[np.uint8],
    instances: NDArray[np.uint16],
) -> None:
    """Cover the bottom of the image with the hood of the camera's own car."""
    height, width = labels.shape
    u = np.linspace(-1, 1, width)[None] / rng.uniform(0.9, 1.4)
    edge = height * (1 - rng.uniform(0.05, 0.12) * np.clip(1 - u**4, 0, 1))
    rows = np.arange(height)[:, None]
    mask = rows > edge
    color = paint_color(rng) * 0.6
    shine = 1.5 - 0.8 * (rows - edge) / (0.12 * height)
    rgb[mask] = (shine[..., None] * color)[mask]
    labels[mask] = instances[mask] = _EGO_VEHICLE
