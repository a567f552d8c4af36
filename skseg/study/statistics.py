"""Paired comparisons over seeds: tests, intervals and statistical power."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

_MOST_PAIRS = 1000


@dataclass(frozen=True)
class Comparison:
    """The difference between two arms over the seeds that both have, first minus second.

    Attributes:
        pairs: Number of shared seeds n.
        difference: Mean of the paired differences; None without pairs.
        interval: Confidence interval of the mean (Student's t); None below 2 pairs.
        confidence: Level of the interval, 0 to 1.
        deviation: Standard deviation of the paired differences; None below 2 pairs.
        p_value: P-value of the two-sided paired t-test; None below 2 pairs.
        p_wilcoxon: P-value of the two-sided exact Wilcoxon signed-rank test; None below 2 pairs.
    """

    pairs: int
    difference: float | None
    interval: tuple[float, float] | None
    confidence: float
    deviation: float | None
    p_value: float | None
    p_wilcoxon: float | None


def compare_paired(
    first: Mapping[int, float], second: Mapping[int, float], confidence: float = 0.95
) -> Comparison:
    """Compare two arms over the seeds that both have.

    Args:
        first: Score of the first arm by seed.
        second: Score of the second arm by seed.
        confidence: Level of the interval, 0 to 1.

    Example:
        >>> sk = {0: 41.0, 1: 42.0, 2: 43.5}
        >>> plain = {0: 40.0, 1: 40.0, 2: 42.5, 3: 41.0}
        >>> found = compare_paired(sk, plain)
        >>> found.pairs, round(found.difference, 3)
        (3, 1.333)
        >>> [round(end, 3) for end in found.interval]
        [-0.101, 2.768]
        >>> round(found.p_value, 3)
        0.057
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
    if deviation == 0:  # the t-test is undefined; equal differences in all seeds are not chance
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
    """Adjust p-values for multiple testing by Holm's step-down method.

    Rejecting where the adjusted value is at most alpha keeps the probability of any false
    rejection at or below alpha. Source: Holm, "A simple sequentially rejective multiple test
    procedure", 1979.

    Args:
        p_values: One p-value for each test, 0 to 1.

    Returns:
        The adjusted p-values, in the same order.

    Example:
        >>> holm([0.5, 0.25, 0.0625])
        [0.5, 0.5, 0.1875]
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def power_of_test(difference: float, deviation: float, pairs: int, alpha: float = 0.05) -> float:
    """Return the probability that a two-sided paired t-test detects a true difference.

    It is computed from the noncentral t distribution.

    Args:
        difference: True mean difference.
        deviation: Standard deviation of the paired differences, above 0.
        pairs: Number of pairs n, at least 2.
        alpha: Two-sided level of the test.

    Example:
        >>> round(power_of_test(difference=1.0, deviation=1.0, pairs=10), 3)
        0.803
    """
    freedom = pairs - 1
    critical = stats.t.ppf(1 - alpha / 2, freedom)
    shift = abs(difference) / deviation * math.sqrt(pairs)
    upper = stats.nct.sf(critical, freedom, shift)
    lower = stats.nct.cdf(-critical, freedom, shift)  # NaN where it is too small for scipy
    return float(upper + np.nan_to_num(lower))


def detectable_difference(
    deviation: float, pairs: int, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Return the smallest true difference that a level-alpha test detects with probability `power`.

    Args:
        deviation: Standard deviation of the paired differences.
        pairs: Number of pairs n, at least 2.
        alpha: Two-sided level of the test.
        power: Probability of detection, above `alpha` and below 1.

    Example:
        >>> round(detectable_difference(deviation=1.0, pairs=10), 3)
        0.996
    """
    if deviation == 0:
        return 0.0
    large = 10 * deviation * stats.t.ppf(1 - alpha / 2, pairs - 1)
    return float(
        optimize.brentq(lambda d: power_of_test(d, deviation, pairs, alpha) - power, 0, large)
    )


def pairs_needed(
    difference: float, deviation: float, alpha: float = 0.05, power: float = 0.8
) -> int | None:
    """Return how many pairs a level-alpha test needs to detect a difference with `power`.

    Args:
        difference: True mean difference.
        deviation: Standard deviation of the paired differences.
        alpha: Two-sided level of the test.
        power: Probability of detection, below 1.

    Returns:
        The smallest sufficient number of pairs; None if it is above 1,000.

    Example:
        >>> pairs_needed(difference=1.0, deviation=1.0)
        10
    """
    if deviation == 0:
        return 2
    counts = range(2, _MOST_PAIRS + 1)
    return next(
        (n for n in counts if power_of_test(difference, deviation, n, alpha) >= power), None
    )
