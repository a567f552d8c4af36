import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from skseg.metrics import confusion_matrix, pixel_record, scores
from skseg.types import VOID


def count_by_hand(truth: list[int], prediction: list[int], classes: int) -> dict:
    """The definition, pixel by pixel."""
    iou, accuracy, precision, f1, weighted = [], [], [], [], 0.0
    pixels = [(t, p) for t, p in zip(truth, prediction, strict=True) if t != VOID]
    for c in range(classes):
        tp = sum(t == c and p == c for t, p in pixels)
        fp = sum(t != c and p == c for t, p in pixels)
        fn = sum(t == c and p != c for t, p in pixels)
        iou.append(tp / (tp + fp + fn) if tp + fp + fn else None)
        accuracy.append(tp / (tp + fn) if tp + fn else None)
        precision.append(tp / (tp + fp) if tp + fp else None)
        f1.append(2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None)
        weighted += (tp + fn) * (iou[-1] or 0)
    defined = [value for value in iou if value is not None]
    return {
        "iou": iou,
        "recall": accuracy,
        "precision": precision,
        "f1": f1,
        "frequency_weighted_iou": weighted / len(pixels) if pixels else None,
        "miou": sum(defined) / len(defined) if defined else None,
        "pixel_accuracy": sum(t == p for t, p in pixels) / len(pixels) if pixels else None,
    }


PIXELS = st.integers(1, 40).flatmap(
    lambda n: st.tuples(
        arrays("int64", n, elements=st.sampled_from([0, 1, 2, 3, VOID])),
        arrays("int64", n, elements=st.integers(0, 3)),
    )
)


@given(pixels=PIXELS, cut=st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_scores_are_the_definition_whatever_the_batches(pixels, cut) -> None:
    truth, prediction = (torch.from_numpy(p) for p in pixels)
    matrix = confusion_matrix(4)
    for part in (slice(0, cut), slice(cut, None)):
        if len(truth[part]):
            matrix.update(prediction[part], truth[part])
    record = pixel_record(matrix.compute(), list("abcd"))
    expected = count_by_hand(truth.tolist(), prediction.tolist(), 4)
    assert list(record["iou"].values()) == pytest.approx(expected["iou"], abs=1e-12)
    for key in ("recall", "precision", "f1"):
        assert list(record[key].values()) == pytest.approx(expected[key], abs=1e-12)
    for key in ("miou", "pixel_accuracy", "frequency_weighted_iou"):
        assert record[key] == pytest.approx(expected[key], abs=1e-12)
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_a_false_positive_counts_against_a_class_absent_from_the_truth() -> None:
    record = pixel_record(torch.tensor([[8, 2, 0], [0, 0, 0], [0, 0, 0]]), list("abc"))
    assert record["iou"] == {"a": 0.8, "b": 0.0, "c": None}
    assert record["miou"] == pytest.approx(0.4)
    assert record["recall"] == {"a": 0.8, "b": None, "c": None}
    assert record["confusion"] == [[8, 2, 0], [0, 0, 0], [0, 0, 0]]


def test_categories_are_scored_as_if_they_were_classes() -> None:
    confusion = torch.tensor([[5, 1, 2], [3, 0, 1], [0, 4, 7]])
    record = pixel_record(confusion, list("abc"), ["x", "y", "x"])
    # x: 5 + 2 + 7 hits of 19, and 3 + 1 taken for it; y: none of 4, and 1 + 4 taken for it
    assert record["category_iou"] == {"x": 14 / 23, "y": 0.0}
    assert record["category_miou"] == pytest.approx(7 / 23)


def test_without_pixels_nothing_is_defined() -> None:
    values = scores(torch.zeros(3, 3, dtype=torch.long))
    assert all(math.isnan(values[key]) for key in ("miou", "pixel_accuracy", "mean_accuracy"))
