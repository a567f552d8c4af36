import warnings

import cv2
import numpy as np
import pytest
import torch

from skseg.data import VOID
from skseg.data.transforms import (
    RandomScaleCrop,
    eval_transform,
    load_augmentation,
    reseed,
    train_transform,
)
from skseg.errors import UserError

import albumentations as A  # isort: skip  after skseg, which keeps it off the network

HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
STILL = {"scale": (1.0, 1.0), "flip": 0.0, "color_jitter": 0.0}


def picture(height=48, width=64):
    """The mask counts columns, and the image is the mask in all channels."""
    mask = np.broadcast_to(np.arange(width, dtype=np.uint8), (height, width)).copy()
    return {"image": np.stack([mask] * 3, 2), "mask": mask}


def apply(transform, seed, **data):
    reseed(transform, seed)
    return transform(**(data or picture()))


def test_evaluation_only_normalises():
    data = picture()
    out = eval_transform(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125))(**data)
    expected = (data["image"] / 255 - (0.1, 0.2, 0.3)) / (0.5, 0.25, 0.125)
    np.testing.assert_allclose(out["image"].permute(1, 2, 0), expected, atol=1e-5)
    assert out["image"].dtype == torch.float32
    assert out["mask"].dtype == torch.uint8
    np.testing.assert_array_equal(out["mask"], data["mask"])


@pytest.mark.parametrize("crop", [(32, 40), (48, 64), (100, 50), (20, 200)])
def test_crops_have_the_asked_height_and_width(crop):
    transform = train_transform(crop)
    for seed in range(5):
        out = apply(transform, seed)
        assert out["image"].shape == (3, *crop)
        assert out["mask"].shape == crop


def test_image_and_mask_move_together():
    # Without smoothing and jitter the image of a column counter is the mask.
    transform = train_transform((32, 40), scale=(1.0, 1.0), color_jitter=0, **HALF)
    columns = set()
    for seed in range(20):
        out = apply(transform, seed)
        values = (out["image"][0] * 0.5 + 0.5) * 255
        torch.testing.assert_close(values, out["mask"].float(), atol=1e-3, rtol=0)
        columns.add(tuple(out["mask"][0].tolist()))
    assert len(columns) > 10
    assert any(row[0] > row[-1] for row in columns)
    assert any(row[0] < row[-1] for row in columns)


def test_padding_is_void_in_the_mask_and_exactly_zero_in_the_image():
    white = {"image": np.full((10, 12, 3), 255, np.uint8), "mask": np.ones((10, 12), np.uint8)}
    out = apply(train_transform((16, 20), scale=(1.0, 1.0)), 0, **white)
    inside = torch.zeros(16, 20, dtype=torch.bool)
    inside[:10, :12] = True
    assert (out["mask"][inside] == 1).all()
    assert (out["mask"][~inside] == VOID).all()
    assert (out["image"][:, ~inside] == 0).all()
    assert (out["image"][:, inside] != 0).all()


def test_the_scale_covers_its_range_and_invents_no_classes():
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 10:30] = 200
    data = {"image": np.zeros((40, 40, 3), np.uint8), "mask": mask}
    transform = train_transform((80, 80), scale=(0.5, 2.0), flip=0, color_jitter=0)
    sides = []
    for seed in range(60):
        out = apply(transform, seed, **data)
        assert set(out["mask"].unique().tolist()) <= {0, 200, VOID}
        sides.append((out["mask"] == 200).sum().item() ** 0.5 / 20)
    assert 0.5 <= min(sides) < 0.7
    assert 1.8 < max(sides) <= 2.0


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_colour_jitter_changes_colours_only_if_asked(strength):
    transform = train_transform((48, 64), scale=(1.0, 1.0), flip=0, color_jitter=strength)
    images = [apply(transform, seed)["image"] for seed in range(3)]
    assert torch.equal(images[0], images[1]) == (strength == 0)


def test_the_same_seed_gives_the_same_sample_and_another_one_another():
    transform = train_transform((32, 40))
    first, again, other = (apply(transform, seed)["image"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_steps_of_one_seed_are_independent():
    # With one generator a step, all of the same seed, larger pictures would be brighter ones.
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 10:30] = 1
    data = {"image": np.full((40, 40, 3), 80, np.uint8), "mask": mask}
    transform = train_transform((80, 80), color_jitter=0.5, **HALF)
    drawn = [apply(transform, seed, **data) for seed in range(150)]
    sizes = [(out["mask"] == 1).sum() ** 0.5 for out in drawn]
    lights = [out["image"][:, out["mask"] == 1].mean() for out in drawn]
    assert np.std(sizes) > 5
    assert np.std(lights) > 0.05
    assert abs(np.corrcoef(sizes, lights)[0, 1]) < 0.3


def test_a_crop_that_is_all_void_is_drawn_again():
    mask = np.full((64, 64), VOID, np.uint8)
    mask[:32, :32] = 3
    data = {"image": np.zeros((64, 64, 3), np.uint8), "mask": mask}
    transform = train_transform((8, 8), **STILL)
    # One draw hits the quarter with probability below 1/3, ten of them nearly always.
    hits = sum((apply(transform, seed, **data)["mask"] == 3).any().item() for seed in range(100))
    assert hits > 90


def test_a_picture_that_is_all_void_is_kept():
    data = {"image": np.zeros((16, 16, 3), np.uint8), "mask": np.full((16, 16), VOID, np.uint8)}
    assert (apply(train_transform((8, 8)), 0, **data)["mask"] == VOID).all()


def test_the_crop_reaches_all_corners():
    transform = RandomScaleCrop((2, 2), (1.0, 1.0))
    mask = np.arange(16, dtype=np.uint8).reshape(4, 4)
    corners = set()
    for seed in range(200):
        transform.set_random_seed(seed)
        out = transform(image=np.zeros((4, 4, 3), np.uint8), mask=mask)["mask"]
        corners.add(int(out[0, 0]))
    assert corners == {0, 1, 2, 4, 5, 6, 8, 9, 10}


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_scaling_the_crop_is_cropping_the_scaled(factor):
    """Away from the crop's border it is a cutting of the whole picture scaled by OpenCV."""
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (40, 60, 3), np.uint8)
    mask = generator.integers(0, 5, (40, 60), np.uint8)
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    cuttings = {}
    for y, x in np.ndindex(2, 2):  # a crop may start between the pixels of the smaller picture
        most = np.s_[y : y + 38, x : x + 58]  # of even sides
        scaled = cv2.resize(image[most], None, fx=factor, fy=factor, interpolation=method)
        classes = cv2.resize(
            mask[most], None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST_EXACT
        )
        for top, left in np.ndindex(scaled.shape[0] - 7, scaled.shape[1] - 11):
            window = np.s_[top : top + 8, left : left + 12]
            cuttings[scaled[window].tobytes()] = classes[window]
    transform = RandomScaleCrop((12, 16), (factor, factor))
    transform.set_random_seed(0)
    for _ in range(10):
        out = transform(image=image, mask=mask)
        inside = np.s_[2:-2, 2:-2]
        np.testing.assert_array_equal(cuttings[out["image"][inside].tobytes()], out["mask"][inside])


def saved(path, *transforms):
    A.save(A.Compose(transforms), path, data_format="json" if path.suffix == ".json" else "yaml")
    return path


@pytest.mark.parametrize("name", ["a.json", "a.yaml"])
def test_an_augmentation_of_ones_own_is_applied_and_follows_the_seed(tmp_path, name):
    path = saved(
        tmp_path / name,
        A.InvertImg(p=1),
        A.GaussNoise(p=0.9),
        A.Rotate(fill_mask=VOID),
        A.CoarseDropout(),
        A.Affine(border_mode=cv2.BORDER_REFLECT),
    )
    own = load_augmentation(path, (48, 64))
    transform = train_transform((48, 64), **STILL, **HALF, augmentation=own)
    first, again, other = (apply(transform, seed) for seed in (1, 1, 2))
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["mask"], again["mask"])
    assert not torch.equal(first["mask"], other["mask"])
    inverted = load_augmentation(saved(tmp_path / name, A.InvertImg(p=1)), (48, 64))
    out = apply(train_transform((48, 64), **STILL, **HALF, augmentation=inverted), 0)
    values = (out["image"][0] * 0.5 + 0.5) * 255
    torch.testing.assert_close(values, 255 - out["mask"].float(), atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (A.Rotate(), "Rotate fills masks with class 0.0; its fill_mask must be 255"),
        (A.OneOf([A.NoOp(), A.Affine(fill_mask=3)]), "Affine fills masks with class 3"),
        (A.Resize(10, 10), r"image uint8 \[48, 64, 3\] into uint8 \[10, 10, 3\]; .* resize"),
        (A.Normalize(p=1), "float32"),
        (A.ToTensorV2(p=1), r"torch.uint8 \[3, 48, 64\]"),
        (A.RandomCrop(9, 99, pad_if_needed=True), "RandomCrop fills masks with class 0"),
        (A.RandomCrop(99, 99, p=1), "fails on a crop"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_an_augmentation_that_would_spoil_training_is_refused(tmp_path, transform, message):
    path = saved(tmp_path / "mine.yaml", transform)
    with pytest.raises(UserError, match=rf"mine\.yaml:? .*{message}"):
        load_augmentation(path, (48, 64))


def test_a_file_of_something_else_is_no_augmentation(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml: No such file"):
        load_augmentation(tmp_path / "none.yaml", (8, 8))
    for content in (
        "",
        "a: [",
        "transform: {}",
        "- 1",
        "transform: {__class_fullname__: Evil, p: 1}",
    ):
        (tmp_path / "x.yaml").write_text(content)
        with pytest.raises(UserError, match=r"x\.yaml was not written by albumentations"):
            load_augmentation(tmp_path / "x.yaml", (8, 8))


def test_albumentations_has_nothing_to_warn_about():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        apply(train_transform((20, 100)), 0)
        eval_transform()(**picture())
