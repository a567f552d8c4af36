from pathlib import Path

import cv2
import numpy as np
import pytest

from skseg.data import read_image
from skseg.types import VOID
from skseg.viz import (
    Example,
    colorize,
    figure_text,
    overlay,
    paint_errors,
    plot_examples,
    save_figure,
    shrink,
    write_png,
)

COLORS = [(200, 0, 0), (0, 200, 0)]


def test_colours_and_overlay() -> None:
    indices = np.array([[0, 1, VOID]], dtype=np.uint8)
    assert colorize(indices, COLORS).tolist() == [[[200, 0, 0], [0, 200, 0], [0, 0, 0]]]
    image = np.full((1, 3, 3), 100, np.uint8)
    assert overlay(image, indices, COLORS).tolist() == [
        [[150, 50, 50], [50, 150, 50], [100, 100, 100]]
    ]
    assert overlay(image, indices, COLORS, opacity=1)[0, 0].tolist() == [200, 0, 0]


def test_a_picture_shows_image_truth_and_prediction(tmp_path: Path) -> None:
    truth = np.zeros((40, 60), np.uint8)
    samples = [Example("first", np.full((40, 60, 3), 90, np.uint8), truth, truth + 1)]
    figure = plot_examples(samples, ["red", "green"], COLORS)
    assert [text.get_text() for text in figure.legends[0].texts] == ["red", "green", "void"]
    figure.savefig(tmp_path / "x.png")
    pixels = cv2.imread(str(tmp_path / "x.png"))[..., ::-1].reshape(-1, 3)
    for color in ((90, 90, 90), (200, 0, 0), (0, 200, 0)):
        assert (pixels == color).all(1).sum() > 10_000


def test_samples_need_not_share_a_size() -> None:
    samples = [
        Example(str(n), np.zeros((n, 50, 3), np.uint8), np.zeros((n, 50), np.uint8),
               np.zeros((n, 50), np.uint8))
        for n in (30, 50)
    ]  # fmt: skip
    assert len(plot_examples(samples, ["a"], COLORS[:1]).axes) == 6
    assert pytest.approx(12.2) == plot_examples(samples, ["a"], COLORS[:1]).get_size_inches()[0]


def test_errors_are_red_and_void_is_white() -> None:
    truth = np.array([[0, 1, VOID]], np.uint8)
    sample = Example("x", np.zeros((1, 3, 3), np.uint8), truth, np.array([[0, 0, 1]], np.uint8))
    grey, red, white = paint_errors(sample)[0].tolist()
    assert grey[0] == grey[1] == grey[2] < 255
    assert red[0] > 2 * red[1]
    assert white == [255, 255, 255]


def test_large_samples_are_shrunk_together() -> None:
    truth = np.arange(50, dtype=np.uint8).repeat(2)[:, None].repeat(30, 1)
    sample = Example("x", truth[..., None].repeat(3, 2), truth, truth + 1)
    small = shrink(sample, 50)
    assert small.image.shape == (50, 15, 3)
    assert (small.truth[:, 0] == np.arange(50)).all()
    assert (small.image[..., 0] == small.truth).all()
    assert (small.prediction == small.truth + 1).all()
    assert shrink(sample, 100) is sample


def test_a_png_keeps_colors_and_replaces_a_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.png"
    for value in (10, 20):
        image = np.full((2, 3, 3), (value, 0, 255), np.uint8)
        write_png(path, image)
        assert (read_image(path) == image).all()
    assert [p.name for p in path.parent.iterdir()] == ["x.png"]


NAMES = [
    *(
        "US$10_and_$20",
        "$x^$",
        r"\\frac{",
        "\\$",
        "a\nb\tc\0",
        "😀 漢字 שלום",
        "caf\udce9",
        "_x",
        "",
    ),
    *("truth", "x" * 300),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", NAMES)
def test_names_are_text(tmp_path: Path, name: str) -> None:
    truth = np.zeros((40, 60), np.uint8)
    example = Example(name, np.full((40, 60, 3), 90, np.uint8), truth, truth)
    figure = plot_examples([example], [name], COLORS[:1])
    save_figure(figure, tmp_path / "new" / "x.png")
    assert cv2.imread(str(tmp_path / "new" / "x.png")).shape[1] == 1220
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.png"]
    # Matplotlib's own answer: the text that it draws, and that it is no formula.
    title = figure.axes[0].title
    assert title._preprocess_math(title.get_text()) == (
        figure_text(name).replace(r"\$", "$"),
        False,
    )
    assert len(title.get_text()) <= 65


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [(1, 1), (2000, 1), (1, 2000)])
def test_the_thinnest_pictures_are_drawn(tmp_path: Path, shape: tuple[int, int]) -> None:
    truth = np.zeros(shape, np.uint8)
    figure = plot_examples(
        [Example("x", np.zeros((*shape, 3), np.uint8), truth, truth)], ["a"], COLORS
    )
    save_figure(figure, tmp_path / "x.png")
    height, width = cv2.imread(str(tmp_path / "x.png")).shape[:2]
    assert width == 1220
    assert 50 < height < 2000
