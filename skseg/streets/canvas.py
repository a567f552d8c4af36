"""A pinhole camera over a street, and a canvas whose labels follow every stroke.

Points are meters: x to the right, y up from the road, z ahead of the camera. Colors are RGB
fractions. Later strokes cover earlier ones, so things are painted from far to near.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]

_SUBPIXEL_BITS = 4


@dataclass(frozen=True)
class Camera:
    """A camera that looks along z from a point above the origin; the street may bend away.

    Attributes:
        focal: Focal length, in pixels.
        center: The column of the vanishing point.
        horizon: The row of the horizon.
        height: Height above the road, in meters.
        bend: Sideways shift of the street at 1 m ahead, in meters; it grows with the square.
    """

    focal: float
    center: float
    horizon: float
    height: float
    bend: float

    def project(self, points: ArrayLike) -> Floats:
        """Return the pixels [n, 2], column and row, of points [n, 3]."""
        x, y, z = np.asarray(points, np.float32).T
        z = np.maximum(z, 0.3)
        scale = self.focal / z
        columns = self.center + scale * (x + self.bend * z * z)
        rows = self.horizon + scale * (self.height - y)
        # Clipped, because cv2 counts pixels in fixed point; all of these are far outside.
        return np.asarray(np.clip(np.stack([columns, rows], 1), -1e4, 1e4), np.float32)

    def enlarged(self, factor: float, pixel: ArrayLike) -> "Camera":
        """Return the camera whose image is that of this one, enlarged about a pixel [2]."""
        column, row = np.asarray(pixel, float)
        return replace(
            self,
            focal=factor * self.focal,
            center=column + factor * (self.center - column),
            horizon=row + factor * (self.horizon - row),
        )

    def pixels(self, meters: float, z: float) -> float:
        """Return the apparent size of a length at a distance."""
        return meters * self.focal / max(z, 0.3)


@dataclass(frozen=True)
class Ink:
    """What a stroke leaves on the canvas besides its color.

    Attributes:
        label: The label id.
        instance: The instance id.
        z: The distance, in meters, which haze depends on.
    """

    label: int
    instance: int
    z: float


class Canvas:
    """An image with a label id, an instance id and a distance at every pixel."""

    def __init__(self, height: int, width: int, camera: Camera, rng: np.random.Generator):
        """Start with a black image without labels."""
        self.camera = camera
        self.rgb = np.zeros((height, width, 3), np.float32)
        self.labels = np.zeros((height, width), np.uint8)
        self.instances = np.zeros((height, width), np.uint16)
        self.depth = np.full((height, width), 1e3, np.float32)
        self.grain = fractal_noise(rng, 512)

    @contextmanager
    def enlarged(self, factor: float, point: ArrayLike) -> Iterator[None]:
        """Draw with a camera that enlarges about a point [3]; no pixel is interpolated."""
        camera = self.camera
        self.camera = camera.enlarged(factor, camera.project(np.asarray(point)[None])[0])
        try:
            yield
        finally:
            self.camera = camera

    def polygon(self, points: ArrayLike, color: ArrayLike, ink: Ink) -> None:
        """Fill a polygon of points [n, 3]."""
        self.fill(self.camera.project(points), color, ink)

    def fill(self, pixels: Floats, color: ArrayLike, ink: Ink) -> None:
        """Fill a polygon of pixels [n, 2]."""
        box = self._box(pixels)
        if box:
            self._paint(box, self._mask(pixels, box), color, ink)

    def stroke(self, points: ArrayLike, width: float, color: ArrayLike, ink: Ink) -> None:
        """Draw a line through points [n, 3], of a width in meters, with round ends."""
        pixels = self.camera.project(points)
        thickness = max(1, round(self.camera.pixels(width, ink.z)))
        box = self._box(pixels, margin=thickness)
        if box:
            top, bottom, left, right = box
            mask = np.zeros((bottom - top, right - left), np.uint8)
            path = np.rint(pixels - (left, top)).astype(np.int32)
            cv2.polylines(mask, [path], isClosed=False, color=1, thickness=min(thickness, 255))
            self._paint(box, mask > 0, color, ink)

    def disc(self, point: ArrayLike, radius: float, color: ArrayLike, ink: Ink) -> None:
        """Fill a circle that faces the camera, of a radius in meters."""
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        radius_px = max(0.7, self.camera.pixels(radius, ink.z))
        rim = np.stack([np.cos(angles), np.sin(angles)], 1) * radius_px
        self.fill(
            (self.camera.project(np.asarray(point)[None]) + rim).astype(np.float32), color, ink
        )

    def texture(self, corners: ArrayLike, picture: Floats, ink: Ink, *, holes: bool) -> None:
        """Stretch a picture over a flat quadrilateral in perspective.

        Args:
            corners: [4, 3]: top left, top right, bottom right, bottom left of the picture.
            picture: float32 [h, w, 4]: RGB and opacity.
            ink: Ink of the whole quadrilateral, or of its opaque pixels if there are `holes`.
            holes: Whether transparent pixels are not part of the thing.
        """
        pixels = self.camera.project(corners)
        box = self._box(pixels)
        if not box:
            return
        top, bottom, left, right = box
        height, width = picture.shape[:2]
        source = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
        target = pixels - np.array([left, top], np.float32)
        if abs(cv2.contourArea(target)) < 1:
            return
        warped = cv2.warpPerspective(
            picture,
            cv2.getPerspectiveTransform(source, target),
            (right - left, bottom - top),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        mask = self._mask(pixels, box)
        opacity = warped[..., 3:]
        if holes:
            mask &= opacity[..., 0] > 0.5
            color = warped[..., :3]
        else:
            color = opacity * warped[..., :3] + (1 - opacity) * self.rgb[top:bottom, left:right]
        self._paint(box, mask, color, ink)

    def blob(
        self, point: ArrayLike, size: tuple[float, float], color: Floats, ink: Ink, shift: int
    ) -> None:
        """Paint a leafy clump of a width and a height in meters; `shift` varies its leaves."""
        column, row = self.camera.project(np.asarray(point)[None])[0]
        half_width, half_height = (max(1.5, self.camera.pixels(s / 2, ink.z)) for s in size)
        corners = np.array(
            [[column - half_width, row - half_height], [column + half_width, row + half_height]]
        )
        box = self._box(corners.astype(np.float32))
        if not box:
            return
        top, bottom, left, right = box
        v = (np.arange(top, bottom, dtype=np.float32)[:, None] - row) / half_height
        u = (np.arange(left, right, dtype=np.float32)[None, :] - column) / half_width
        # The noise is laid out in meters of the clump, so that near leaves look bigger.
        columns = ((u * size[0] * 40).astype(np.int32) + shift) % 512
        rows = ((v * size[1] * 40).astype(np.int32) + shift // 2) % 512
        noise = self.grain[rows, columns]
        mask = u * u + v * v < 1.1 - 1.05 * noise
        light = (0.75 - 0.45 * v) * (0.45 + 1.1 * noise)
        self._paint(box, mask, color * light[..., None], ink)

    def shade(self, points: ArrayLike, strength: float) -> None:
        """Darken the ground below a polygon: a shadow."""
        pixels = self.camera.project(points)
        box = self._box(pixels)
        if box:
            top, bottom, left, right = box
            mask = self._mask(np.asarray(cv2.convexHull(pixels)[:, 0], np.float32), box)
            self.rgb[top:bottom, left:right][mask] *= 1 - strength

    def _box(self, pixels: Floats, margin: int = 0) -> tuple[int, int, int, int] | None:
        height, width = self.labels.shape
        left, top = (np.floor(pixels.min(0)) - margin).astype(int)
        right, bottom = (np.ceil(pixels.max(0)) + margin + 1).astype(int)
        top, bottom, left, right = max(top, 0), min(bottom, height), max(left, 0), min(right, width)
        return (top, bottom, left, right) if top < bottom and left < right else None

    def _mask(self, pixels: Floats, box: tuple[int, int, int, int]) -> NDArray[np.bool_]:
        top, bottom, left, right = box
        mask = np.zeros((bottom - top, right - left), np.uint8)
        fixed = np.rint((pixels - (left, top)) * 2**_SUBPIXEL_BITS).astype(np.int32)
        cv2.fillPoly(mask, [fixed], color=1, shift=_SUBPIXEL_BITS)
        return mask > 0

    def _paint(
        self,
        box: tuple[int, int, int, int],
        mask: NDArray[np.bool_],
        color: ArrayLike,
        ink: Ink,
    ) -> None:
        top, bottom, left, right = box
        area = np.s_[top:bottom, left:right]
        color = np.asarray(color, np.float32)
        self.rgb[area][mask] = color[mask] if color.ndim == 3 else color
        self.labels[area][mask] = ink.label
        self.instances[area][mask] = ink.instance
        self.depth[area][mask] = ink.z


def fractal_noise(rng: np.random.Generator, size: int) -> Floats:
    """Return noise of all scales, from 0 to 1, that is periodic: float32 [size, size]."""
    noise = np.zeros((size, size), np.float32)
    cells = 4
    while cells <= size // 2:
        coarse = np.pad(rng.random((cells, cells), np.float32), 2, mode="wrap")
        scale = size // cells
        fine = cv2.resize(coarse, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)
        noise += fine[2 * scale : -2 * scale, 2 * scale : -2 * scale] / cells**0.6
        cells *= 2
    low, high = np.percentile(noise, (1, 99))
    return np.asarray(np.clip((noise - low) / (high - low), 0, 1), np.float32)
