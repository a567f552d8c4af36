from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skseg.data import SegmentationDataModule, get_dataset
from skseg.data.headers import check_headers, checked_pairs
from skseg.errors import UserError


@pytest.fixture
def root(tmp_path: Path, save) -> Path:
    """Six training pairs and one for validation."""
    (tmp_path / "classes.yaml").write_text("names: [a, b]")
    for split, count in (("train", 6), ("val", 1)):
        for i in range(count):
            save(tmp_path / split / "images" / f"{i}.png", (8, 6, 3))
            save(tmp_path / split / "masks" / f"{i}.png", np.arange(48).reshape(8, 6) % 2)
    return tmp_path


@pytest.fixture
def save(save):
    """As the other, in 8 bits."""
    return lambda path, pixels: save(
        path, pixels if isinstance(pixels, tuple) else pixels.astype(np.uint8)
    )


def save_palette(path: Path, indices: list[int], colors: list[int]) -> None:
    picture = Image.new("P", (6, 8))
    picture.putpalette(colors)
    picture.putdata(np.resize(indices, 48).tolist())
    picture.save(path)


def problems(root: Path) -> list[str]:
    spec = get_dataset("folder", root)
    return check_headers(spec, spec.pairs(root, "train"))


def test_good_files_have_no_problems(root: Path) -> None:
    assert problems(root) == []
    SegmentationDataModule("folder", str(root)).check_files()


def test_every_file_that_cannot_be_used_is_named(root: Path, save) -> None:
    images, masks = root / "train" / "images", root / "train" / "masks"
    (images / "0.png").write_bytes(b"")
    Image.fromarray(np.zeros((8, 6), np.uint16)).save(images / "1.png")
    save(masks / "2.png", (8, 7))
    (masks / "3.png").unlink()
    (masks / "3.png").symlink_to("nowhere.png")
    found = problems(root)
    assert [Path(line.split(": ")[0]).relative_to(root / "train").as_posix() for line in found] == [
        *("images/0.png", "images/1.png", "masks/2.png", "masks/3.png")
    ]
    with pytest.raises(UserError, match=r"0\.png: .* 3 more") as error:
        checked_pairs(get_dataset("folder", root), root, "train")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("split", ["train", "val"])
def test_both_splits_are_checked(root: Path, split: str) -> None:
    (root / split / "images" / "0.png").write_bytes(b"")
    with pytest.raises(UserError, match=rf"{split}/images/0\.png: "):
        SegmentationDataModule("folder", str(root)).check_files()


def test_turned_photos_fit_their_masks(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for suffix in ("jpg", "tif", "webp", "png"):
        (root / "train" / "images" / "0.png").unlink(missing_ok=True)
        path = root / "train" / "images" / f"0.{suffix}"
        Image.new("RGB", (8, 6)).save(path, exif=exif)
        assert problems(root) == []
        path.unlink()


def test_palettes_that_contradict_each_other_are_refused(root: Path) -> None:
    masks = root / "train" / "masks"
    save_palette(masks / "0.png", [0, 1], [0, 0, 0, 255, 0, 0])
    save_palette(masks / "1.png", [0, 1], [255, 0, 0, 0, 0, 0])
    (line,) = problems(root)
    assert all(part in line for part in ("0.png", "1.png", "[255, 0, 0]", "`colors:`"))
    (root / "classes.yaml").write_text("names: [a, b]\ncolors: [[0, 0, 0], [255, 0, 0]]")
    assert problems(root) == []


def test_palettes_may_differ_in_entries_without_pixels(root: Path) -> None:
    masks = root / "train" / "masks"
    save_palette(masks / "0.png", [0, 1], [0, 0, 0, 255, 0, 0, 7, 7, 7])
    save_palette(masks / "1.png", [0], [0, 0, 0])
    save_palette(masks / "2.png", [1], [8, 8, 8, 255, 0, 0, 9, 9, 9])
    assert problems(root) == []
