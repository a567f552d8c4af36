"""Windows around objects of masks whose objects are known."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from skseg.attention.targets import (
    FACTORS,
    blurred_targets,
    cropped_targets,
    find_objects,
    growth_blurs,
    original_targets,
    redrawn_targets,
    window_around,
)
from skseg.data import get_dataset, read_image
from skseg.streets import draw_dataset
from skseg.types import VOID


def test_objects_are_components_of_a_class() -> None:
    mask = np.full((100, 120), VOID, np.uint8)
    mask[10:30, 5:25] = 3
    mask[30:50, 25:45] = 3  # touches at a corner
    mask[60:90, 60:100] = 3
    mask[60:70, 0:20] = 7  # too small
    assert sorted(find_objects(mask)) == [
        (3, 800, (10, 5, 40, 40)),
        (3, 1200, (60, 60, 30, 40)),
    ]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((40, 50, 10, 20), (29, 61, 44, 76)),
        ((0, 0, 4, 4), (0, 32, 0, 32)),
        ((96, 116, 4, 4), (68, 100, 88, 120)),
    ],
)
def test_windows_stay_inside(box: tuple[int, ...], expected: tuple[int, ...]) -> None:
    rows, columns = window_around(box, 32, (100, 120, 3))
    assert (rows.start, rows.stop, columns.start, columns.stop) == expected


def test_cropped_objects_grow_and_large_ones_are_left_out() -> None:
    image = np.zeros((160, 160, 3), np.uint8)
    mask = np.zeros((160, 160), np.uint8)
    image[60:84, 70:90], mask[60:84, 70:90] = 255, 5
    (target,) = cropped_targets(image, mask, 96)  # class 0 fills the window and cannot grow
    assert (target.label, target.size) == (5, 1)
    areas = [(window[..., 0] > 127).sum() for window in target.windows]
    assert areas[0] == 24 * 20
    for area, factor in zip(areas, FACTORS, strict=True):
        assert area == pytest.approx(24 * 20 * factor**2, rel=0.05)
    assert len(original_targets(image, mask, 96)) == 2


def test_targets_of_a_scaled_image() -> None:
    """At half the size a window holds twice as much; growth by 2 shows the image's own pixels."""
    image = np.random.default_rng(0).integers(0, 256, (160, 200, 3), np.uint8)
    mask = np.zeros((160, 200), np.uint8)
    mask[64:88, 80:100] = 5
    _, target = original_targets(image, mask, 64, 0.5)
    assert (target.label, target.size) == (5, 1)  # sizes are those in the original image
    halved = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(target.windows[0], halved[38 - 32 : 38 + 32, 45 - 32 : 45 + 32])
    (grown,) = cropped_targets(image, mask, 64, 0.5)
    np.testing.assert_array_equal(grown.windows[0], target.windows[0])
    np.testing.assert_array_equal(grown.windows[-1], image[76 - 32 : 76 + 32, 90 - 32 : 90 + 32])
    assert not growth_blurs(0.5)
    for scale in (0.75, 1.0, 1.5):
        assert growth_blurs(scale)
        (control,) = blurred_targets(image, mask, 96, scale)
        sharp, blurred = (window.astype(int) for window in control.windows)
        assert np.abs(np.diff(blurred, axis=1)).mean() < 0.8 * np.abs(np.diff(sharp, axis=1)).mean()


def test_the_central_object_grows_in_a_window_that_stays(tmp_path: Path) -> None:
    draw_dataset(tmp_path / "drawn", train=1, val=5, height=128, width=256, seed=1, workers=0)
    found = 0
    for pair in get_dataset("streets").pairs(tmp_path / "drawn", "val"):
        for target in redrawn_targets(tmp_path / "drawn", "val", pair.name, 96):
            found += 1
            assert target.label in (11, 12, 13, 14, 15, 17, 18)  # what is counted
            image = read_image(pair.image)
            places = np.lib.stride_tricks.sliding_window_view(image, (96, 96, 3))[:, :, 0]
            assert (places == target.windows[0]).all((2, 3, 4)).any()
            first, *others = target.windows
            changed = [(first != other).any(2).mean() for other in others]
            assert 0 < changed[0] < changed[1] < 0.9
    assert found >= 1
