"""What people look at: tables, label maps, overlays and pictures of predictions."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from torch import Tensor

from skseg.types import VOID

Image = NDArray[np.uint8]
Colors = Sequence[Sequence[int]]


class Sample(NamedTuple):
    """One prediction to show.

    Attributes:
        name: of the image.
        image: [H, W, 3] uint8 RGB.
        truth: [H, W] uint8 class indices with void 255.
        prediction: [H, W] uint8 class indices.
    """

    name: str
    image: Image
    truth: Image
    prediction: Image


def shrink(sample: Sample, longest: int = 1024) -> Sample:
    """Return a sample no side of which is longer than `longest` pixels: enough for a report."""
    step = -(-max(sample.truth.shape) // longest)
    if step == 1:
        return sample
    truth, prediction = (np.ascontiguousarray(x[::step, ::step]) for x in sample[2:])
    size = truth.shape[::-1]
    image = np.asarray(cv2.resize(sample.image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return Sample(sample.name, image, truth, prediction)


def to_picture(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Image:
    """Undo the normalisation of a [3, H, W] float image: [H, W, 3] uint8 RGB."""
    pixels = image.detach().float().cpu().permute(1, 2, 0).numpy()
    pixels = (pixels * np.asarray(std) + np.asarray(mean)) * 255
    return np.asarray(pixels.round().clip(0, 255), dtype=np.uint8)


def colorize(indices: Image, colors: Colors) -> Image:
    """Paint class indices [H, W]: [H, W, 3] uint8 RGB, void black."""
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(colors)] = np.asarray(colors)
    return np.asarray(palette[indices])


def overlay(image: Image, indices: Image, colors: Colors, opacity: float = 0.5) -> Image:
    """Lay painted classes over an image [H, W, 3]; void stays clear."""
    painted = cv2.addWeighted(colorize(indices, colors), opacity, image, 1 - opacity, 0)
    cv2.copyTo(image, (indices == VOID).astype(np.uint8), painted)
    return np.asarray(painted, dtype=np.uint8)


def paint_errors(sample: Sample) -> Image:
    """Paint where a prediction is wrong red, where it is right light grey, and void white."""
    painted = np.full((*sample.truth.shape, 3), 225, np.uint8)
    painted[sample.truth != sample.prediction] = (200, 30, 45)
    painted[sample.truth == VOID] = 255
    return painted


def class_patches(
    classes: Sequence[int], class_names: Sequence[str], colors: Colors
) -> list[Patch]:
    """Return what a legend shows of classes, given by index."""
    patches = []
    for i in classes:
        red, green, blue = (value / 255 for value in colors[i])
        patches.append(Patch(color=(red, green, blue), label=class_names[i]))
    return patches


def plot_samples(samples: Sequence[Sample], class_names: Sequence[str], colors: Colors) -> Figure:
    """Draw image, truth and prediction of each sample in a row, with a legend of the classes."""
    height, width = samples[0].image.shape[:2]
    row = 4.0 * height / width  # inches; a column is 4 wide
    shown = [np.unique(part) for s in samples for part in (s.truth, s.prediction)]
    present = sorted({int(i) for part in shown for i in part} - {VOID})
    legend_rows = -(-len(present) // 7)
    size = (12.2, len(samples) * (row + 0.28) + 0.3 * legend_rows + 0.3)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    axes = figure.subplots(len(samples), 3, squeeze=False)
    for line, sample in zip(axes, samples, strict=True):
        titled = {
            sample.name: sample.image,
            "truth": colorize(sample.truth, colors),
            "prediction": colorize(sample.prediction, colors),
        }
        for axis, (title, picture) in zip(line, titled.items(), strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_title(title, fontsize=9)
            axis.set_axis_off()
    patches = class_patches(present, class_names, colors)
    patches.append(Patch(color="black", label="void"))
    figure.legend(handles=patches, loc="outside lower center", ncols=7, fontsize=9, frameon=False)
    return figure
