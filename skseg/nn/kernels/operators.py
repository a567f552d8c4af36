"""The halves of an SK unit as operators `torch.ops.skseg.*`, for compiled and exported graphs.

Each has the functions of `halves.py` as its CPU implementation, a fake one that computes shapes
alone, and where it is differentiable a gradient made of other operators. Operators check what they
are given, like the functions of `ops.py`.

A program that loads an exported graph must `import skseg.nn` first, which registers the operators.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from skseg.nn.kernels import halves, ops

_torch_library: Any = torch.library  # the class Library has no types
_LIBRARY = _torch_library.Library("skseg", "DEF")
# Maps are channels last, and a compiler must keep them so. Older versions have the weaker tag.
_KEEPS_STRIDES = getattr(torch.Tag, "needs_exact_strides", torch.Tag.needs_fixed_stride_order)


def _define(
    schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]
) -> Callable[..., Any]:
    name = schema.split("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag, _KEEPS_STRIDES))
    _LIBRARY.impl(name, implementation, "CPU")
    torch.library.register_fake(f"skseg::{name}", fake, lib=_LIBRARY)
    operator: Callable[..., Any] = getattr(torch.ops.skseg, name).default
    return operator


def _like_map(x: Tensor, channels: int, height: int, width: int) -> Tensor:
    return torch.empty(
        (x.shape[0], channels, height, width),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )


def _fake_maps(x: Tensor, weights: Sequence[Tensor], geometry: Sequence[int]) -> list[Tensor]:
    """Maps of the shape that torch's convolutions return."""
    maps = []
    for weight, (stride, padding, dilation) in zip(
        weights, halves.unflatten(geometry), strict=True
    ):
        sides = [
            (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (weight.shape[2 + i] - 1) - 1)
            // stride[i]
            + 1
            for i in range(2)
        ]
        maps.append(_like_map(x, weight.shape[0], *sides))
    return maps


# The first half.


def _split(
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
    return halves.split(
        x, weights, geometry, compiled, norm_weights, norm_biases, eps, by_batch, running
    )


def _fake_split(
    x: Tensor, weights: list[Tensor], geometry: list[int], *_: Any
) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
    maps = _fake_maps(x, weights, geometry)
    b, c, m = x.shape[0], weights[0].shape[0], len(weights)
    link = x.new_empty(()).expand(5, b, m, c)
    return x.new_empty(b, c), maps, x.new_empty(5, m, c), link


def _split_backward_of_known_strides(
    x: Tensor, weights: list[Tensor], *arguments: Any
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """Run `halves.split_backward`; gradients have the strides of x and of the weights.

    Those of torch's convolutions may have others, which the fake implementation cannot foresee.
    """
    d_x, d_weights, d_norm_weights, d_norm_biases = halves.split_backward(x, weights, *arguments)
    return (
        [_with_strides_of(x, d) for d in d_x],
        [_with_strides_of(w, d) for w, d in zip(weights, d_weights, strict=False)],
        d_norm_weights.clone(),  # they share memory, which the outputs of an operator may not
        d_norm_biases.clone(),
    )


def _with_strides_of(tensor: Tensor, gradient: Tensor) -> Tensor:
    if gradient.stride() == tensor.stride():
        return gradient
    return torch.empty_like(tensor).copy_(gradient)


def _fake_split_backward(
    x: Tensor,
    weights: list[Tensor],
    geometry: list[int],
    compiled: bool,
    depthwise: list[bool],
    by_batch: list[bool],
    maps: list[Tensor],
    norms: Tensor,
    d_pooled: Tensor,
    grad: Tensor,
    link: Tensor,
    needs_x: bool,
    needs_weights: bool,
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    d_x = [torch.empty_like(x)] if needs_x else []
    d_weights = [torch.empty_like(w) for w in weights] if needs_weights else []
    shape = norms.shape[1:]
    return d_x, d_weights, norms.new_empty(shape), norms.new_empty(shape)


split = _define(
    "split(Tensor x, Tensor[] weights, int[] geometry, bool compiled, bool[] depthwise,"
    " Tensor[] norm_weights, Tensor[] norm_biases, float[] eps, bool[] by_batch, Tensor[] running)"
    " -> (Tensor pooled, Tensor[] maps, Tensor norms, Tensor link)",
    _split,
    _fake_split,
)
_split_backward = _define(
    "split_backward(Tensor x, Tensor[] weights, int[] geometry, bool compiled, bool[] depthwise,"
    " bool[] by_batch, Tensor[] maps, Tensor norms, Tensor d_pooled, Tensor grad, Tensor link,"
    " bool needs_x, bool needs_weights) -> (Tensor[], Tensor[], Tensor, Tensor)",
    _split_backward_of_known_strides,
    _fake_split_backward,
)


def _set_up_split(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    x, weights, geometry, compiled, depthwise, _, _, _, by_batch, running = inputs
    _, maps, norms, _ = output
    ctx.arguments = geometry, compiled, depthwise, by_batch
    ctx.running = len(running)
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(norms, *maps[1:])
    ctx.save_for_backward(x, norms, *weights, *maps)


def _backward_of_split(
    ctx: Any, d_pooled: Tensor | None, d_maps: list[Tensor | None], _: None, link: Tensor | None
) -> tuple[Any, ...]:
    geometry, compiled, depthwise, by_batch = ctx.arguments
    x, norms, *saved = ctx.saved_tensors
    m = len(by_batch)
    maps, grad = saved[m:], d_maps[0]
    b, c = maps[0].shape[:2]
    needs_x, needs_weights = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1])
    d_x, d_weights, d_norm_weights, d_norm_biases = _split_backward(
        *(x, saved[:m], geometry, compiled, depthwise, by_batch, maps, norms),
        norms.new_zeros(b, c) if d_pooled is None else d_pooled.contiguous(),
        torch.zeros_like(maps[0])
        if grad is None
        else grad.contiguous(memory_format=torch.channels_last),
        norms.new_zeros(5, b, m, c) if link is None else link.contiguous(),
        *(needs_x, needs_weights),
    )
    return (
        *(d_x[0] if needs_x else None, d_weights if needs_weights else [None] * m),
        *(None, None, None),
        *([*d_norm_weights.unbind()], [*d_norm_biases.unbind()]),
        *(None, None, [None] * ctx.running),
    )


torch.library.register_autograd(
    "skseg::split", _backward_of_split, setup_context=_set_up_split, lib=_LIBRARY
)


# The second half.


def _select(maps: list[Tensor], attention: Tensor, norms: Tensor, link: Tensor) -> Tensor:
    return halves.select(maps, attention, norms)


select = _define(
    "select(Tensor[] maps, Tensor attention, Tensor norms, Tensor link) -> Tensor",
    _select,
    lambda maps, attention, norms, link: torch.empty_like(maps[0]),
)
_select_backward = _define(
    "select_backward(Tensor[] maps, Tensor attention, Tensor norms, Tensor grad)"
    " -> (Tensor link, Tensor d_attention)",
    halves.select_backward,
    lambda maps, attention, norms, grad: (
        attention.new_empty(5, *attention.shape),
        torch.empty_like(attention),
    ),
)


def _set_up_select(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    maps, attention, norms, _ = inputs
    ctx.save_for_backward(attention, norms, *maps)


def _backward_of_select(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    attention, norms, *maps = ctx.saved_tensors
    grad = grad.contiguous(memory_format=torch.channels_last)
    link, d_attention = _select_backward(maps, attention, norms, grad)
    # A new tensor, because a backward may not return one that it was given.
    return [grad.clone(), *[None] * (len(maps) - 1)], d_attention, None, link


torch.library.register_autograd(
    "skseg::select", _backward_of_select, setup_context=_set_up_select, lib=_LIBRARY
)

update_running = _define(
    "update_running(Tensor(a!) mean, Tensor(b!) variance, Tensor norms, int branch,"
    " float momentum, SymInt count) -> ()",
    ops.update_running,
    lambda *_: None,
)


# Units whose norms are folded into their convolutions: inference alone, so without gradients.


def _fake_split_folded(
    x: Tensor,
    weights: list[Tensor],
    geometry: list[int],
    compiled: bool,
    norms: Tensor,
) -> tuple[Tensor, list[Tensor]]:
    # The weights of the compiled kernels are packed, so they do not tell the shape of the maps.
    same = [torch.empty_like(x) for _ in weights]
    maps = same if compiled else _fake_maps(x, weights, geometry)
    return x.new_empty(x.shape[0], norms.shape[2]), maps


split_folded = _define(
    "split_folded(Tensor x, Tensor[] weights, int[] geometry, bool compiled, Tensor norms)"
    " -> (Tensor pooled, Tensor[] maps)",
    halves.split_folded,
    _fake_split_folded,
)
select_folded = _define(
    "select_folded(Tensor[] maps, Tensor attention, Tensor? norms) -> Tensor",
    halves.select_folded,
    lambda maps, attention, norms: torch.empty_like(maps[0]),
)


# Depthwise convolutions of units that do not run on the kernels as a whole.


def _depthwise_conv(x: Tensor, weight: Tensor, geometry: list[int]) -> Tensor:
    (branch,) = halves.unflatten(geometry)
    return torch.conv2d(x, weight, None, *branch, x.shape[1])


depthwise_conv = _define(
    "depthwise_conv(Tensor x, Tensor weight, int[] geometry) -> Tensor",
    _depthwise_conv,
    _depthwise_conv,
)
_depthwise_gradient = _define(
    "depthwise_gradient(Tensor x, Tensor grad, int kernel_size, int[] geometry) -> Tensor",
    halves.depthwise_gradient,
    lambda x, grad, kernel_size, geometry: x.new_empty(x.shape[1], 1, kernel_size, kernel_size),
)


def _set_up_depthwise(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, ctx.geometry = inputs
    ctx.save_for_backward(x, weight)


def _backward_of_depthwise(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    (branch,) = halves.unflatten(ctx.geometry)
    needs_x, needs_weight = ctx.needs_input_grad[:2]
    d_x = d_weight = None
    if needs_x:
        d_x, _ = halves.convolution_backward(x, weight, branch, grad, True, False)
    if needs_weight:
        d_weight = _depthwise_gradient(x, grad, weight.shape[2], ctx.geometry)
    return d_x, d_weight, None


torch.library.register_autograd(
    "skseg::depthwise_conv",
    _backward_of_depthwise,
    setup_context=_set_up_depthwise,
    lib=_LIBRARY,
)
