"""Each count against a slow version that follows its definition class by class."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torchmetrics.functional.classification import multiclass_calibration_error

from skseg.metrics import Counts, confusion_matrix, count_image, full_record
from skseg.metrics.boundary import count_bands, count_contours, dilate
from skseg.metrics.calibration import calibration_error, count_confidence
from skseg.metrics.objects import BIN_NAMES, count_objects
from skseg.types import VOID

SQUARE = np.ones((3, 3))


def scene(seed: int, height: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Regions with some void, and a prediction that has moved and is noisy."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes + 1, (height // 9 + 2, width // 9 + 2), dtype=np.uint8)
    big = np.kron(coarse, np.ones((9, 9), np.uint8))
    big[big == classes] = VOID
    shift = rng.integers(0, 4, 2)
    truth = big[:height, :width].copy()
    prediction = big[shift[0] :, shift[1] :][:height, :width].copy()
    noisy = (rng.random(truth.shape) < 0.05) | (prediction == VOID)
    prediction[noisy] = rng.integers(0, classes, noisy.sum())
    return truth, prediction


SCENES = st.tuples(
    st.integers(0, 10_000), st.integers(1, 90), st.integers(1, 90), st.integers(2, 6)
)


def masked(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    return np.where(truth == VOID, VOID, prediction).astype(np.uint8)


@given(drawn=SCENES)
@settings(max_examples=40, deadline=None)
def test_bands_are_masks_less_their_erosion(drawn: tuple) -> None:
    """As boundary_iou_api's mask_to_boundary does, one mask at a time."""
    truth, prediction = scene(*drawn)
    seen = masked(truth, prediction)
    distance = max(1, round(0.02 * np.sqrt(drawn[1] ** 2 + drawn[2] ** 2)))

    def band(mask: np.ndarray) -> np.ndarray:
        padded = np.pad(mask, 1)
        inside = ndimage.binary_erosion(padded, SQUARE, iterations=distance)[1:-1, 1:-1]
        return mask & ~inside

    for index, counted in enumerate(count_bands(truth, seen, drawn[3])):
        a, b = band(truth == index), band(seen == index)
        assert counted.tolist() == [(a & b).sum(), a.sum(), b.sum()]


def contour(indices: np.ndarray, index: int) -> np.ndarray:
    """Pixels of a class that have another class, not void, among their eight neighbours."""
    other = (indices != index) & (indices != VOID)
    return (indices == index) & ndimage.binary_dilation(other, SQUARE)


@given(drawn=SCENES, factor=st.sampled_from([1, 1, 30]))
@settings(max_examples=40, deadline=None)
def test_contours_are_met_within_the_tolerance(drawn: tuple, factor: int) -> None:
    truth, prediction = scene(*drawn)
    # Long pictures have a larger tolerance.
    truth = np.repeat(truth[: 1 + 2 * drawn[1] // factor], factor, 1)
    prediction = np.repeat(prediction[: len(truth)], factor, 1)
    seen = masked(truth, prediction)
    radius = max(1, round(0.0075 * np.hypot(*truth.shape)))
    for index, counted in enumerate(count_contours(truth, seen, drawn[3])):
        a, b = contour(seen, index), contour(truth, index)
        near = [ndimage.distance_transform_edt(~x) <= radius if x.any() else x for x in (b, a)]
        assert counted.tolist() == [(a & near[0]).sum(), a.sum(), (b & near[1]).sum(), b.sum()]


def test_contours_of_more_classes_than_a_number_has_bits() -> None:
    truth, prediction = scene(0, 200, 200, 150)
    seen = masked(truth, prediction)
    counted = count_contours(truth, seen, 150)
    for index in range(0, 150, 7):
        a, b = contour(seen, index), contour(truth, index)
        near = ndimage.distance_transform_edt(~b) <= 2
        assert counted[index, :2].tolist() == [(a & near).sum(), a.sum()]


@pytest.mark.parametrize("radius", [0, 1, 5, 40])
def test_dilation_is_a_disc(radius: int) -> None:
    planes = np.zeros((31, 33), np.uint8)
    planes[3, 30], planes[20, 10] = 1, 2
    wide = dilate(planes, radius)
    y, x = np.mgrid[:31, :33]
    for bit, (row, column) in enumerate([(3, 30), (20, 10)]):
        disc = (y - row) ** 2 + (x - column) ** 2 <= radius**2
        assert (((wide >> bit) & 1) == disc).all()


def slow_objects(truth: np.ndarray, seen: np.ndarray, classes: int) -> np.ndarray:
    counts = np.zeros((classes, len(BIN_NAMES), 4), np.int64)
    for index in range(classes):
        for indices, is_truth in ((truth, True), (seen, False)):
            objects, number = ndimage.label(indices == index, SQUARE)
            for i in range(1, number + 1):
                mask = objects == i
                size = sum(mask.sum() >= side**2 for side in (16, 32, 64, 128, 256))
                if is_truth:
                    counts[index, size] += [(seen[mask] == index).sum(), mask.sum(), 0, 1]
                else:
                    counts[index, size, 2] += (truth[mask] != index).sum()
    return counts


@given(drawn=SCENES, factor=st.sampled_from([1, 5]))
@settings(max_examples=30, deadline=None)
def test_objects_are_connected_regions(drawn: tuple, factor: int) -> None:
    truth, prediction = (np.kron(x, np.ones((factor, factor), np.uint8)) for x in scene(*drawn))
    seen = masked(truth, prediction)
    assert (count_objects(truth, seen, drawn[3]) == slow_objects(truth, seen, drawn[3])).all()


def test_calibration_is_torchmetrics() -> None:
    torch.manual_seed(0)
    probabilities = (4 * torch.randn(5000, 6)).softmax(1)
    probabilities[:40] = torch.eye(6)[torch.arange(40) % 6]  # exactly sure
    probabilities[40:80] = torch.tensor([1 / 3, 0.2, 0.2, 4 / 15, 0, 0])  # on an edge of bins
    truth = torch.randint(0, 6, (5000,))
    truth[::2] = probabilities[::2].argmax(1)
    confidence, indices = probabilities.max(1)
    counts = count_confidence((indices == truth).numpy(), confidence.numpy())
    expected = multiclass_calibration_error(probabilities, truth, 6, n_bins=15)
    assert calibration_error(counts) == pytest.approx(float(expected), abs=1e-6)
    assert calibration_error(np.zeros((16, 3), np.int64)) is None


def sample(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    confidence = np.random.default_rng(seed).uniform(0.2, 1, (70, 80)).astype(np.float32)
    return *scene(seed, 70, 80, 5), confidence


@given(order=st.permutations(range(6)), cut=st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_sums_are_the_same_in_any_order_and_grouping(order: list[int], cut: int) -> None:
    images = [count_image(*sample(seed), 5) for seed in range(6)]

    def total(indices: list[int]) -> Counts:
        out = images[indices[0]]
        for i in indices[1:]:
            out = out + images[i]
        return out

    straight, other = total(list(range(6))), total(order[cut:] or order)
    if order[cut:]:
        other = total(order[:cut]) + other
    for a, b in zip(vars(straight).values(), vars(other).values(), strict=True):
        assert a.dtype == b.dtype == np.int64
        assert (a == b).all()
    names = list("abcde")
    assert full_record(straight, names) == full_record(other, names)


def test_confusion_is_validations() -> None:
    matrix = confusion_matrix(5)
    truth, prediction, confidence = sample(3)
    matrix.update(torch.from_numpy(prediction), torch.from_numpy(truth).long())
    counts = count_image(truth, prediction, confidence, 5)
    assert (counts.confusion == matrix.compute().numpy()).all()
    assert counts.by_class()[:, 0].sum() == ((truth == prediction) & (truth != VOID)).sum()


def test_a_perfect_prediction_has_perfect_scores() -> None:
    truth, _, confidence = sample(1)
    prediction = np.where(truth == VOID, 0, truth).astype(np.uint8)
    record = full_record(count_image(truth, prediction, confidence, 5), list("abcde"))
    for key in ("miou", "boundary_miou", "boundary_mean_f"):
        assert record[key] == 1
    assert {b["miou"] for b in record["objects"].values()} <= {1, None}


def test_all_void_is_undefined_everywhere() -> None:
    truth = np.full((20, 30), VOID, np.uint8)
    counts = count_image(truth, np.zeros_like(truth), np.ones((20, 30), np.float32), 3)
    record = full_record(counts, list("abc"), ["x", "y", "x"])
    for key in ("miou", "boundary_miou", "boundary_mean_f", "calibration_error", "category_miou"):
        assert record[key] is None


def test_the_record_says_what_the_counts_mean() -> None:
    truth = np.zeros((40, 40), np.uint8)
    truth[10:20, 10:20] = 1  # one object of 100 pixels
    prediction = truth.copy()
    prediction[10:20, 15:20] = 0  # half of it missed
    prediction[30:32, 30:35] = 1  # another of 10 pixels where there is none
    counts = count_image(truth, prediction, np.full((40, 40), 0.9, np.float32), 2)
    record = full_record(counts, ["ground", "thing"])
    small = record["objects"][BIN_NAMES[0]]
    assert small["recall"]["thing"] == 0.5
    assert small["iou"]["thing"] == 50 / (100 + 10)
    assert small["objects"] == 1
    assert record["calibration_error"] == pytest.approx(abs(1540 / 1600 - 0.9), abs=1e-6)
    met, shown, found, there = counts.contours[1]
    precision, recall = met / shown, found / there
    expected = 2 * precision * recall / (precision + recall)
    assert record["boundary_f"]["thing"] == pytest.approx(expected)
    assert 0 < expected < 1


def test_a_size_is_scored_over_the_classes_that_have_objects_of_it() -> None:
    truth = np.zeros((64, 64), np.uint8)
    truth[:20, :20] = 1
    truth[40:44, 40:44] = 2
    prediction = truth.copy()
    prediction[60:, 60:] = 1  # at a size that no object of its class has
    record = full_record(
        count_image(truth, prediction, np.ones((64, 64), np.float32), 3), list("abc")
    )
    below_16 = record["objects"][BIN_NAMES[0]]
    assert below_16["iou"] == {"a": None, "b": 0, "c": 1}
    assert below_16["recall"] == {"a": None, "b": None, "c": 1}
    assert below_16["miou"] == below_16["mean_recall"] == 1
