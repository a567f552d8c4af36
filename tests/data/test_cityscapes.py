import numpy as np
import pytest

from skseg.data import DATASETS, VOID
from skseg.errors import UserError

CITYSCAPES = DATASETS["cityscapes"]

# The `id` and `trainId` columns of labels.py in cityscapesScripts, all rows; 255 and -1 are void.
ID_TO_TRAIN_ID = {
    0: 255, 1: 255, 2: 255, 3: 255, 4: 255, 5: 255, 6: 255, 7: 0, 8: 1, 9: 255, 10: 255, 11: 2,
    12: 3, 13: 4, 14: 255, 15: 255, 16: 255, 17: 5, 18: 255, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10,
    24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 29: 255, 30: 255, 31: 16, 32: 17, 33: 18,
}  # fmt: skip
STEM = "frankfurt/frankfurt_000000_000294"


def add(root, save, stem=STEM, split="val", mask=None, suffix="labelIds"):
    mask = np.zeros((4, 6), np.uint8) if mask is None else mask
    image = root / "leftImg8bit" / split / f"{stem}_leftImg8bit.png"
    save(image, (*mask.shape, 3))
    return image, save(root / "gtFine" / split / f"{stem}_gtFine_{suffix}.png", mask)


def test_every_label_id_maps_to_its_training_id(tmp_path, save):
    _, path = add(tmp_path, save, mask=np.arange(34, dtype=np.uint8)[None])
    assert CITYSCAPES.read_mask(path)[0].tolist() == list(ID_TO_TRAIN_ID.values())


def test_names_and_colours_are_the_official_ones():
    classes = dict(zip(CITYSCAPES.classes.names, CITYSCAPES.classes.colors, strict=True))
    assert len(classes) == 19
    assert list(classes)[:3] == ["road", "sidewalk", "building"]
    assert list(classes)[-3:] == ["train", "motorcycle", "bicycle"]
    assert classes["road"] == (128, 64, 128)
    assert classes["terrain"] == (152, 251, 152)
    assert classes["bicycle"] == (119, 11, 32)


def test_pairs_are_named_by_city_and_frame_and_sorted(tmp_path, save):
    add(tmp_path, save, "munster/munster_000001_000019")
    image, mask = add(tmp_path, save)
    pairs = CITYSCAPES.pairs(tmp_path, "val")
    assert [pair.name for pair in pairs] == [STEM, "munster/munster_000001_000019"]
    assert pairs[0][:2] == (image, mask)


def test_training_ids_stand_in_where_label_ids_are_missing(tmp_path, save):
    ids = np.array([[0, 7, 18, 255]], np.uint8)
    add(tmp_path, save, mask=ids, suffix="labelTrainIds")
    (pair,) = CITYSCAPES.pairs(tmp_path, "val")
    assert CITYSCAPES.read_mask(pair.mask).tolist() == [[0, 7, 18, VOID]]


def test_label_ids_go_before_training_ids(tmp_path, save):
    add(tmp_path, save, suffix="labelTrainIds")
    _, label_ids = add(tmp_path, save)
    assert [pair.mask for pair in CITYSCAPES.pairs(tmp_path, "val")] == [label_ids]


@pytest.mark.parametrize(("suffix", "value"), [("labelIds", 34), ("labelTrainIds", 19)])
def test_a_value_outside_the_table_is_named(tmp_path, save, suffix, value):
    _, path = add(tmp_path, save, mask=np.full((2, 2), value, np.uint8), suffix=suffix)
    with pytest.raises(UserError, match=rf"{suffix}\.png: mask value\(s\) {value} "):
        CITYSCAPES.read_mask(path)


@pytest.mark.parametrize("exists", [True, False])
def test_missing_data_says_where_what_and_how(tmp_path, exists):
    root = tmp_path if exists else tmp_path / "nowhere"
    with pytest.raises(UserError) as error:
        CITYSCAPES.pairs(root, "train")
    for part in (str(root), "'train'", "leftImg8bit/", "csDownload", "draw_streets.py"):
        assert part in str(error.value)


def test_images_without_masks_are_named_and_counted(tmp_path, save):
    for frame in range(5):
        save(tmp_path / f"leftImg8bit/test/berlin/berlin_{frame}_leftImg8bit.png", (2, 2, 3))
    expected = r"5 image\(s\) without a mask: .*berlin_0.*berlin_2\S*, \.\.\."
    with pytest.raises(UserError, match=expected) as error:
        CITYSCAPES.pairs(tmp_path, "test")
    assert "berlin_3" not in str(error.value)


def test_a_mask_without_an_image_is_named(tmp_path, save):
    image, mask = add(tmp_path, save)
    add(tmp_path, save, "ulm/ulm_0")
    image.unlink()
    with pytest.raises(UserError, match=r"1 mask\(s\) without an image: ") as error:
        CITYSCAPES.pairs(tmp_path, "val")
    assert str(mask) in str(error.value)


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no split 'valid'; it has train, val, test"):
        CITYSCAPES.pairs(tmp_path, "valid")
