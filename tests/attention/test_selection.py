"""Attention that is fixed at its mean, and numbers of attention whose variation is known."""

from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch

from skseg import SegmentationTask
from skseg.attention import selection
from skseg.attention.observe import selecting_units
from skseg.attention.selection import Selection, SelectionCollector, describe_selection
from skseg.data import get_dataset, read_pair
from skseg.encoders import SKSettings
from skseg.inference import InferenceSettings
from skseg.metrics import miou
from skseg.nn import Unit, fix_attention, record_attention

UNITS = [Unit("layer1.0", "layer1", (3, 5), 6), Unit("layer2.0", "layer2", (3, 7), 6)]
COUNTS = np.full((50, 3, 3), [1, 2, 2])


def read(task: SegmentationTask, root: Path, scale: float = 1.0) -> Selection:
    spec = get_dataset("streets")
    collector = SelectionCollector(task, selecting_units(task.model), scale)
    pairs = [read_pair(spec, pair) for pair in spec.pairs(root, "val")]
    for image, mask in pairs:
        collector.add(image, mask)
    for image, mask in pairs:
        collector.add_fixed(image, mask)
    return collector.result()


def task_of(sk: SKSettings | None = None) -> SegmentationTask:
    torch.manual_seed(0)
    classes = get_dataset("streets").classes
    half = (0.5, 0.5, 0.5)
    names, colors = list(classes.names), list(classes.colors)
    return SegmentationTask(names, colors, half, half, "fpn", "sknet_tiny", sk=sk).eval()


@pytest.mark.parametrize("window", [0, 4])
def test_attention_is_fixed_at_its_mean_over_the_images(
    window: int, streets_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(SKSettings(pool_window=window))
    seen: list[dict[str, torch.Tensor]] = []
    fixed: list[dict[str, torch.Tensor]] = []

    def fix(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> AbstractContextManager:
        fixed.append(weights)
        return fix_attention(model, weights)

    monkeypatch.setattr(selection, "fix_attention", fix)
    task.model.register_forward_hook(lambda *args: seen.append(dict(recorded)))
    with record_attention(task.model) as recorded:
        read(task, streets_root)
    images = seen[: len(fixed)]
    assert len(fixed) == len(seen) - len(images) == 3
    for name, weights in fixed[0].items():
        attention = torch.cat([image[name] for image in images])
        if window:
            attention = attention.flatten(3).mean(3)
        torch.testing.assert_close(weights, attention.double().mean(0))
        assert (attention.std(0) > 0).any()
    assert fixed[0].keys() == images[0].keys()


def test_attention_that_follows_nothing_is_worth_nothing(streets_root: Path) -> None:
    task = task_of()
    for name, parameter in task.model.named_parameters():
        if "attn" in name:
            torch.nn.init.zeros_(parameter)
    seen = read(task, streets_root)
    np.testing.assert_array_equal(seen.counts, seen.counts_fixed)
    found = describe_selection([seen, seen], selecting_units(task.model))
    assert found["difference"] == {"value": 0, "low": 0, "high": 0}
    for variation in found["variation"].values():
        assert variation["over_images"]["value"] == pytest.approx(0, abs=1e-7)
        assert variation["over_channels"]["value"] == pytest.approx(0, abs=1e-7)


def test_counts_are_those_of_predictions_at_the_scale(streets_root: Path) -> None:
    task = task_of()
    whole, half = read(task, streets_root), read(task, streets_root, 0.5)
    assert (whole.counts != half.counts).any()
    assert whole.counts.shape == (3, 19, 3)
    collector = SelectionCollector(task, selecting_units(task.model), 0.5)
    assert collector.settings == InferenceSettings(scales=(0.5,))


def test_a_class_that_never_occurs_does_not_decide_what_following_is_worth() -> None:
    """One pixel predicted as it, in one of the two passes, would change mIoU by points."""
    largest = [np.zeros((50, 6), np.float32) for _ in UNITS]
    never = np.zeros((50, 1, 3), np.int64)
    stray = never.copy()
    stray[0, 0, 2] = 1
    counts, fixed = (np.concatenate([COUNTS, last], axis=1) for last in (never, stray))
    found = describe_selection([Selection(largest, counts, fixed)], UNITS)
    assert found["difference"] == {"value": 0, "low": 0, "high": 0}


def test_variation_over_images_and_over_channels() -> None:
    rng = np.random.default_rng(0)
    weights = [rng.uniform(0.3, 0.7, (50, 1)) + rng.normal(0, 0.1, (1, 6)) for _ in UNITS]
    found = describe_selection([Selection(weights, COUNTS, COUNTS)], UNITS)["variation"]
    assert list(found) == ["layer1", "layer2"]
    for variation, w in zip(found.values(), weights, strict=True):
        expected = {"over_images": w.std(0).mean(), "over_channels": w.mean(0).std()}
        for key, value in expected.items():
            assert variation[key]["value"] == pytest.approx(value)
        low, high = (variation["over_images"][key] for key in ("low", "high"))
        assert low < expected["over_images"] < high
    joined = [Unit("layer1.0", "layer1", (3, 5), 6), Unit("layer1.1", "layer1", (3, 5), 6)]
    fixed = [np.repeat(rng.uniform(size=(1, 6)), 50, axis=0) for _ in joined]
    (both,) = describe_selection([Selection(fixed, COUNTS, COUNTS)], joined)["variation"].values()
    assert both["over_images"]["value"] == pytest.approx(0, abs=1e-7)
    assert both["over_channels"]["value"] == pytest.approx(np.concatenate(fixed, 1)[0].std())


def test_worth_is_a_paired_difference() -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(50, 100, (30, 3, 1))
    counts, fixed = (
        np.concatenate([rng.integers(low, low + 10, (30, 3, 1)), truth, truth], axis=2)
        for low in (35, 20)
    )
    largest = [np.zeros((30, 6), np.float32) for _ in UNITS]
    one = Selection(largest, counts, fixed)
    found = describe_selection([one], UNITS)
    expected = [float(miou(c.sum(0))) for c in (counts, fixed)]
    assert [found["miou"]["value"], found["miou_fixed"]["value"]] == pytest.approx(expected)
    assert found["difference"]["value"] == pytest.approx(expected[0] - expected[1])
    assert 0 < found["difference"]["low"] < found["difference"]["value"]
    other = Selection(largest, fixed, counts)
    several = describe_selection([one, other], UNITS)["difference"]
    assert several["value"] == pytest.approx(0)
    assert several["low"] < 0 < several["high"]
