import torch
from torch.nn import functional as F

from skseg.contract import VOID
from skseg.losses import cross_entropy


def test_is_torchs_mean_over_pixels_that_are_not_void() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 6, 7, dtype=torch.float64)
    mask = torch.randint(0, 5, (2, 6, 7))
    mask[0, :3] = VOID
    torch.testing.assert_close(
        cross_entropy(logits, mask), F.cross_entropy(logits, mask, ignore_index=VOID)
    )


def test_class_weights_are_torchs() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    mask = torch.randint(0, 3, (2, 4, 5))
    mask[1, 2:] = VOID
    weight = torch.tensor([0.5, 2.0, 7.0], dtype=torch.float64)
    expected = F.cross_entropy(logits, mask, weight, ignore_index=VOID)
    torch.testing.assert_close(cross_entropy(logits, mask, weight), expected)


def test_all_void_is_a_finite_zero() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = cross_entropy(logits, torch.full((1, 4, 4), VOID))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()
