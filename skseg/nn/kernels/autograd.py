"""The halves of an SK unit as autograd functions, for eager execution.

`operators.py` has the same functions for graphs. An operator of `torch.library` with a gradient
costs 0.2 ms a call, ten times as much as these, see docs/performance.md.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from skseg.nn.kernels import halves, ops


class _Unit(NamedTuple):
    """The arguments of `split` that have no gradient."""

    geometry: Sequence[int]
    compiled: bool
    depthwise: Sequence[bool]
    eps: Sequence[float]
    by_batch: Sequence[bool]
    running: Sequence[Tensor]


def split(
    x: Tensor,
    weights: list[Tensor],
    geometry: list[int],
    compiled: bool,
    depthwise: list[bool],
    norm_weights: list[Tensor],
    norm_biases: list[Tensor],
    eps: list[float],
    by_batch: list[bool],
    running: list[Tensor],
) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
    """Run `halves.split`."""
    unit = _Unit(geometry, compiled, depthwise, eps, by_batch, running)
    pooled, norms, link, *maps = _Split.apply(unit, x, *weights, *norm_weights, *norm_biases)
    return pooled, maps, norms, link


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, unit: _Unit, x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        m = len(unit.by_batch)
        weights, norm_weights, norm_biases = (parameters[i * m : i * m + m] for i in range(3))
        pooled, maps, norms, link = halves.split(
            *(x, weights, unit.geometry, unit.compiled, norm_weights, norm_biases),
            *(unit.eps, unit.by_batch, unit.running),
        )
        ctx.unit = unit
        ctx.set_materialize_grads(False)  # those of the other maps would be maps of zeros
        ctx.mark_non_differentiable(norms, *maps[1:])
        ctx.save_for_backward(x, norms, *weights, *maps)
        return pooled, norms, link, *maps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        d_pooled, _, link, grad, *_ = grads
        x, norms, *saved = ctx.saved_tensors
        m = len(ctx.unit.by_batch)
        needs_x, needs_weights = ctx.needs_input_grad[1], any(ctx.needs_input_grad[2 : 2 + m])
        maps = saved[m:]
        b, c = maps[0].shape[:2]
        d_x, d_weights, d_norm_weights, d_norm_biases = halves.split_backward(
            *(x, saved[:m], ctx.unit.geometry, ctx.unit.compiled, ctx.unit.depthwise),
            *(ctx.unit.by_batch, maps, norms),
            norms.new_zeros(b, c) if d_pooled is None else d_pooled.contiguous(),
            torch.zeros_like(maps[0]) if grad is None else grad,
            norms.new_zeros(5, b, m, c) if link is None else link,
            *(needs_x, needs_weights),
        )
        of_x = d_x[0] if d_x else None
        of_weights = d_weights if needs_weights else [None] * m
        return (None, of_x, *of_weights, *d_norm_weights, *d_norm_biases)


def select(maps: list[Tensor], attention: Tensor, norms: Tensor, link: Tensor) -> Tensor:
    """Run `halves.select`."""
    out: Tensor = _Select.apply(attention, norms, link, *maps)
    return out


class _Select(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, attention: Tensor, norms: Tensor, link: Tensor, *maps: Tensor) -> Tensor:
        ctx.save_for_backward(attention, norms, *maps)
        return halves.select(maps, attention, norms)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        attention, norms, *maps = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        link, d_attention = halves.select_backward(maps, attention, norms, grad)
        return (d_attention, None, link, grad, *[None] * (len(maps) - 1))


def depthwise_conv(x: Tensor, weight: Tensor, geometry: list[int]) -> Tensor:
    """Run a depthwise convolution by torch, whose weight's gradient is the compiled kernel's."""
    out: Tensor = _DepthwiseConv.apply(x, weight, geometry)
    return out


class _DepthwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, geometry: list[int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        (branch,) = halves.unflatten(geometry)
        return torch.conv2d(x, weight, None, *branch, x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (branch,) = halves.unflatten(ctx.geometry)
        needs_x, needs_weight, _ = ctx.needs_input_grad
        d_x, _ = halves.convolution_backward(x, weight, branch, grad, needs_x, False)
        d_weight = (
            halves.depthwise_gradient(x, grad, weight.shape[2], ctx.geometry)
            if needs_weight
            else None
        )
        return d_x, d_weight, None


split_folded = halves.split_folded
update_running = ops.update_running


def select_folded(maps: list[Tensor], attention: Tensor, norms: Tensor | None) -> Tensor:
    """Run `halves.select_folded`; the sum overwrites the first map."""
    return ops.select(maps, attention, norms, in_place=True)
