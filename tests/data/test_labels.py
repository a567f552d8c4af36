from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skseg.data import get_dataset
from skseg.data.labels import check_labels, count_labels, label_problems, no_labels
from skseg.errors import UserError


def write_set(root: Path, masks: list[np.ndarray], classes: str) -> None:
    """Write a training set without pictures of anything."""
    for kind in ("images", "masks"):
        (root / "train" / kind).mkdir(parents=True)
    for i, mask in enumerate(masks):
        Image.new("RGB", mask.shape[::-1]).save(root / "train" / "images" / f"{i}.png")
        Image.fromarray(mask).save(root / "train" / "masks" / f"{i}.png")
    (root / "classes.yaml").write_text(classes, encoding="utf-8")


def check(root: Path) -> None:
    spec = get_dataset("folder", root)
    check_labels(spec, spec.pairs(root, "train"))


def row(*values: int) -> np.ndarray:
    return np.array([values], np.uint8)


def test_counts_add_up() -> None:
    a, b = count_labels(row(0, 1, 1, 255), 3), count_labels(row(2, 255, 255), 3)
    total = no_labels(3) + a + b
    assert total.classes.tolist() == [1, 2, 1]
    assert (total.void, total.masks) == (3, 2)
    assert total.void_share == 3 / 7


def test_0_and_255_without_values_get_the_line_to_write(tmp_path: Path) -> None:
    write_set(tmp_path, [row(0, 0, 0, 255)], "names: [ground, disc]")
    with pytest.raises(UserError, match=r"'disc'.*25\.0 %.*`values: \[0, 255\]`.*`sparse: true`"):
        check(tmp_path)
    (tmp_path / "classes.yaml").write_text("names: [ground, disc]\nvalues: [0, 255]")
    check(tmp_path)


def test_a_class_without_a_pixel_stops(tmp_path: Path) -> None:
    write_set(tmp_path, [row(0, 2), row(2, 2)], "names: [a, b, c, d]")
    with pytest.raises(UserError, match="no training mask has a pixel of class 'b', 'd'"):
        check(tmp_path)
    (tmp_path / "classes.yaml").write_text("names: [a, b, c, d]\nsparse: true")
    check(tmp_path)


@pytest.mark.parametrize(("void", "stops"), [(2, False), (3, True)])
def test_more_than_half_void_stops(tmp_path: Path, void: int, stops: bool) -> None:
    write_set(tmp_path, [row(0, 1, *[255] * void)], "names: [a, b]")
    if stops:
        with pytest.raises(UserError, match=r"60\.0 % of the pixels are void"):
            check(tmp_path)
        (tmp_path / "classes.yaml").write_text("names: [a, b]\nsparse: true")
    check(tmp_path)


@pytest.mark.parametrize(("rare", "read"), [(False, 50), (True, 80)])
def test_masks_are_read_until_enough_is_known(tmp_path: Path, rare: bool, read: int) -> None:
    """Not all of a large set at each start: unless a class is missing."""
    write_set(tmp_path, [row(0, 1)] * 80, f"names: [{'a, b, c' if rare else 'a, b'}]")
    spec = get_dataset("folder", tmp_path)
    pairs = spec.pairs(tmp_path, "train")
    seen = []

    class Recorder(list):
        def __getitem__(self, index):
            seen.append(index)
            return super().__getitem__(index)

    if rare:
        with pytest.raises(UserError, match="'c'"):
            check_labels(spec, Recorder(pairs))
    else:
        check_labels(spec, Recorder(pairs))
    assert len(set(seen)) == len(seen) == read


def test_data_sets_with_a_known_table_may_lack_classes() -> None:
    """Drawn streets have no trains, and a folder may have a part of Cityscapes."""
    for name in ("streets", "cityscapes", "camvid"):
        spec = get_dataset(name)
        counts = no_labels(len(spec.classes)) + count_labels(row(0, 255, 255), len(spec.classes))
        assert label_problems(spec, counts) == []
