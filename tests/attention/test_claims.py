"""Numbers and verdicts from attention that is known."""

import json

import numpy as np
import pytest

from skseg.attention.claims import judge_claims
from skseg.attention.observe import Observations, TargetAttention
from skseg.attention.selection import Selection
from skseg.attention.summary import describe_rise, summarize_attention
from skseg.nn import Unit


def known_attention(seed: int, rise: float) -> TargetAttention:
    """40 targets on 20 images; the larger kernel's weight rises by `rise` in layer1 only."""
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(20), 2)
    base = rng.uniform(0.4, 0.6, (20, 1, 6)) + np.zeros((20, 3, 6))
    steps = np.array([0, 0.5, 1])[None, :, None]
    first = base + rise * steps * np.array([1, 1, 1, 1, 1, -0.5])
    largest = [first, base]
    means = np.stack([x.mean(2) for x in largest], axis=2)[image]  # [N, F, U]
    label, size = np.tile([0, 1], 20), np.full(40, 2)
    return TargetAttention(image, label, size, np.stack([1 - means, means], axis=3), largest)


UNITS = [Unit("layer1.0", "layer1", (3, 5), 6), Unit("layer2.0", "layer2", (3, 7), 6)]


def record_of(*networks: TargetAttention) -> dict:
    names = [str(i) for i in range(20)]
    counts = np.full((20, 3, 3), [1, 2, 2])
    selections = [
        Selection([unit[:, 0] for unit in network.largest], counts, counts) for network in networks
    ]
    known = list(networks)
    observed = Observations(UNITS, "redraw", 64, names, known, known, None, [], selections)
    return summarize_attention(observed, ["a", "b", "c"])


def test_numbers_of_known_attention() -> None:
    known = known_attention(0, 0.1)
    record = record_of(known)
    assert list(record["by_class"]) == ["a", "b"]
    assert list(record["by_size"]) == ["32² to 64²"]
    assert record["by_class"]["a"]["objects"] == 20
    weight = known.weights[::2, 0].mean(0)
    np.testing.assert_allclose(record["by_class"]["a"]["weights"]["value"], weight)
    np.testing.assert_allclose(
        record["by_class"]["a"]["span"]["value"],
        [3 * weight[0, 0] + 5 * weight[0, 1], 3 * weight[1, 0] + 7 * weight[1, 1]],
    )
    first, second = record["growth"]["by_unit"].values()
    assert first["rise"]["value"] == pytest.approx(0.1 * 4.5 / 6)
    assert first["rising_channels"]["value"] == pytest.approx(5 / 6)
    assert second["rise"] == {"value": 0, "low": 0, "high": 0}
    change = record["growth"]["largest_change"]["value"]
    np.testing.assert_allclose(change, [[0, 0], [0.0375, 0], [0.075, 0]], atol=1e-12)
    assert [c["verdict"] for c in record["claims"].values()] == ["supported", "supported"]
    json.dumps(record, allow_nan=False)


def test_intervals_of_several_networks_are_over_networks() -> None:
    rises = [0.1, 0.12, 0.02]
    record = record_of(*(known_attention(i, rise) for i, rise in enumerate(rises)))
    found = record["growth"]["by_unit"]["layer1.0"]["rise"]
    values = 0.75 * np.asarray(rises)
    half = 4.3027 * values.std(ddof=1) / np.sqrt(3)  # Student's t, 2 degrees of freedom
    assert found["value"] == pytest.approx(values.mean())
    assert found["low"] == pytest.approx(values.mean() - half, rel=1e-4)
    assert found["high"] == pytest.approx(values.mean() + half, rel=1e-4)
    assert record["claims"]["larger_kernel"]["verdict"] == "neither"
    assert "networks" in record["interval"]


@pytest.mark.parametrize(
    ("low", "high", "verdicts"),
    [
        (0.1, 0.0, ["supported", "supported"]),
        (0.1, -0.1, ["supported", "supported"]),
        (0.1, 0.1, ["supported", "contradicted"]),
        (-0.1, 0.0, ["contradicted", "contradicted"]),
        (-0.1, -0.1, ["contradicted", "neither"]),
        (0.0, 0.0, ["neither", "neither"]),
    ],
)
def test_verdicts(low: float, high: float, verdicts: list[str]) -> None:
    noise = np.random.default_rng(0).normal(0, 1e-3, (2, 30, 41))
    noise -= noise.mean(1, keepdims=True)
    alternating = np.where(np.arange(41) % 2, 1e-4, -1e-4)
    rises = [noise[0] + low + alternating * (low == 0), noise[1] + high + alternating * (high == 0)]
    claims = judge_claims(describe_rise([rises], UNITS))
    assert [claim["verdict"] for claim in claims.values()] == verdicts
