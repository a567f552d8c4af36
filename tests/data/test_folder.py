import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

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
        UserError, match=r"d\.png: mask value\(s\) 7 .* the classes have 0 to 2, and void 255"
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
        (
            "names: [a, b]\ncolours: []",
            "has a key 'colours'; there are names, colors, values, void, sparse",
        ),
        ("names: [a]", "`names` must be a list of 2"),
        ("names: [a, a]", "`names` must be a list of 2 to 254 different"),
        ("names: [a, 3]", "`names` must be"),
        ("names: [a, b]\ncolors: [[0, 0, 0]]", "`colors` must be an RGB color"),
        ("names: [a, b]\ncolors: [[0, 0, 0], [0, 0, 256]]", "`colors` must be"),
        ("names: [a, b]\nvalues: [1, 1]", "`values` must be a different"),
        ("names: [a, b]\nvalues: [0, x]", "`values` must be"),
        ("names: [a, b]\nvalues: 5\nvoid: [5]", "`values` must be"),
        ("names: [a, b]\nvoid: 3", "`void` must be"),
        ("names: [a, b]\nvoid: [256]", "`void` must be"),
        ("names: [a, b]\nvoid: [true]", "`void` must be"),
        ("names: [a, b]\nvoid: [1]", "`void` must be .* no class"),
        ("names: [a, b]\nvoid: [[1, 2, 3]]", "`void` must be .* `colors`"),
        (
            "names: [a, b]\ncolors: [[0, 0, 0], [1, 1, 1]]\nvoid: [[1, 1, 1]]",
            "`void` must be .* no class",
        ),
        ("names: [a, b]\nsparse: 3", "`sparse` must be true or false"),
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


def write_classes(root: Path, text: str) -> None:
    (root / "classes.yaml").write_text(text, encoding="utf-8")


def test_a_pipe_for_classes_is_not_waited_for(root: Path) -> None:
    (root / "classes.yaml").unlink()
    os.mkfifo(root / "classes.yaml")
    with pytest.raises(UserError, match=r"classes\.yaml: is not a regular file"):
        get_dataset("folder", root)


def test_names_in_any_language(root: Path) -> None:
    write_classes(root, "names: [стена, 😀 crack]\nvalues: [0, 255]")
    assert get_dataset("folder", root).classes.names == ("стена", "😀 crack")


def test_names_as_json_escapes_them(root: Path) -> None:
    write_classes(root, r'{"names": ["\ud83d\ude00", "a\udce9"], "values": [0, 255]}')
    assert get_dataset("folder", root).classes.names == ("😀", "a\N{REPLACEMENT CHARACTER}")


def test_void_values(root: Path, save) -> None:
    write_classes(root, "names: [a, b]\nvalues: [1, 2]\nvoid: [0, 9]")
    path = save(root / "m.png", np.array([[0, 1, 2, 9, 255]], np.uint8))
    assert get_dataset("folder", root).read_mask(path).tolist() == [[255, 0, 1, 255, 255]]


def test_a_value_of_no_class_gets_the_line_to_write(root: Path, save) -> None:
    write_classes(root, "names: [a, b]\nvalues: [1, 2]")
    path = save(root / "m.png", np.array([[0, 1, 2, 9, 255]], np.uint8))
    with pytest.raises(UserError, match=r"m\.png: mask value\(s\) 0, 9 .*`void: \[0, 9\]`"):
        get_dataset("folder", root).read_mask(path)


def test_colors_read_palette_and_color_masks_and_values_the_others(root: Path, save) -> None:
    colors = "colors: [[0, 0, 0], [255, 0, 0]]\nvoid: [[0, 0, 9], 7]"
    write_classes(root, f"names: [a, b]\n{colors}\nvalues: [4, 5]")
    read_mask = get_dataset("folder", root).read_mask
    color = save(root / "rgb.png", np.array([[[255, 0, 0], [0, 0, 0], [0, 0, 9]]], np.uint8))
    picture = Image.new("P", (3, 1))
    picture.putpalette([0, 0, 9, 255, 0, 0, 0, 0, 0])
    picture.putdata([1, 2, 0])
    picture.save(root / "palette.png")
    gray = save(root / "gray.png", np.array([[5, 4, 7]], np.uint8))
    for path in (color, root / "palette.png", gray):
        assert read_mask(path).tolist() == [[1, 0, 255]]
    strange = save(root / "strange.png", np.full((2, 3, 3), 8, np.uint8))
    with pytest.raises(UserError, match=r"strange\.png: .*\[8, 8, 8\] \(6 pixels\).*`colors:`"):
        read_mask(strange)


def test_classes_of_one_color_are_read_by_their_values(root: Path, save) -> None:
    write_classes(root, "names: [a, b]\ncolors: [[1, 1, 1], [1, 1, 1]]")
    path = save(root / "m.png", np.array([[0, 1]], np.uint8))
    assert get_dataset("folder", root).read_mask(path).tolist() == [[0, 1]]


@pytest.mark.parametrize("layout", ["flat", "kind first", "empty"])
def test_another_layout_shows_the_one_that_is_read(tmp_path: Path, save, layout: str) -> None:
    write_classes(tmp_path, "names: [a, b]")
    if layout == "flat":
        save(tmp_path / "a.jpg", (2, 2, 3))
        save(tmp_path / "a_mask.png", (2, 2))
    elif layout == "kind first":
        save(tmp_path / "images" / "train" / "a.jpg", (2, 2, 3))
        save(tmp_path / "masks" / "train" / "a.png", (2, 2))
    with pytest.raises(UserError, match=r"has no folder SPLIT/images(.|\n)*ROOT/SPLIT/images/NAME"):
        SegmentationDataModule("folder", str(tmp_path))


def test_hidden_folders_are_no_splits(root: Path) -> None:
    for name in (".cache", "__MACOSX"):
        (root / name / "images").mkdir(parents=True)
    assert get_dataset("folder", root).splits == ("train", "val")
