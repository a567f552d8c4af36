"""Paired comparisons over seeds: tests, intervals, and what a study could have seen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

_MOST_PAIRS = 1000


@dataclass(frozen=True)
class Comparison:
    """The difference of two arms over the seeds that both have, first minus second.

    Attributes:
        pairs: number of seeds n.
        difference: mean of the paired differences, None without pairs.
        interval: of the mean (Student's t), at `confidence`; None below 2 pairs.
        confidence: of the interval, 0 to 1.
        deviation: standard deviation of the paired differences; None below 2 pairs.
        p_value: two-sided paired t-test; None below 2 pairs.
        p_wilcoxon: two-sided exact Wilcoxon signed-rank test; None below 2 pairs.
    """

    pairs: int
    difference: float | None
    interval: tuple[float, float] | None
    confidence: float
    deviation: float | None
    p_value: float | None
    p_wilcoxon: float | None


def compare(
    first: Mapping[int, float], second: Mapping[int, float], confidence: float = 0.95
) -> Comparison:
    """Compare two arms by the seeds they share.

    Args:
        first: a score for each seed.
        second: a score for each seed.
        confidence: of the interval.
    """
    seeds = sorted(first.keys() & second.keys())
    a, b = (np.array([arm[seed] for seed in seeds]) for arm in (first, second))
    differences = a - b
    n = len(seeds)
    if n < 2:
        mean = float(differences[0]) if n else None
        return Comparison(n, mean, None, confidence, None, None, None)
    deviation = float(differences.std(ddof=1))
    mean = float(differences.mean())
    if deviation == 0:  # no test is defined; the same in all seeds is no chance
        p = 1.0 if mean == 0 else 0.0
        return Comparison(n, mean, (mean, mean), confidence, 0.0, p, _wilcoxon(differences))
    test = stats.ttest_rel(a, b)
    low, high = test.confidence_interval(confidence)
    return Comparison(
        n,
        mean,
        (float(low), float(high)),
        confidence,
        deviation,
        float(test.pvalue),
        _wilcoxon(differences),
    )


def _wilcoxon(differences: NDArray[np.float64]) -> float:
    nonzero = differences[differences != 0]
    if not len(nonzero):
        return 1.0
    return float(stats.wilcoxon(nonzero, method="exact").pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number by Holm's step-down method.

    Holm, "A simple sequentially rejective multiple test procedure", 1979. An adjusted value below
    0.05 is a finding where the chance of even one false finding among all is to be below 0.05.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def power(difference: float, deviation: float, pairs: int, alpha: float = 0.05) -> float:
    """Return the probability that a paired t-test finds a true difference.

    Args:
        difference: the true mean difference.
        deviation: standard deviation of the paired differences, above 0.
        pairs: number of pairs n, at least 2.
        alpha: two-sided level of the test.
    """
    freedom = pairs - 1
    critical = stats.t.ppf(1 - alpha / 2, freedom)
    shift = abs(difference) / deviation * math.sqrt(pairs)
    upper = stats.nct.sf(critical, freedom, shift)
    lower = stats.nct.cdf(-critical, freedom, shift)  # NaN where it is too small for scipy
    return float(upper + np.nan_to_num(lower))


def detectable_difference(
    deviation: float, pairs: int, alpha: float = 0.05, wanted: float = 0.8
) -> float:
    """Return the smallest true difference that a test at `alpha` finds so.

    That is, with probability `wanted`.
    """
    if deviation == 0:
        return 0.0
    large = 10 * deviation * stats.t.ppf(1 - alpha / 2, pairs - 1)
    found = optimize.brentq(lambda d: power(d, deviation, pairs, alpha) - wanted, 0, large)
    return float(found)


def pairs_needed(
    difference: float, deviation: float, alpha: float = 0.05, wanted: float = 0.8
) -> int | None:
    """Return the number of pairs by which a test at `alpha` finds a true difference so.

    That is, with probability `wanted`. None beyond 1,000.
    """
    if deviation == 0:
        return 2
    counts = range(2, _MOST_PAIRS + 1)
    return next((n for n in counts if power(difference, deviation, n, alpha) >= wanted), None)
