"""Values with intervals: over the images of one network, or over several networks."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Values = NDArray[np.float64]

RESAMPLES = 2_000

FEWEST_IMAGES = 10
"""Images from which one network has an interval: a bootstrap of fewer is too narrow."""

_TAIL = 0.025  # beyond each end of a 95 % interval


class Estimate(NamedTuple):
    """A value, or an array of such, with the ends of its 95 % interval (None: too few data)."""

    value: Values
    low: Values | None
    high: Values | None

    def plain(self) -> dict[str, Any]:
        """As nested lists."""
        return {k: None if v is None else v.tolist() for k, v in self._asdict().items()}


def estimate(
    samples: Sequence[NDArray[np.floating[Any]]],
    seed: int = 0,
    statistic: Callable[[Values], Values] = lambda means: means,
) -> Estimate:
    """Estimate a statistic of the means over images.

    Of one network, how it would vary over other images like these: percentile bootstrap over
    images. Of several, how it would vary over other networks trained like these: their mean with
    Student's t interval; networks are what is repeated then, and each one's images are averaged.

    Args:
        samples: for each network [I, ...], one row an image.
        seed: of the resamples.
        statistic: maps means [R, ...] to [R, ...].
    """
    flat = [np.asarray(s, np.float64).reshape(len(s), -1) for s in samples]
    shape = samples[0].shape[1:]

    def of(means: Values) -> Values:
        return statistic(means.reshape(len(means), *shape))

    if len(samples) > 1:
        values = np.concatenate([of(f.mean(0, keepdims=True)) for f in flat])
        half = stats.t.ppf(1 - _TAIL, len(values) - 1) * stats.sem(values)
        mean = values.mean(0)
        return Estimate(mean, mean - half, mean + half)
    (images,) = flat
    value = of(images.mean(0, keepdims=True))[0]
    count = len(images)
    if count < FEWEST_IMAGES:
        return Estimate(value, None, None)
    generator = np.random.default_rng(seed)
    # How often each image is drawn.
    draws = generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    # In parts, for memory: a row has as many numbers as there are channels.
    resampled = np.concatenate([of(part @ images / count) for part in np.split(draws, 20)])
    low, high = np.quantile(resampled, (_TAIL, 1 - _TAIL), axis=0)
    return Estimate(value, low, high)


def interval_words(e: Mapping[str, Any], factor: float, form: str) -> str:
    """Write the interval of a number's `Estimate.plain`, " (LOW to HIGH)"; empty without one."""
    if e["low"] is None:
        return ""
    return f" ({factor * e['low']:{form}} to {factor * e['high']:{form}})"
