import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skseg.errors import UserError
from skseg.models import build_model
from skseg.training.optim import Schedule, build_optimizer, encoder_stages, parameter_groups


@given(
    name=st.sampled_from(["poly", "cosine"]), warmup=st.integers(0, 50), total=st.integers(1, 200)
)
def test_rises_then_falls_to_zero(name: str, warmup: int, total: int) -> None:
    schedule = Schedule(name, warmup_steps=warmup)
    factors = [schedule.factor(step, total) for step in range(total + 1)]
    assert all(0 <= f <= 1 for f in factors)
    assert factors[: warmup + 1] == sorted(factors[: warmup + 1])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    if warmup < total:
        assert factors[warmup] == 1
        assert factors[total] == pytest.approx(0, abs=1e-12)


def test_formulas() -> None:
    assert Schedule("poly").factor(30, 120) == pytest.approx(0.75**0.9)
    assert Schedule("poly", power=2).factor(30, 120) == pytest.approx(0.75**2)
    assert Schedule("cosine").factor(30, 120) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert Schedule("poly", warmup_steps=9).factor(4, 100) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cosine", "power": 0.9}, "`power` belongs to the schedule poly"),
        ({"warmup_steps": -1}, "at least 0, got -1"),
    ],
)
def test_bad_schedules(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Schedule(**arguments)


def test_groups_split_rate_and_decay_and_hold_every_parameter_once() -> None:
    model = build_model("fpn", "sknet_tiny")
    model.encoder.conv1.requires_grad_(False)
    groups = {g["name"]: g for g in parameter_groups(model, 0.1, 0.01, 10)}
    assert {n: (g["lr"], g["weight_decay"]) for n, g in groups.items()} == {
        "encoder": (0.1, 0.01),
        "encoder_no_decay": (0.1, 0.0),
        "decoder": (1.0, 0.01),
        "decoder_no_decay": (1.0, 0.0),
    }
    held = [id(p) for g in groups.values() for p in g["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d | torch.nn.GroupNorm)]
    undecayed = {
        id(p) for n in ("encoder_no_decay", "decoder_no_decay") for p in groups[n]["params"]
    }
    trained = [n for n in norms if n.weight.requires_grad]
    assert {id(n.weight) for n in trained} | {id(n.bias) for n in trained} <= undecayed


def test_the_rate_follows_the_schedule_step_by_step() -> None:
    model = build_model("fpn", "sknet_tiny_plain")
    make = partial(torch.optim.SGD, lr=0.5, momentum=0.9, weight_decay=1e-4)
    schedule = Schedule("poly", warmup_steps=1)
    optimizer, scheduler = build_optimizer(make, schedule, model, 4, decoder_lr_factor=2.0)
    rates = []
    for _ in range(4):
        rates.append({g["name"]: g["lr"] for g in optimizer.param_groups})
        optimizer.step()
        scheduler.step()
    for step, rate in enumerate(rates):
        assert rate["encoder"] == pytest.approx(0.5 * schedule.factor(step, 4))
        assert rate["decoder"] == pytest.approx(2 * rate["encoder"])
    assert optimizer.param_groups[0]["momentum"] == 0.9


def test_layer_decay_lowers_the_rate_stage_by_stage() -> None:
    model = build_model("fpn", "sknet_tiny")
    groups = {g["name"]: g for g in parameter_groups(model, 0.1, 0.01, 10, layer_decay=0.5)}
    assert {n: g["lr"] for n, g in groups.items() if not n.endswith("_no_decay")} == pytest.approx(
        {
            **{"encoder_stage1": 0.1 / 16, "encoder_stage2": 0.1 / 8, "encoder_stage3": 0.1 / 4},
            **{"encoder_stage4": 0.1 / 2, "encoder_stage5": 0.1, "decoder": 1.0},
        }
    )
    held = [id(p) for g in groups.values() for p in g["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("name", ["sknet_tiny", "resnet18", "tu-resnet10t"])
def test_stages_are_those_of_a_resnet(name: str) -> None:
    """By the names that torchvision gave its parts."""
    encoder = build_model("unet", name).encoder
    state = {key: value.clone() for key, value in encoder.state_dict().items()}
    stages = encoder_stages(encoder)
    assert stages.keys() == dict(encoder.named_parameters()).keys()
    for parameter, stage in stages.items():
        part = parameter.removeprefix("model.").split(".")[0]
        assert stage == (int(part[5:]) + 1 if part.startswith("layer") else 1), parameter
    assert all(torch.equal(state[key], value) for key, value in encoder.state_dict().items())


def test_stages_of_a_transformer() -> None:
    stages = encoder_stages(build_model("fpn", "mit_b0").encoder)
    assert set(stages.values()) == {2, 3, 4, 5}
    assert all(int(name[len("patch_embed")]) + 1 == stage for name, stage in stages.items()
               if name.startswith("patch_embed"))  # fmt: skip
