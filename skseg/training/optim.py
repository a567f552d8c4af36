"""Parameter groups and learning-rate schedules."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from skseg.encoders import encoder_stages
from skseg.errors import UserError


@dataclass(frozen=True)
class Schedule:
    """Learning rate over a run, as a fraction of its peak, stepped by iteration.

    Args:
        name: "poly" falls as (1 - t) ** power, "cosine" as (1 + cos(pi t)) / 2, where t in 0..1 is
            the share of the iterations after warm-up.
        warmup_steps: iterations over which the rate first rises linearly to its peak.
        power: exponent of poly; 0.9 when unset.
    """

    name: Literal["poly", "cosine"] = "poly"
    warmup_steps: int = 0
    power: float | None = None

    def __post_init__(self) -> None:
        if self.name == "cosine" and self.power is not None:
            raise UserError("schedule.power belongs to poly; cosine has none")
        if self.warmup_steps < 0:
            raise UserError(f"schedule.warmup_steps is at least 0, got {self.warmup_steps}")

    def factor(self, step: int, total_steps: int) -> float:
        """Return the rate's fraction of its peak, 0 to 1, at an iteration counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        t = min(1.0, (step - self.warmup_steps) / max(1, total_steps - self.warmup_steps))
        if self.name == "cosine":
            return (1 + math.cos(math.pi * t)) / 2
        return float((1 - t) ** (0.9 if self.power is None else self.power))


def parameter_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    decoder_lr_factor: float = 1.0,
    layer_decay: float = 1.0,
    auxiliary: nn.Module | None = None,
) -> list[dict[str, Any]]:
    """Split a model's trainable parameters by rate and by decay.

    Norms and biases, the parameters of one dimension, are not decayed.

    Args:
        model: has an `encoder`; the rest is the decoder.
        lr: peak rate of the encoder.
        weight_decay: of the decayed groups.
        decoder_lr_factor: rate of the decoder over that of the encoder.
        layer_decay: rate of each encoder stage over that of the next deeper one; the deepest
            has `lr`.
        auxiliary: a further head, with the decoder's rate.

    Returns:
        Groups for a torch optimizer, with their name, lr and weight_decay; empty ones left out.
    """
    stages = encoder_stages(model.encoder) if layer_decay != 1 else {}  # type: ignore[arg-type]
    deepest = max(stages.values(), default=0)
    named = list(model.named_parameters())
    named += [] if auxiliary is None else list(auxiliary.named_parameters(prefix="auxiliary"))
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in named:
        if not parameter.requires_grad:
            continue
        part, factor = "decoder", decoder_lr_factor
        if name.startswith("encoder."):
            part, factor = "encoder", 1.0
            if stages:
                stage = stages.get(name.removeprefix("encoder."), deepest)
                part, factor = f"encoder_stage{stage}", layer_decay ** (deepest - stage)
        decayed = parameter.ndim > 1
        group = groups.setdefault(
            part if decayed else f"{part}_no_decay",
            {
                "params": [],
                "lr": lr * factor,
                "weight_decay": weight_decay if decayed else 0.0,
            },
        )
        group["params"].append(parameter)
    return [{"name": name, **group} for name, group in groups.items()]


def build_optimizer(
    make: Callable[[Any], Optimizer],
    schedule: Schedule,
    model: nn.Module,
    total_steps: int,
    **groups: Any,
) -> tuple[Optimizer, LambdaLR]:
    """Build an optimizer over `parameter_groups` and its schedule.

    Args:
        make: returns an optimizer of given parameters; its `lr` and `weight_decay` are the
            encoder's.
        schedule: learning rate over the run.
        model: has an `encoder`; the rest is the decoder.
        total_steps: iterations of the whole run.
        **groups: further arguments of `parameter_groups`.

    Returns:
        The optimizer and a scheduler to be stepped once an iteration.
    """
    defaults = make(model.parameters()).defaults  # what the user's lr and weight_decay are
    lr, weight_decay = defaults["lr"], defaults.get("weight_decay", 0.0)
    optimizer = make(parameter_groups(model, lr, weight_decay, **groups))
    return optimizer, LambdaLR(optimizer, partial(schedule.factor, total_steps=total_steps))
