from pathlib import Path

import cv2
import numpy as np
import pytest

from skseg.data import read_image
from skseg.types import VOID
from skseg.viz import (
    Example,
    colorize,
    overlay,
    paint_errors,
    plot_examples,
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
