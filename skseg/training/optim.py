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
    """Learning rate over a run, as a fraction of its peak, stepped once per iteration.

    Args:
        name: "poly" falls as (1 - t) ** power, "cosine" as (1 + cos(pi t)) / 2, where t rises from
            0 to 1 over the iterations after warm-up.
        warmup_steps: Iterations over which the rate first rises linearly to its peak.
        power: Exponent of poly; 0.9 when unset.

    Raises:
        UserError: A value does not fit.

    Example:
        >>> schedule = Schedule("cosine", warmup_steps=1)
        >>> [round(schedule.factor(step, total_steps=5), 2) for step in range(5)]
        [0.5, 1.0, 0.85, 0.5, 0.15]
    """

    name: Literal["poly", "cosine"] = "poly"
    warmup_steps: int = 0
    power: float | None = None

    def __post_init__(self) -> None:
        if self.name == "cosine" and self.power is not None:
            raise UserError("`power` belongs to the schedule poly; cosine has none")
        if self.warmup_steps < 0:
            raise UserError(f"`warmup_steps` must be at least 0, got {self.warmup_steps}")
        if self.power is not None and not self.power > 0:
            raise UserError(f"`power` must be above 0, got {self.power}")

    def factor(self, step: int, total_steps: int) -> float:
        """Return the rate over its peak, 0 to 1, at an iteration counted from 0."""
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
    """Group a model's trainable parameters by learning rate and weight decay.

    Parameters of one dimension, those of norms and biases, are not decayed.

    Args:
        model: A model with an `encoder`; the rest is the decoder.
        lr: Peak rate of the encoder.
        weight_decay: Weight decay of the other parameters.
        decoder_lr_factor: Rate of the decoder over that of the encoder.
        layer_decay: Rate of each encoder stage over that of the next deeper stage; the deepest
            stage has the rate `lr`.
        auxiliary: An additional head, with the decoder's rate.

    Returns:
        Groups for a torch optimizer with their name, lr and weight_decay, without empty groups.

    Example:
        >>> from skseg import build_model
        >>> model = build_model("fpn", "sknet_tiny")
        >>> for group in parameter_groups(model, lr=0.01, weight_decay=0.1, decoder_lr_factor=10):
        ...     print(group["name"], group["lr"], group["weight_decay"])
        encoder 0.01 0.1
        encoder_no_decay 0.01 0.0
        decoder 0.1 0.1
        decoder_no_decay 0.1 0.0
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
        make: Builds an optimizer of parameters; its `lr` and `weight_decay` are the encoder's.
        schedule: Learning rate over the run.
        model: A model with an `encoder`; the rest is the decoder.
        total_steps: Iterations of the whole run.
        **groups: Further arguments of `parameter_groups`.

    Returns:
        The optimizer, and a scheduler to be stepped once per iteration.
    """
    defaults = make(model.parameters()).defaults  # what the user's lr and weight_decay are
    lr, weight_decay = defaults["lr"], defaults.get("weight_decay", 0.0)
    optimizer = make(parameter_groups(model, lr, weight_decay, **groups))
    optimizer.register_load_state_dict_pre_hook(_keep_settings)
    return optimizer, _Rates(optimizer, partial(schedule.factor, total_steps=total_steps))


class _Rates(LambdaLR):
    """The schedule of a run. A resumed run continues at the step, with the rates of its own."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go to the step of a checkpoint."""
        self.last_epoch = state_dict["last_epoch"]  # torch's name of the step
        self._step_count = state_dict["_step_count"]
        rates = zip(self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=True)
        for group, peak, factor in rates:
            group["lr"] = peak * factor(self.last_epoch)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


def _keep_settings(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Load the moments of a checkpoint, and keep the rates and other settings of this run."""
    groups = [
        {**group, "params": saved["params"]}
        for group, saved in zip(optimizer.param_groups, state_dict["param_groups"], strict=True)
    ]
    return {**state_dict, "param_groups": groups}
