from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skseg.data.files import read_colors
from skseg.data.masks import remap, remap_colors
from skseg.errors import UserError
from skseg.types import VOID


def test_remap_maps_values_and_keeps_void():
    mask = np.array([[3, 4, 5, 255]], np.uint8)
    assert remap(mask, {3: 0, 4: 1, 5: VOID}, Path("m.png")).tolist() == [[0, 1, 255, 255]]


def test_remap_names_file_and_values_that_stand_for_no_class():
    mask = np.array([[0, 1, 9, 77]], np.uint8)
    with pytest.raises(UserError, match=r"m\.png: mask value\(s\) 9, 77 .* 0 to 1.*255"):
        remap(mask, {0: 0, 1: 1}, Path("m.png"))


def palette_mask(path: Path, indices: list[int], colors: list[int]) -> Path:
    picture = Image.new("P", (len(indices), 1))
    picture.putpalette(colors)
    picture.putdata(indices)
    picture.save(path)
    return path


COLORS = {(0, 0, 0): 0, (255, 0, 0): 1, (9, 9, 9): VOID}


def test_a_palette_mask_is_read_by_its_colors(tmp_path):
    a = palette_mask(tmp_path / "a.png", [0, 1, 0], [0, 0, 0, 255, 0, 0])
    b = palette_mask(tmp_path / "b.png", [1, 0, 2], [255, 0, 0, 0, 0, 0, 9, 9, 9])
    assert remap_colors(read_colors(a), COLORS, a).tolist() == [[0, 1, 0]]
    assert remap_colors(read_colors(b), COLORS, b).tolist() == [[0, 1, VOID]]


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_a_color_mask_is_read_by_its_colors(tmp_path, save, suffix, alpha):
    choice = np.random.default_rng(0).integers(0, 3, (7, 9))
    pixels = np.array(list(COLORS), np.uint8)[choice]
    if alpha:
        pixels = np.dstack([pixels, np.full((7, 9), 255, np.uint8)])
    path = save(tmp_path / f"a.{suffix}", pixels)
    expected = np.array([0, 1, VOID])[choice]
    np.testing.assert_array_equal(remap_colors(read_colors(path), COLORS, path), expected)


def test_a_color_that_is_not_listed_is_named_with_its_pixels(tmp_path):
    mask = np.zeros((3, 4, 3), np.uint8)
    mask[0, :2] = (1, 2, 3)
    mask[1] = (255, 255, 255)
    with pytest.raises(UserError) as error:
        remap_colors(mask, COLORS, Path("m.png"))
    message = str(error.value)
    assert message.startswith("m.png: ")
    assert message.index("[255, 255, 255] (4 pixels)") < message.index("[1, 2, 3] (2 pixels)")
