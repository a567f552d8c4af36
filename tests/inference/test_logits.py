import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from skseg.inference import padded_side, predict_logits
from skseg.models import InputRule, build_model, input_rule


class Recorder(nn.Module):
    """Its logits are its input, which it keeps."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = x
        return x


@given(side=st.integers(1, 5000), power=st.integers(2, 5), factor=st.sampled_from([1, 8]))
def test_padded_side_is_the_smallest_allowed(side: int, power: int, factor: int) -> None:
    rule = InputRule(2**power, factor * 2**power)
    padded = padded_side(side, rule)
    assert padded >= max(side, rule.minimum)
    assert padded % rule.multiple == 0
    assert padded == rule.minimum or padded - rule.multiple < side


def test_padding_is_right_and_bottom_with_zeros_and_is_cropped() -> None:
    model = Recorder()
    image = torch.randn(2, 3, 33, 40)
    out = predict_logits(model, image, InputRule(32, 32))
    assert model.seen.shape == (2, 3, 64, 64)
    assert torch.equal(model.seen[:, :, :33, :40], image)
    assert model.seen[:, :, 33:].abs().sum() == model.seen[:, :, :, 40:].abs().sum() == 0
    assert torch.equal(out, image)


@pytest.mark.parametrize("size", [(1, 1), (31, 33), (96, 96), (65, 130)])
def test_any_size_goes_through_pan(size: tuple[int, int]) -> None:
    model = build_model("pan", "sknet_tiny", classes=4).eval()
    out = predict_logits(model, torch.randn(1, 3, *size), input_rule(model))
    assert out.shape == (1, 4, *size)
