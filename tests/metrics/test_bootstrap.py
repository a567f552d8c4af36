import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skseg.metrics import compare_miou, miou, miou_interval


def images(seed: int, number: int = 30, skill: float = 0.7) -> np.ndarray:
    """Counts [N, 4, 3] of hits, truth, prediction; the last class never occurs."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(50, 500, (number, 4))
    hits = rng.binomial(truth, skill)
    predicted = hits + rng.integers(0, 100, (number, 4))
    counts = np.stack([hits, truth, predicted], axis=-1)
    counts[:, 3] = 0
    return counts


def slow_miou(counts: np.ndarray) -> float:
    ious = [h / (t + p - h) for h, t, p in counts.sum(0) if t + p > h or h]
    return sum(ious) / len(ious)


@given(st.integers(0, 1000))
def test_miou_leaves_undefined_classes_out(seed: int) -> None:
    assert miou(images(seed).sum(0)) == pytest.approx(slow_miou(images(seed)), abs=1e-12)
    assert np.isnan(miou(np.zeros((3, 3), np.int64)))


def test_the_interval_is_that_of_a_loop_over_resamples() -> None:
    counts, rng = images(0), np.random.default_rng(1)
    slow = [slow_miou(counts[rng.integers(0, 30, 30)]) for _ in range(4000)]
    interval = miou_interval(counts)
    np.testing.assert_allclose(interval, np.percentile(slow, [2.5, 97.5]), atol=0.001)
    assert interval.low < slow_miou(counts) < interval.high
    assert miou_interval(counts) == interval
    assert miou_interval(counts, seed=1) != interval
    assert miou_interval(np.zeros((3, 2, 3), np.int64)) is None


def test_the_paired_difference_is_that_of_a_loop_over_resamples() -> None:
    first, second, rng = images(0), images(0), np.random.default_rng(1)
    second[:, :, 0] += rng.integers(0, 12, second.shape[:2]) * (second[:, :, 0] > 0)
    second[..., 0] = np.minimum(second[..., 0], second[..., 1:].min(-1))
    slow = []
    for _ in range(4000):
        drawn = rng.integers(0, 30, 30)
        slow.append(slow_miou(second[drawn]) - slow_miou(first[drawn]))
    found = compare_miou(first, second)
    assert found.value == pytest.approx(slow_miou(second) - slow_miou(first), abs=1e-12)
    np.testing.assert_allclose(found.interval, np.percentile(slow, [2.5, 97.5]), atol=0.0005)
    assert found.p_value == 2 / 10_001
    # Pairing: the images' spread is in both and cancels.
    wide = miou_interval(first)
    assert found.interval.high - found.interval.low < 0.5 * (wide.high - wide.low)


def test_a_model_does_not_differ_from_itself() -> None:
    same = compare_miou(images(0), images(0))
    assert same == (0, (0, 0), 1)
    assert compare_miou(images(0), 0 * images(0)) is None


def test_chance_is_not_taken_for_a_difference() -> None:
    values = [compare_miou(images(2 * i), images(2 * i + 1)).p_value for i in range(20)]
    assert sum(p < 0.05 for p in values) <= 3
