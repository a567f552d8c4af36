"""The two halves of an SK unit on the compiled kernels, as functions of tensors.

The attention between them is an ordinary module: it may have any norm, any weights and hooks.

    pooled, maps, norms, link = split(x, ...)        # convolutions, norms, ReLU, pooling
    attention = unit.attn(pooled)
    out = select(maps, attention, norms)

Three maps of a unit with two branches are kept for backward: its input and the output of each
convolution. One operation after the other would keep seven. The outputs of norm and ReLU are not
kept: both halves compute them again, from the convolution's output and the norm's scale and shift.

Backward has two halves as well. The gradient of a map is a sum of two parts, through `select` and
through `pooled`. `split_backward` computes both in one pass over the map. `select_backward` runs
first and cannot return the gradients of the maps yet, so it passes on what `split_backward` needs:

- in place of the first map's gradient, the gradient of the output,
- in place of the gradient of `link`, sums over the maps. `link` is an output of `split` that
  exists only to carry them.

The other maps and the norms get no gradient. This is right only if `maps`, `norms` and `link` are
used by one `select` and nothing else.

`autograd.py` and `operators.py` make these functions differentiable, for eager execution and for
compiled graphs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from skseg.nn.kernels import ops

_GEOMETRY = 6  # integers for each branch


class Geometry(NamedTuple):
    """Where the taps of a branch's convolution lie: vertical and horizontal numbers.

    Operators have lists of integers as arguments, so the geometries of all branches are passed as
    one flat list, six numbers for each branch.
    """

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]


def unflatten(numbers: Sequence[int]) -> list[Geometry]:
    """Return the geometry of each branch from the flat list."""
    return [
        Geometry(
            (numbers[i], numbers[i + 1]),
            (numbers[i + 2], numbers[i + 3]),
            (numbers[i + 4], numbers[i + 5]),
        )
        for i in range(0, len(numbers), _GEOMETRY)
    ]


def _dilations(geometry: Sequence[int]) -> list[int]:
    """Return the dilation of each branch of `ops.conv`; raise ValueError for other geometries."""
    dilations = [*geometry[5::_GEOMETRY]]
    if [*geometry] != [number for d in dilations for number in (1, 1, d, d, d, d)]:
        raise ValueError(
            "the kernels convolve with stride 1 and padding equal to the dilation, "
            f"got {unflatten(geometry)}"
        )
    return dilations


def split(
    x: Tensor,
    weights: Sequence[Tensor],
    geometry: Sequence[int],
    compiled: bool,
    norm_weights: Sequence[Tensor],
    norm_biases: Sequence[Tensor],
    eps: Sequence[float],
    by_batch: Sequence[bool],
    running: Sequence[Tensor],
) -> tuple[Tensor, list[Tensor], Tensor, Tensor]:
    """Convolve with every branch, compute the norms, and pool the normed maps after a ReLU.

    Args:
        x: [B, C_in, H, W] float32, channels last.
        weights: [C, C_in / groups, K, K] for each of M branches.
        geometry: Of the branches' convolutions, flat.
        compiled: Whether the compiled kernels convolve, else torch.
        norm_weights: [C] for each branch.
        norm_biases: [C] for each branch.
        eps: Of each branch's norm.
        by_batch: Whether each norm uses the statistics of the batch.
        running: Mean and variance, [C], of each norm that does not, in the order of branches.

    Returns:
        pooled: [B, C], the mean over the image of the sum of the normed maps after a ReLU.
        maps: [B, C, H', W'] for each branch, channels last, what the convolutions return.
        norms: [5, M, C], see `ops.statistics`.
        link: [5, B, M, C], zeros; its gradient carries what `select_backward` found.
    """
    if compiled:
        packed = [ops.pack(weight) for weight in weights]
        maps, sums, _ = ops.conv(x, packed, _dilations(geometry))
    else:
        maps = _convolve(x, weights, geometry)
        sums = ops.sums(maps)
    statistics = iter(running)
    used = [None if batch else next(statistics) for batch in by_batch for _ in range(2)]
    b, c, h, w = maps[0].shape
    norms = ops.statistics(sums, b * h * w, norm_weights, norm_biases, eps, used)
    pooled = ops.pool(maps, norms)
    link = pooled.new_zeros(()).expand(5, b, len(maps), c)
    return pooled, maps, norms, link


def select(maps: Sequence[Tensor], attention: Tensor, norms: Tensor) -> Tensor:
    """Sum the normed maps after their ReLU, weighed by their attention.

    Args:
        maps: [B, C, H', W'] for each branch, of `split`.
        attention: [B, M, C].
        norms: [5, M, C], of `split`.

    Returns:
        [B, C, H', W'], channels last.
    """
    return ops.select(maps, attention, norms)


def select_backward(
    maps: Sequence[Tensor], attention: Tensor, norms: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Return link, [5, B, M, C] for `split_backward`, and the gradient of the attention.

    Args:
        maps: As of `select`.
        attention: As of `select`.
        norms: As of `select`.
        grad: [B, C, H', W'], the gradient of the output, channels last.
    """
    return ops.gradient_sums(maps, norms, attention, grad)


def split_backward(
    x: Tensor,
    weights: Sequence[Tensor],
    geometry: Sequence[int],
    compiled: bool,
    depthwise: Sequence[bool],
    by_batch: Sequence[bool],
    maps: Sequence[Tensor],
    norms: Tensor,
    d_pooled: Tensor,
    grad: Tensor,
    link: Tensor,
    needs_x: bool,
    needs_weights: bool,
) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """Compute the gradients of the arguments of `split`.

    Args:
        x: As of `split`, like the next three.
        weights: As of `split`.
        geometry: As of `split`.
        compiled: As of `split`.
        depthwise: Whether the compiled kernel computes each weight's gradient, where torch
            convolves.
        by_batch: As of `split`.
        maps: Of `split`.
        norms: Of `split`.
        d_pooled: [B, C], the gradient of the pooled features.
        grad: [B, C, H', W'], the gradient of the unit's output, channels last.
        link: [5, B, M, C], of `select_backward`.
        needs_x: Whether to compute the gradient of the input.
        needs_weights: Whether to compute those of the convolutions' weights.

    Returns:
        Those of x, a list of one or none; of each weight, or none; and of the norms' weights and
        biases, [M, C] each.
    """
    pixels = grad.shape[2] * grad.shape[3]
    found = ops.norm_gradients(norms, link, d_pooled, by_batch, pixels)
    d_x: Tensor | None
    if compiled:
        dilations, needs = _dilations(geometry), (needs_x, needs_weights)
        d_x, d_weights = ops.backward(x, weights, dilations, maps, norms, grad, found, needs)
        return [] if d_x is None else [d_x], d_weights, found.weight, found.bias
    d_x, d_weights = None, []
    d_maps = ops.gradient_maps(maps, norms, grad, found)
    for i, branch in enumerate(unflatten(geometry)):
        numbers = geometry[i * _GEOMETRY : (i + 1) * _GEOMETRY]
        part, d_weight = convolution_backward(
            x, weights[i], branch, d_maps[i], needs_x, needs_weights and not depthwise[i]
        )
        if needs_weights and depthwise[i]:
            d_weight = depthwise_gradient(x, d_maps[i], weights[i].shape[2], numbers)
        d_weights += [] if d_weight is None else [d_weight]
        d_x = part if d_x is None or part is None else d_x.add_(part)
    return [] if d_x is None else [d_x], d_weights, found.weight, found.bias


def split_folded(
    x: Tensor,
    weights: Sequence[Tensor],
    geometry: Sequence[int],
    compiled: bool,
    norms: Tensor,
) -> tuple[Tensor, list[Tensor]]:
    """Run the first half of a unit whose norms are folded into its convolutions.

    Args:
        x: [B, C_in, H, W] float32, channels last.
        weights: For each branch; packed if `compiled`.
        geometry: Of the branches' convolutions, flat.
        compiled: Whether the compiled kernels convolve, else torch.
        norms: [5, M, C], whose scale is 1 and whose shift is the bias of each convolution.

    Returns:
        pooled: [B, C], the mean over the image of the sum over branches, after bias and ReLU.
        maps: [B, C, H', W'] for each branch. If `compiled`, after bias and ReLU; else without, and
            `select_folded` adds them in the pass that reads the maps anyway.
    """
    if compiled:
        maps, _, pooled = ops.conv(x, weights, _dilations(geometry), [*norms[ops.SHIFT]], relu=True)
    else:
        maps = _convolve(x, weights, geometry)
        pooled = ops.pool(maps, norms)
    return pooled, maps


def select_folded(maps: Sequence[Tensor], attention: Tensor, norms: Tensor | None) -> Tensor:
    """Sum the branches, weighed by their attention; after bias and ReLU if there are norms."""
    return ops.select(maps, attention, norms)


def depthwise_gradient(
    x: Tensor, grad: Tensor, kernel_size: int, geometry: Sequence[int]
) -> Tensor:
    """Return the gradient of a depthwise convolution's weight, see `ops.depthwise_gradient`."""
    ((stride, padding, dilation),) = unflatten(geometry)
    if stride[0] != stride[1] or dilation[0] != dilation[1]:
        raise ValueError("stride and dilation must be the same in both directions")
    return ops.depthwise_gradient(x, grad, kernel_size, stride[0], padding, dilation[0])


def convolution_backward(
    x: Tensor, weight: Tensor, geometry: Geometry, grad: Tensor, needs_x: bool, needs_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Return torch's gradients of a convolution's input and weight, None where not needed."""
    groups = x.shape[1] // weight.shape[1]
    d_x, d_weight, _ = torch.ops.aten.convolution_backward(
        *(grad, x, weight, None, *geometry, False, [0, 0], groups, [needs_x, needs_weight, False]),
    )
    return d_x, d_weight


def _convolve(x: Tensor, weights: Sequence[Tensor], geometry: Sequence[int]) -> list[Tensor]:
    """Convolve by torch; return maps [B, C, H', W'], channels last."""
    maps = [
        torch.conv2d(x, weight, None, *branch, x.shape[1] // weight.shape[1])
        for weight, branch in zip(weights, unflatten(geometry), strict=True)
    ]
    return [m.contiguous(memory_format=torch.channels_last) for m in maps]
