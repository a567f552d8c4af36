"""An image as the network sees it: at one scale, mirrored or not, window by window."""

from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from skseg.inference.logits import Network
from skseg.inference.settings import InferenceSettings
from skseg.pixels import normalize
from skseg.types import Image


class AxisWindow(NamedTuple):
    """The extent of a window along one axis, and the weights of its logits there.

    Attributes:
        start: Its first pixel.
        stop: The pixel after its last.
        weights: float64 [stop - start]; the weights of all windows over a pixel add up to 1.
    """

    start: int
    stop: int
    weights: Tensor

    @property
    def pixels(self) -> slice:
        """The pixels that it covers."""
        return slice(self.start, self.stop)


def axis_windows(side: int, window: int, overlap: float, blend: str) -> list[AxisWindow]:
    """Place windows along one axis of an image.

    Both blends are products of a factor for rows and one for columns, so weights that add up to 1
    along each axis do so over the image.

    Args:
        side: Side of the image, in pixels.
        window: Side of a window, in pixels; cropped to `side`.
        overlap: Fraction of the window by which neighbors overlap, from 0 to below 1.
        blend: "gaussian" or "uniform".

    Returns:
        The windows in order; they cover the side.

    Example:
        >>> [(w.start, w.stop) for w in axis_windows(100, window=64, overlap=0.5, blend="uniform")]
        [(0, 64), (32, 96), (36, 100)]
    """
    length = min(window, side)
    stride = max(1, round(length * (1 - overlap)))
    starts = [*range(0, side - length, stride), side - length]
    weights = torch.ones(length, dtype=torch.float64)
    if blend == "gaussian":
        distance = torch.arange(length, dtype=torch.float64) - (length - 1) / 2
        weights = torch.exp(-0.5 * (distance / (length / 8)) ** 2)
    total = torch.zeros(side, dtype=torch.float64)
    for start in starts:
        total[start : start + length] += weights
    return [
        AxisWindow(start, start + length, weights / total[start : start + length])
        for start in starts
    ]


class View:
    """An image at one scale, mirrored or not, and its logits from top to bottom."""

    def __init__(
        self,
        network: Network,
        image: Image,
        scale: float,
        mirrored: bool,
        settings: InferenceSettings,
    ) -> None:
        self.network = network
        self.height, self.width = image.shape[:2]
        sides = (max(1, round(side * scale)) for side in image.shape[:2])
        self.image = resize(image, *sides)
        self.mirrored = mirrored
        self.precision = settings.precision
        height, width = self.image.shape[:2]
        window = settings.window or (height, width)
        self.window_rows = axis_windows(height, window[0], settings.overlap, settings.blend)
        self.window_columns = axis_windows(width, window[1], settings.overlap, settings.blend)
        self.next_window = 0
        self.first = 0  # the row of the scaled image that `sums` begins with
        self.sums: Tensor | None = None  # [K, rows, W], weighted sums of windows so far

    def logits(self, top: int, bottom: int) -> Tensor:
        """Return the logits [K, rows, W] of some rows; `top` must not decrease between calls."""
        height = len(self.image)
        if self.image.shape[:2] == (self.height, self.width):
            out = self._scaled_logits(top, bottom)
        else:
            # As F.interpolate(mode="bilinear") does on the whole image: rows here, columns below.
            at = (torch.arange(top, bottom, dtype=torch.float64) + 0.5) * height / self.height
            at = (at - 0.5).clamp(0, height - 1)
            above = at.floor().long()
            below = (above + 1).clamp(max=height - 1)
            first, last = int(above[0]), int(below[-1])
            rows = self._scaled_logits(first, last + 1)
            share = (at - above).to(rows)[:, None]
            above, below = (above - first).to(rows.device), (below - first).to(rows.device)
            out = torch.lerp(rows[:, above], rows[:, below], share)
            size = (bottom - top, self.width)
            out = F.interpolate(out[None], size=size, mode="bilinear", align_corners=False)[0]
        return out.flip(-1) if self.mirrored else out

    def _scaled_logits(self, top: int, bottom: int) -> Tensor:
        while self._finished() < bottom:
            self._add_row_of_windows(keep_from=top)
        assert self.sums is not None
        return self.sums[:, top - self.first : bottom - self.first]

    def _finished(self) -> int:
        """Return the first row to which windows still to come may add."""
        if self.next_window == len(self.window_rows):
            return len(self.image)
        return self.window_rows[self.next_window].start if self.next_window else 0

    def _add_row_of_windows(self, keep_from: int) -> None:
        window_row = self.window_rows[self.next_window]
        for window_column in self.window_columns:
            logits = self._window_logits(window_row.pixels, window_column.pixels)
            if self.sums is None or self.first + self.sums.shape[1] < window_row.stop:
                self._grow(logits, min(keep_from, window_row.start), window_row.stop)
            assert self.sums is not None
            rows = slice(window_row.start - self.first, window_row.stop - self.first)
            weights = torch.outer(window_row.weights, window_column.weights).to(logits)
            self.sums[:, rows, window_column.pixels].addcmul_(logits, weights)
        self.next_window += 1

    def _grow(self, like: Tensor, keep_from: int, stop: int) -> None:
        old, shift = self.sums, keep_from - self.first
        self.sums = like.new_zeros((len(like), stop - keep_from, self.image.shape[1]))
        if old is not None:
            self.sums[:, : old.shape[1] - shift] = old[:, shift:]
        self.first = keep_from

    def _window_logits(self, rows: slice, columns: slice) -> Tensor:
        width = self.image.shape[1]
        if self.mirrored:
            seen = self.image[rows, width - columns.stop : width - columns.start][:, ::-1]
        else:
            seen = self.image[rows, columns]
        device = self.network.device
        pixels = normalize(seen, self.network.mean, self.network.std, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.network(pixels[None])[0].float()


def resize(image: Image, height: int, width: int) -> Image:
    """Resize an image: bilinear interpolation to enlarge, averages over areas to shrink.

    Args:
        image: [H, W, 3] uint8.
        height: New height, in pixels.
        width: New width, in pixels.

    Example:
        >>> resize(np.zeros((20, 30, 3), np.uint8), 40, 60).shape
        (40, 60, 3)
    """
    if (height, width) == image.shape[:2]:
        return image
    shrinks = height * width < image.shape[0] * image.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), dtype=np.uint8)
