"""Every way through the network against a slow version that holds whole maps."""

import itertools
from math import exp

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from skseg.errors import UserError
from skseg.inference import (
    InferenceSettings,
    predict,
    predict_bands,
)
from skseg.inference.views import axis_windows


class Tiny(nn.Module):
    """Its logits depend on a pixel's neighbours, its place in the window and the side it is on."""

    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 5, 7, padding=3)
        self.sizes: list[tuple[int, int]] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.sizes.append((image.shape[2], image.shape[3]))
        ramp = torch.linspace(-1, 1, image.shape[3]) + torch.linspace(0, 3, image.shape[2])[:, None]
        out: torch.Tensor = 3 * self.convolution(image) + ramp
        return out


def starts(side: int, window: int, overlap: float) -> list[int]:
    step, out = max(1, round(window * (1 - overlap))), [0]
    while out[-1] + window < side:
        out.append(min(out[-1] + step, side - window))
    return out


def slow_logits(network: Tiny, image: torch.Tensor, how: InferenceSettings) -> torch.Tensor:
    """Logits [1, K, H, W] of a normalised image, window by window, divided by the weights."""
    height, width = image.shape[-2:]
    rows, columns = how.window or (height, width)
    rows, columns = min(rows, height), min(columns, width)
    weight = torch.ones(rows, columns)
    if how.blend == "gaussian":
        for y, x in itertools.product(range(rows), range(columns)):
            away = ((y - (rows - 1) / 2) / (rows / 8)) ** 2
            away += ((x - (columns - 1) / 2) / (columns / 8)) ** 2
            weight[y, x] = exp(-away / 2)
    total, weights = torch.zeros(1, 5, height, width), torch.zeros(height, width)
    for top in starts(height, rows, how.overlap):
        for left in starts(width, columns, how.overlap):
            at = (..., slice(top, top + rows), slice(left, left + columns))
            with torch.autocast("cpu", torch.bfloat16, enabled=how.precision == "bf16"):
                total[at] += weight * network(image[at]).float()
            weights[at[1:]] += weight
    return total / weights


def slow(network: Tiny, picture: np.ndarray, how: InferenceSettings) -> torch.Tensor:
    """Probabilities [K, H, W] of a picture."""
    height, width = picture.shape[:2]
    seen = []
    for scale in how.scales:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        mode = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        scaled = picture if scale == 1 else cv2.resize(picture, size, interpolation=mode)
        image = torch.from_numpy((scaled / 255 - Tiny.mean) / Tiny.std).float()
        image = image.permute(2, 0, 1)[None]
        for mirrored in [False, True] if how.flip else [False]:
            logits = slow_logits(network, image.flip(-1) if mirrored else image, how)
            logits = F.interpolate(logits, (height, width), mode="bilinear")
            seen.append((logits.flip(-1) if mirrored else logits).softmax(1)[0])
    return torch.stack(seen).mean(0)


def picture_of(height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


MODES = [
    {},
    {"flip": True},
    {"scales": (0.5, 1.0, 1.75)},
    {"scales": (3.0,), "window": (40, 50)},
    {"window": (48, 32)},
    {"window": (48, 32), "blend": "uniform", "overlap": 0.25},
    {"window": (30, 500), "overlap": 0.0},
    {"window": (31, 33), "overlap": 0.7, "flip": True, "scales": (0.75, 1.5)},
    {"window": (300, 300), "precision": "bf16"},
]


@torch.inference_mode()
@pytest.mark.parametrize("mode", MODES, ids=lambda m: ",".join(map(str, m)) or "whole")
@pytest.mark.parametrize("size", [(150, 131), (64, 97), (5, 3)])
def test_every_mode_is_the_slow_one(mode: dict, size: tuple[int, int]) -> None:
    network, how, picture = Tiny(), InferenceSettings(**mode), picture_of(*size)
    bands = list(predict_bands(network, picture, how))
    assert [top for top, _ in bands] == [0, 64, 128][: len(bands)]
    found = torch.cat([band for _, band in bands], dim=1)
    expected = slow(network, picture, how)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    prediction = predict(network, picture, how)
    np.testing.assert_allclose(prediction.confidence, expected.max(0).values, atol=2e-5)
    two = expected.topk(2, dim=0).values
    clear = (two[0] - two[1] > 1e-4).numpy()
    assert clear.mean() > 0.9
    assert (prediction.indices == expected.argmax(0).numpy())[clear].all()


def test_the_network_never_sees_more_than_a_window() -> None:
    network = Tiny()
    predict(network, picture_of(100, 90), InferenceSettings((32, 40), scales=(1, 2), flip=True))
    assert set(network.sizes) == {(32, 40)}


@given(
    side=st.integers(1, 300),
    window=st.integers(1, 400),
    overlap=st.floats(0, 0.9),
    blend=st.sampled_from(["gaussian", "uniform"]),
)
@settings(deadline=None)
def test_weights_add_up_to_one_everywhere(side, window, overlap, blend) -> None:
    total = torch.zeros(side, dtype=torch.float64)
    for part in axis_windows(side, window, overlap, blend):
        assert part.stop - part.start == min(side, window)
        total[part.pixels] += part.weights
    torch.testing.assert_close(total, torch.ones_like(total))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("window", (0, 8)),
        ("overlap", 1.0),
        ("blend", "cosine"),
        ("scales", ()),
        ("scales", (1.0, -1.0)),
        ("scales", (float("nan"),)),
        ("precision", "16"),
    ],
)
def test_settings_out_of_range_are_refused(key: str, value: object) -> None:
    with pytest.raises(UserError, match=f"^`{key}` must be ") as caught:
        InferenceSettings(**{key: value})
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (picture_of(9, 9) / 255, "float64"),
        (picture_of(9, 9).astype(np.uint16), "uint16"),
        (torch.zeros(3, 9, 9), "torch.float32"),
        (picture_of(9, 9)[..., 0], r"\[9, 9\]"),
        (np.zeros((9, 9, 4), np.uint8), r"\[9, 9, 4\]"),
    ],
)
def test_other_pixels_than_uint8_rgb_are_refused(image: object, found: str) -> None:
    """They would be normalized as if they were 0 to 255."""
    for run in (predict, lambda *given: next(predict_bands(*given))):
        with pytest.raises(UserError, match=f"`image` must .*got {found}"):
            run(Tiny(), image, InferenceSettings())
