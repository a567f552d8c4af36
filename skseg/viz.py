"""Pictures for people: painted masks, overlays, legends and pictures of predictions."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from skseg.files import whole_file
from skseg.types import VOID, Image, Mask

Colors = Sequence[Sequence[int]]
"""An RGB color for each class, 0 to 255."""


class Example(NamedTuple):
    """An image with its truth and its prediction, to be shown.

    Attributes:
        name: Name of the image.
        image: [H, W, 3] uint8 RGB.
        truth: [H, W] uint8 class indices, `VOID` where there is no class.
        prediction: [H, W] uint8 class indices.
    """

    name: str
    image: Image
    truth: Mask
    prediction: Mask


def shrink(example: Example, longest: int = 1024) -> Example:
    """Return an example no side of which is longer than `longest` pixels.

    Example:
        >>> mask = np.zeros((60, 100), np.uint8)
        >>> small = shrink(Example("x", np.zeros((60, 100, 3), np.uint8), mask, mask), longest=50)
        >>> small.image.shape, small.truth.shape
        ((30, 50, 3), (30, 50))
    """
    step = -(-max(example.truth.shape) // longest)
    if step == 1:
        return example
    truth, prediction = (np.ascontiguousarray(x[::step, ::step]) for x in example[2:])
    size = truth.shape[::-1]
    image = np.asarray(cv2.resize(example.image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return Example(example.name, image, truth, prediction)


def colorize(mask: Mask, colors: Colors) -> Image:
    """Paint class indices [H, W] in the colors of their classes, void in black.

    Returns:
        [H, W, 3] uint8 RGB.

    Example:
        >>> mask = np.array([[0, 1, VOID]], np.uint8)
        >>> colorize(mask, [(255, 0, 0), (0, 0, 255)]).tolist()
        [[[255, 0, 0], [0, 0, 255], [0, 0, 0]]]
    """
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(colors)] = np.asarray(colors)
    return np.asarray(palette[mask])


def overlay(image: Image, mask: Mask, colors: Colors, opacity: float = 0.5) -> Image:
    """Paint classes over an image; void stays clear.

    Args:
        image: [H, W, 3] uint8 RGB.
        mask: [H, W] uint8 class indices.
        colors: An RGB color for each class, 0 to 255.
        opacity: Opacity of the painted classes, from 0 to 1.

    Returns:
        [H, W, 3] uint8 RGB.

    Example:
        >>> image = np.full((1, 2, 3), 100, np.uint8)
        >>> overlay(image, np.array([[0, VOID]], np.uint8), [(200, 0, 0)]).tolist()
        [[[150, 50, 50], [100, 100, 100]]]
    """
    painted = cv2.addWeighted(colorize(mask, colors), opacity, image, 1 - opacity, 0)
    cv2.copyTo(image, (mask == VOID).astype(np.uint8), painted)
    return np.asarray(painted, dtype=np.uint8)


def paint_errors(example: Example) -> Image:
    """Paint wrong pixels red, right ones light gray and void white.

    Returns:
        [H, W, 3] uint8 RGB.

    Example:
        >>> truth, prediction = np.array([[0, 1]], np.uint8), np.array([[0, 0]], np.uint8)
        >>> paint_errors(Example("x", np.zeros((1, 2, 3), np.uint8), truth, prediction)).tolist()
        [[[225, 225, 225], [200, 30, 45]]]
    """
    painted = np.full((*example.truth.shape, 3), 225, np.uint8)
    painted[example.truth != example.prediction] = (200, 30, 45)
    painted[example.truth == VOID] = 255
    return painted


def write_png(path: Path, pixels: Image | Mask) -> None:
    """Write a PNG whole or not at all.

    Args:
        path: The file; its folder is made if missing.
        pixels: uint8, [H, W, 3] RGB or [H, W].

    Raises:
        OSError: The file cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "mask.png"
        >>> write_png(path, np.array([[0, 1, VOID]], np.uint8))
        >>> cv2.imread(str(path), cv2.IMREAD_UNCHANGED).tolist()
        [[0, 1, 255]]
    """
    in_file_order = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    with whole_file(path) as part:
        part.write_bytes(bytes(cv2.imencode(".png", in_file_order)[1]))


def figure_text(name: str, longest: int = 60) -> str:
    r"""Return a name as matplotlib shows it as it is: a name is text, and never a formula.

    Args:
        name: Any text.
        longest: Number of characters from which on its middle is left out.

    Example:
        >>> figure_text("US$10.png"), figure_text("a" * 10 + "b", longest=5)
        ('US\\$10.png', 'aa…ab')
    """
    shown = name.encode("utf-8", "backslashreplace").decode()  # half of a character
    shown = re.sub(r"[\x00-\x1f\x7f]", "\N{REPLACEMENT CHARACTER}", shown)
    if len(shown) > longest:
        half = (longest - 1) // 2
        shown = f"{shown[:half]}…{shown[-half:]}"
    return shown.replace("$", r"\$")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, whole or not at all.

    Args:
        figure: The figure.
        path: The file; its folder is made if missing.

    Raises:
        OSError: The file cannot be written.
    """
    with whole_file(path) as part, warnings.catch_warnings():
        # Names may have characters that no font has; a box stands for them.
        warnings.filterwarnings("ignore", r"Glyph \d+ .*missing from font")
        figure.savefig(part, format="png")


def class_patches(
    classes: Sequence[int], class_names: Sequence[str], colors: Colors
) -> list[Patch]:
    """Return the legend entries of some classes.

    Args:
        classes: Indices of the classes to show.
        class_names: A name for each class.
        colors: An RGB color for each class, 0 to 255.
    """
    patches = []
    for i in classes:
        red, green, blue = (value / 255 for value in colors[i])
        patches.append(Patch(color=(red, green, blue), label=figure_text(class_names[i])))
    return patches


def plot_examples(
    examples: Sequence[Example], class_names: Sequence[str], colors: Colors
) -> Figure:
    """Draw image, truth and prediction of each example in a row, with a legend of the classes."""
    height, width = examples[0].image.shape[:2]
    row = 4.0 * min(max(height / width, 0.1), 3.0)  # inches; a column is 4 wide
    shown = [np.unique(mask) for e in examples for mask in (e.truth, e.prediction)]
    present = sorted({int(i) for part in shown for i in part} - {VOID})
    legend_rows = -(-len(present) // 7)
    size = (12.2, len(examples) * (row + 0.28) + 0.3 * legend_rows + 0.3)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    axes = figure.subplots(len(examples), 3, squeeze=False)
    for line, example in zip(axes, examples, strict=True):
        titled = (
            (figure_text(example.name), example.image),
            ("truth", colorize(example.truth, colors)),
            ("prediction", colorize(example.prediction, colors)),
        )
        for axis, (title, picture) in zip(line, titled, strict=True):
            axis.imshow(picture, interpolation="nearest")
            axis.set_title(title, fontsize=9)
            axis.set_axis_off()
    patches = class_patches(present, class_names, colors)
    patches.append(Patch(color="black", label="void"))
    figure.legend(handles=patches, loc="outside lower center", ncols=7, fontsize=9, frameon=False)
    return figure
