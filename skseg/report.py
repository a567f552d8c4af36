"""What people look at: tables, label maps, overlays and pictures of predictions."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor

from skseg.contract import VOID

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
    painted = opacity * colorize(indices, colors) + (1 - opacity) * image
    return np.where(indices[..., None] == VOID, image, painted.round().astype(np.uint8))


def plot_samples(samples: Sequence[Sample], class_names: Sequence[str], colors: Colors) -> Figure:
    """Draw image, truth and prediction of each sample in a row, with a legend of the classes."""
    height, width = samples[0].image.shape[:2]
    row = 4.0 * height / width  # inches; a column is 4 wide
    present = sorted({int(i) for s in samples for i in np.unique(s.truth)} - {VOID})
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
    patches = []
    for i in present:
        red, green, blue = (value / 255 for value in colors[i])
        patches.append(Patch(color=(red, green, blue), label=class_names[i]))
    patches.append(Patch(color="black", label="void"))
    figure.legend(handles=patches, loc="outside lower center", ncols=7, fontsize=9, frameon=False)
    return figure


def iou_table(record: dict[str, Any], title: str) -> Table:
    """Tabulate an evaluation record by class, in percent; a dash where undefined."""
    table = Table(title=title)
    table.add_column("class")
    table.add_column("IoU %", justify="right")
    table.add_column("accuracy %", justify="right")
    for name, iou in record["iou"].items():
        table.add_row(name, _percent(iou), _percent(record["accuracy"][name]))
    table.add_section()
    table.add_row("mean", _percent(record["miou"]), _percent(record["mean_accuracy"]), style="bold")
    table.caption = f"pixel accuracy {_percent(record['pixel_accuracy'])} %"
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"
