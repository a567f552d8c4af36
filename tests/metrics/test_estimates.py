"""Intervals against the same resampling, done image by image."""

import numpy as np

from skseg.metrics.estimates import estimate


def test_the_bootstrap_is_over_images() -> None:
    rng = np.random.default_rng(0)
    sample = rng.normal(3, 2, (50, 4))
    found = estimate([sample])
    drawn = sample[rng.integers(50, size=(4000, 50))].mean(1)  # the same, image by image
    np.testing.assert_allclose(found.low, np.quantile(drawn, 0.025, axis=0), atol=0.06)
    np.testing.assert_allclose(found.high, np.quantile(drawn, 0.975, axis=0), atol=0.06)
    assert estimate([sample[:9]]).low is None, "too few images"
    assert estimate([sample[:10]]).low is not None
    assert estimate([sample[:1], sample[1:2]]).low is not None, "networks are what is repeated"
