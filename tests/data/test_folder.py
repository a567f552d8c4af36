from pathlib import Path

import numpy as np
import pytest
import torch

from skseg.data import SegmentationDataModule, SegmentationDataset, eval_transform, get_dataset
from skseg.errors import UserError
from skseg.pixels import voc_color


@pytest.fixture
def root(tmp_path: Path, save) -> Path:
    """Cracks, 0 and 255 in the masks as people draw them; one picture lies deeper and is grey."""
    (tmp_path / "classes.yaml").write_text("names: [wall, crack]\nvalues: [0, 255]\n")
    rng = np.random.default_rng(0)
    for split, names in (("train", ["a.jpg", "b.bmp", "deep/c.tif"]), ("val", ["d.webp"])):
        for name in names:
            shape = (24, 32) if "c" in name else (24, 32, 3)
            save(tmp_path / split / "images" / name, rng.integers(0, 256, shape, np.uint8))
            mask = np.where(rng.random((24, 32)) < 0.1, 255, 0).astype(np.uint8)
            save(tmp_path / split / "masks" / f"{name.split('.')[0]}.png", mask)
    return tmp_path


def test_a_binary_folder(root: Path) -> None:
    spec = get_dataset("folder", root)
    assert spec.splits == ("train", "val")
    assert spec.classes.names == ("wall", "crack")
    data = SegmentationDataset(spec, root, "train", eval_transform())
    assert [data[i]["name"] for i in range(3)] == ["a", "b", "deep/c"]
    for i in range(3):
        assert data[i]["mask"].unique().tolist() == [0, 1]
        assert data[i]["image"].shape == (3, 24, 32)


def test_more_classes_by_index_with_void_and_colours(root: Path, save) -> None:
    text = "names: [a, b, c]\ncolors: [[1, 2, 3], [4, 5, 6], [7, 8, 9]]\n"
    (root / "classes.yaml").write_text(text)
    save(root / "val" / "masks" / "d.png", np.arange(24 * 32).reshape(24, 32).astype(np.uint8) % 3)
    module = SegmentationDataModule("folder", str(root), num_workers=0)
    assert module.colors == [(1, 2, 3), (4, 5, 6), (7, 8, 9)]
    module.setup("test")
    assert next(iter(module.val_dataloader()))["mask"].unique().tolist() == [0, 1, 2]
    save(root / "val" / "masks" / "d.png", (24, 32), 255)
    assert torch.all(next(iter(module.val_dataloader()))["mask"] == 255)
    save(root / "val" / "masks" / "d.png", (24, 32), 7)
    with pytest.raises(
        UserError, match=r"d\.png: mask value\(s\) 7 .* allowed are 0 to 2, and 255"
    ):
        next(iter(module.val_dataloader()))


def test_voc_colours() -> None:
    """The first of the development kit's table."""
    assert [voc_color(i) for i in range(5)] == [
        *[(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]
    ]
    assert len({voc_color(i) for i in range(255)}) == 255


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("names: [a", "is not YAML"),
        ("- a", "has no `names`"),
        ("classes: [a, b]", "has no `names`"),
        ("names: [a, b]\ncolours: []", "has a key 'colours'; there are names, colors, values"),
        ("names: [a]", "`names` must be a list of 2"),
        ("names: [a, a]", "`names` must be a list of 2 to 254 different"),
        ("names: [a, 3]", "`names` must be"),
        ("names: [a, b]\ncolors: [[0, 0, 0]]", "`colors` must be an RGB color"),
        ("names: [a, b]\ncolors: [[0, 0, 0], [0, 0, 256]]", "`colors` must be"),
        ("names: [a, b]\nvalues: [1, 1]", "`values` must be a different"),
        ("names: [a, b]\nvalues: [0, x]", "`values` must be"),
    ],
)
def test_a_wrong_class_table_is_named(root: Path, text: str | None, message: str) -> None:
    path = root / "classes.yaml"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        get_dataset("folder", root)
    assert str(error.value).startswith(str(path))


def test_a_folder_without_a_split(root: Path) -> None:
    with pytest.raises(UserError, match=r"`eval_split` must be train or val, got 'test'"):
        SegmentationDataModule("folder", str(root), eval_split="test")
