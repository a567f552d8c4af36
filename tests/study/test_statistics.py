"""Against textbook formulas, exact enumeration and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skseg.study.statistics import (
    compare_paired,
    detectable_difference,
    holm,
    pairs_needed,
    power_of_test,
)

# Student 1908: hours of sleep gained by 10 patients with two drugs.
FIRST = dict(enumerate([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]))
SECOND = dict(enumerate([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]))


def test_the_paired_t_test_of_a_textbook() -> None:
    found = compare_paired(SECOND, FIRST)
    assert found.pairs == 10
    assert found.difference == pytest.approx(1.58)
    assert found.deviation == pytest.approx(1.2300, abs=1e-4)
    assert found.p_value == pytest.approx(0.002833, abs=1e-6)
    assert found.interval == pytest.approx((0.7001142, 2.4598858), abs=1e-6)
    other_way = compare_paired(FIRST, SECOND)
    assert other_way.difference == -found.difference
    assert other_way.p_value == pytest.approx(found.p_value)


def test_wilcoxon_is_exact() -> None:
    """By listing all signs that the ranks could have had."""
    differences = np.array([0.3, -0.1, 0.5, 0.7, -0.2, 1.1])
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    seen = min(ranks[differences > 0].sum(), ranks[differences < 0].sum())
    sums = [
        min(sum(r for r, s in zip(ranks, signs, strict=True) if s == k) for k in (0, 1))
        for signs in itertools.product((0, 1), repeat=6)
    ]
    expected = np.mean([s <= seen for s in sums])
    found = compare_paired(dict(enumerate(differences)), dict.fromkeys(range(6), 0.0))
    assert found.p_wilcoxon == pytest.approx(expected)


def test_five_pairs_cannot_be_significant_by_ranks() -> None:
    found = compare_paired({i: 1.0 + i for i in range(5)}, dict.fromkeys(range(5), 0.0))
    assert found.p_wilcoxon == pytest.approx(2 / 2**5)


def test_only_shared_seeds_count() -> None:
    found = compare_paired({0: 3.0, 1: 5.0, 7: 100.0}, {1: 4.0, 0: 1.0, 2: -100.0})
    assert (found.pairs, found.difference) == (2, 1.5)
    one = compare_paired({0: 3.0, 1: 5.0}, {1: 4.0})
    assert (one.pairs, one.difference, one.interval, one.p_value) == (1, 1.0, None, None)
    none = compare_paired({0: 3.0}, {1: 4.0})
    assert (none.pairs, none.difference) == (0, None)


def test_equal_differences_have_no_spread() -> None:
    same = compare_paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
    assert (same.difference, same.interval, same.p_value, same.p_wilcoxon) == (0, (0, 0), 1, 1)
    shifted = compare_paired({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0})
    assert (shifted.difference, shifted.interval, shifted.p_value) == (1, (1, 1), 0)


def test_a_wider_confidence_is_a_wider_interval() -> None:
    narrow, wide = compare_paired(SECOND, FIRST), compare_paired(SECOND, FIRST, 0.99)
    assert wide.interval[0] < narrow.interval[0] < narrow.interval[1] < wide.interval[1]


def rejected(p_values: list[float], alpha: float) -> set[int]:
    """Holm's procedure as his paper states it."""
    left, out = sorted(range(len(p_values)), key=lambda i: p_values[i]), set()
    while left and p_values[left[0]] <= alpha / len(left):
        out.add(left.pop(0))
    return out


@given(st.lists(st.floats(0, 1), max_size=6, unique=True), st.floats(0.001, 0.5))
def test_holm_rejects_what_its_procedure_rejects(p_values: list[float], alpha: float) -> None:
    adjusted = holm(p_values)
    assert {i for i, p in enumerate(adjusted) if p < alpha * (1 - 1e-9)} <= rejected(
        p_values, alpha
    )
    assert rejected(p_values, alpha) <= {
        i for i, p in enumerate(adjusted) if p <= alpha * (1 + 1e-9)
    }
    assert all(a >= p for a, p in zip(adjusted, p_values, strict=True))


def test_power_is_the_share_of_simulated_studies_that_detect_it() -> None:
    generator = np.random.default_rng(0)
    draws = generator.normal(1.0, 1.3, (20_000, 12))
    t = draws.mean(1) / (draws.std(1, ddof=1) / math.sqrt(12))
    simulated = np.mean(np.abs(t) > 2.200985)  # the t table's 0.975 quantile at 11
    assert power_of_test(1.0, 1.3, 12) == pytest.approx(simulated, abs=0.01)
    assert power_of_test(0.0, 1.3, 12) == pytest.approx(0.05)


@given(st.floats(0.05, 5), st.integers(2, 40), st.floats(0.001, 0.1))
def test_what_is_detectable_is_detected_with_that_probability(
    deviation: float, pairs: int, alpha: float
) -> None:
    least = detectable_difference(deviation, pairs, alpha)
    assert power_of_test(least, deviation, pairs, alpha) == pytest.approx(0.8, abs=1e-6)


def test_pairs_needed_are_the_fewest() -> None:
    needed = pairs_needed(1.0, 1.3)
    assert power_of_test(1.0, 1.3, needed) >= 0.8 > power_of_test(1.0, 1.3, needed - 1)
    assert pairs_needed(1.0, 1.3, alpha=0.01) > needed
    assert pairs_needed(0.001, 1.3) is None
    assert pairs_needed(1.0, 0.0) == 2


def test_what_needs_that_many_pairs_has_the_power_asked_for() -> None:
    needed = pairs_needed(1.0, 1.3, power=0.9)
    assert power_of_test(1.0, 1.3, needed) >= 0.9 > power_of_test(1.0, 1.3, needed - 1)
    least = detectable_difference(1.3, needed, power=0.9)
    assert power_of_test(least, 1.3, needed) == pytest.approx(0.9, abs=1e-6)
