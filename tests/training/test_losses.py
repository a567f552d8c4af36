import math

import pytest
import torch
from torch.nn import functional as F

from skseg.data.class_weights import inverse_log_weights
from skseg.errors import UserError
from skseg.training.losses import Criterion, Loss
from skseg.types import VOID

NAMES = ["cross_entropy", "ohem", "dice", "lovasz", "focal"]
K = 4


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, K, 5, 6, generator=generator)
    mask = torch.randint(0, K - 1, (2, 5, 6), generator=generator)  # the last class is absent
    mask[0, :2] = VOID
    return logits.requires_grad_(), mask


def pixels(logits: torch.Tensor, mask: torch.Tensor) -> list[tuple[list[float], int]]:
    """The probabilities and the class of each labelled pixel."""
    rows = logits.detach().softmax(1).movedim(1, -1).reshape(-1, K).tolist()
    pairs = zip(rows, mask.flatten().tolist(), strict=True)
    return [(row, label) for row, label in pairs if label != VOID]


def value(loss: Loss, batch: tuple[torch.Tensor, torch.Tensor]) -> float:
    total, terms = Criterion([loss], K)(*batch)
    assert terms.keys() == {loss.name}
    return total.item()


def test_cross_entropy_weighs_and_smooths(batch) -> None:
    weights = [0.5, 1.0, 2.0, 3.0]
    above = below = 0.0
    for row, label in pixels(*batch):
        target = [0.1 / K + 0.9 * (c == label) for c in range(K)]
        above -= sum(w * t * math.log(p) for w, t, p in zip(weights, target, row, strict=True))
        below += weights[label]
    loss = Loss("cross_entropy", class_weights=weights, label_smoothing=0.1)
    assert value(loss, batch) == pytest.approx(above / below, rel=1e-5)


@pytest.mark.parametrize(("threshold", "min_kept"), [(0.3, 1), (1e-9, 7), (1.0, 1), (0.5, 999)])
def test_ohem_counts_the_hardest(batch, threshold: float, min_kept: int) -> None:
    losses = sorted((-math.log(row[label]) for row, label in pixels(*batch)), reverse=True)
    at_least = min(2 * min_kept, len(losses))
    kept = [x for i, x in enumerate(losses) if i < at_least or x > -math.log(threshold)]
    loss = Loss("ohem", threshold=threshold, min_kept=min_kept)
    assert value(loss, batch) == pytest.approx(sum(kept) / len(kept), rel=1e-5)


def test_dice_is_one_minus_the_overlap(batch) -> None:
    losses = []
    for c in range(K - 1):
        inside = sum(row[c] for row, label in pixels(*batch) if label == c)
        predicted = sum(row[c] for row, _ in pixels(*batch))
        truth = sum(label == c for _, label in pixels(*batch))
        losses.append(1 - 2 * inside / (predicted + truth))
    # smp divides by all classes, and an absent one adds nothing.
    assert value(Loss("dice"), batch) == pytest.approx(sum(losses) / K, rel=1e-5)


def test_lovasz_is_the_extension_of_the_jaccard_loss(batch) -> None:
    """Algorithm 1 of Berman et al., 2018, pixel by pixel, over the classes that occur."""
    losses = []
    for c in range(K - 1):
        errors = [(1 - r[c] if y == c else r[c], y == c) for r, y in pixels(*batch)]
        errors.sort(reverse=True)
        truth = sum(is_c for _, is_c in errors)
        total = before = 0.0
        for i in range(len(errors)):
            missed = sum(is_c for _, is_c in errors[: i + 1])
            jaccard = 1 - (truth - missed) / (truth + (i + 1 - missed))
            total += errors[i][0] * (jaccard - before)
            before = jaccard
        losses.append(total)
    assert value(Loss("lovasz"), batch) == pytest.approx(sum(losses) / len(losses), rel=1e-4)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_is_one_class_against_the_rest(batch, gamma: float) -> None:
    logits, mask = batch
    total = 0.0
    for c in range(K):
        chance = logits[:, c].sigmoid()[mask != VOID]
        chance = torch.where(mask[mask != VOID] == c, chance, 1 - chance)
        total += (-((1 - chance) ** gamma) * chance.log()).mean().item()
    assert value(Loss("focal", gamma=gamma), batch) == pytest.approx(total / K, rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_void_is_a_finite_zero(name: str) -> None:
    logits = torch.randn(1, K, 4, 4, requires_grad=True)
    loss, _ = Criterion([Loss(name)], K)(logits, torch.full((1, 4, 4), VOID))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("name", NAMES)
def test_void_has_no_part_in_value_or_gradient(name: str, batch) -> None:
    logits, mask = batch
    criterion = Criterion([Loss(name)], K)
    loss, _ = criterion(logits, mask)
    loss.backward()
    void = (mask == VOID)[:, None].expand_as(logits)
    assert not logits.grad[void].any()
    assert logits.grad[~void].any()
    changed = torch.where(void, -logits.detach(), logits.detach())
    assert criterion(changed, mask)[0].item() == pytest.approx(loss.item(), rel=1e-6)


def test_a_sum_is_weighted(batch) -> None:
    total, terms = Criterion([Loss("cross_entropy"), Loss("dice", weight=0.5)], K)(*batch)
    assert total.item() == pytest.approx((terms["cross_entropy"] + 0.5 * terms["dice"]).item())
    torch.testing.assert_close(
        terms["cross_entropy"], F.cross_entropy(*batch, ignore_index=VOID), rtol=0, atol=0
    )


def test_weights_from_the_data(batch) -> None:
    weights = inverse_log_weights(torch.tensor([90, 10, 0, 0]))
    expected = [1 / math.log(1.02 + share) for share in (0.9, 0.1, 0, 0)]
    assert weights.tolist() == pytest.approx(expected)
    criterion = Criterion([Loss("cross_entropy", class_weights="data")], K)
    assert criterion.wants_class_weights
    criterion.set_class_weights(weights)
    given = Loss("cross_entropy", class_weights=weights.tolist())
    assert criterion(*batch)[0].item() == pytest.approx(value(given, batch))
    assert not criterion.state_dict()


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([], "one or more different losses"),
        ([{}, {}], "one or more different losses"),
        ([{"name": "dice", "label_smoothing": 0.1}], "label_smoothing belongs to cross_entropy"),
        ([{"name": "focal", "class_weights": "data"}], "class_weights belongs to cross_entropy an"),
        ([{"label_smoothing": 1.0}], "label_smoothing must be from 0"),
        ([{"class_weights": [1.0]}], "1 class_weights; it must have one for each of 4"),
        ([{"class_weights": [1.0, 1.0, 1.0, 0.0]}], "must be above 0 each"),
        ([{"weight": 0}], "weight must be above 0, not 0"),
        ([{"name": "ohem", "min_kept": 0}], "min_kept must be at least 1, not 0"),
    ],
)
def test_what_makes_no_sense_is_refused(losses: list[dict], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Criterion([Loss(**loss) for loss in losses], K)
