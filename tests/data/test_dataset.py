import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from skseg.data import DATASETS, ClassTable, SegmentationDataset, eval_transform, train_transform
from skseg.errors import UserError


def dataset(root, transform=None, split="val"):
    return SegmentationDataset(DATASETS["camvid"], root, split, transform or eval_transform())


def test_a_sample_has_the_contracted_types(noise_root):
    sample = dataset(noise_root)[2]
    assert sample["image"].dtype == torch.float32
    assert sample["image"].shape == (3, 40, 56)
    assert sample["mask"].dtype == torch.int64
    assert sample["mask"].shape == (40, 56)
    assert sample["name"] == "2"


def test_a_batch_has_a_list_of_names(noise_root):
    batch = next(iter(DataLoader(dataset(noise_root), batch_size=3)))
    assert batch["image"].shape == (3, 3, 40, 56)
    assert batch["mask"].shape == (3, 40, 56)
    assert batch["name"] == ["0", "1", "2"]


def test_a_seed_decides_the_sample_and_no_seed_leaves_it_open(noise_root):
    data = dataset(noise_root, train_transform((16, 16)))
    assert torch.equal(data[1, 7]["image"], data[1, 7]["image"])
    assert not torch.equal(data[1, 7]["image"], data[1, 8]["image"])
    assert not torch.equal(data[1]["image"], data[1]["image"])


def test_a_mask_of_another_size_is_named(noise_root, save):
    path = save(noise_root / "val/masks/1.png", (40, 57))
    with pytest.raises(UserError, match=r"57x40 pixels, but its image .* has 56x40") as error:
        dataset(noise_root)[1]
    assert str(error.value).startswith(f"{path}: ")


def test_an_image_of_one_channel_works(noise_root, save):
    save(noise_root / "val/images/0.png", (40, 56), 9)
    image = dataset(noise_root, eval_transform((0, 0, 0), (1, 1, 1)))[0]["image"]
    assert image.unique().tolist() == pytest.approx([9 / 255])


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_is_the_same_one_line(noise_root, workers):
    path = noise_root / "val/masks/0.png"
    path.write_bytes(path.read_bytes()[:60])
    message = ""
    try:
        next(iter(DataLoader(dataset(noise_root), num_workers=workers)))
    except UserError as error:  # let go at once, and the worker with it
        message = str(error)
    assert message.startswith(f"{path}: cannot be read as an image")
    assert "\n" not in message


def test_a_class_table_has_a_colour_for_each_name():
    with pytest.raises(AssertionError, match="a color for each name"):
        ClassTable(("a", "b"), ((0, 0, 0),))


def test_values_of_the_mask_survive(noise_root):
    from PIL import Image

    stored = np.array(Image.open(noise_root / "val/masks/3.png"))
    stored[stored == 11] = 255
    np.testing.assert_array_equal(dataset(noise_root)[3]["mask"], stored)
