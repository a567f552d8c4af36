"""The compiled kernels of `_sk.c`, called on torch tensors.

Each function checks what it passes on: the kernels themselves would read a tensor of another dtype,
shape or layout as garbage. Maps are float32 [B, C, H, W] in channels-last layout, on the CPU.

Which computations run on the kernels is decided in `skseg.nn.dispatch`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from skseg.nn.kernels import library
from skseg.nn.kernels.library import call, row_address

MAX_BRANCHES = 8
MAX_DILATION = 4
"""The largest dilation of `conv`."""
GROUP_WIDTHS = (4, 8, 16, 32)
"""The numbers of channels a group that `conv` has kernels for."""
DEPTHWISE_KERNELS = (3, 5, 7, 9)
"""The kernel sizes of `depthwise_gradient`."""
_BAND_ROWS = 16  # rows of a map that a thread takes at a time
_PART_PIXELS = 256  # pixels of a partial sum, at least
_SCRATCH = 1 << 17  # floats that a thread keeps in its cache


def _check(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless a tensor is contiguous and has this shape."""
    if tensor.shape != shape or not tensor.is_contiguous():
        raise ValueError(
            f"{name} must be contiguous and of shape {list(shape)}, "
            f"got shape {list(tensor.shape)}, strides {list(tensor.stride())}"
        )


def _check_maps(maps: Sequence[Tensor], *others: Tensor) -> torch.Size:
    """Return the shape of channels-last maps; raise ValueError for others.

    Args:
        maps: One for each branch.
        *others: Further maps of the same shape.
    """
    if not 1 <= len(maps) <= MAX_BRANCHES:
        raise ValueError(f"there must be 1 to {MAX_BRANCHES} branches, got {len(maps)}")
    shape = maps[0].shape
    fits = len(shape) == 4 and 0 not in shape
    for t in (*maps, *others):
        if not fits or t.shape != shape or not t.is_contiguous(memory_format=torch.channels_last):
            raise ValueError(
                "maps must be [B, C, H, W], channels last, of one shape and not empty, "
                f"got shape {list(t.shape)}, strides {list(t.stride())} beside {list(shape)}"
            )
    if shape[1] % library.LANES:
        raise ValueError(f"maps must have a multiple of {library.LANES} channels, got {shape[1]}")
    return shape


def _check_convolutions(weights: Sequence[Tensor], dilations: Sequence[int], channels: int) -> int:
    """Return the channels a group of 3x3 weights; raise ValueError for others."""
    group = weights[0].shape[1]
    for weight in weights:
        if weight.shape != (channels, group, 3, 3):
            raise ValueError(
                f"weights must be of shape [{channels}, {group}, 3, 3], got {list(weight.shape)}"
            )
    _check_geometry(group, channels, len(weights), dilations)
    return group


def _check_geometry(group: int, channels: int, branches: int, dilations: Sequence[int]) -> None:
    if group not in GROUP_WIDTHS or channels % max(group, library.LANES):
        raise ValueError(
            f"there are kernels for {GROUP_WIDTHS} channels a group, got {group} of {channels}"
        )
    if len(dilations) != branches or not all(1 <= d <= MAX_DILATION for d in dilations):
        raise ValueError(
            f"dilations must be one for each of {branches} branches, 1 to {MAX_DILATION}, "
            f"got {list(dilations)}"
        )


def pack(weight: Tensor) -> Tensor:
    """Reorder a weight as `conv` reads it.

    Args:
        weight: [C, G, 3, 3], of any strides.

    Returns:
        [C / LANES, 3, G, 3, LANES].
    """
    c, g = weight.shape[:2]
    _check_convolutions([weight], [1], c)
    packed = weight.new_empty(c // library.LANES, 3, g, 3, library.LANES)
    call("sk_pack", weight, weight.stride(), packed, c, g)
    return packed


class Convolved(NamedTuple):
    """What `conv` returns.

    Attributes:
        maps: M maps [B, C, H, W], channels last.
        sums: [B, bands, M, 2, C], the sums over bands of rows of the maps and of their squares.
        pooled: [B, C], the mean over the image of the sum of the maps.
    """

    maps: list[Tensor]
    sums: Tensor
    pooled: Tensor


def conv(
    x: Tensor,
    weights: Sequence[Tensor],
    dilations: Sequence[int],
    biases: Sequence[Tensor] | None = None,
    relu: bool = False,
) -> Convolved:
    """Convolve one input with the 3x3 kernels of every branch, with stride 1 and same padding.

    Args:
        x: [B, C, H, W].
        weights: Of each branch, as `pack` returns them.
        dilations: Of each branch, 1 to `MAX_DILATION`.
        biases: [C] for each branch.
        relu: Whether a ReLU follows.
    """
    b, c, h, w = _check_maps([x])
    g = weights[0].shape[2] if weights[0].dim() == 5 else 0
    _check_geometry(g, c, len(weights), dilations)
    for weight in weights:
        _check("a packed weight", weight, (c // library.LANES, 3, g, 3, library.LANES))
    for bias in biases or ():
        _check("a bias", bias, (c,))
    if len(weights) > MAX_BRANCHES or (biases is not None and len(biases) != len(weights)):
        raise ValueError(f"the kernels take up to {MAX_BRANCHES} weights, each with its bias")
    maps = [torch.empty_like(x) for _ in weights]
    bands = max(-(-h // _BAND_ROWS), min(h, -(-torch.get_num_threads() // b)))
    rows = -(-h // bands)
    sums, pooled = x.new_empty(b, -(-h // rows), len(weights), 2, c), x.new_empty(b, c)
    call(
        "sk_conv",
        *(x, len(weights), dilations, weights, biases, maps, sums, pooled),
        *(b, h, w, c, g, int(relu), rows),
    )
    return Convolved(maps, sums, pooled)


def sums(maps: Sequence[Tensor]) -> Tensor:
    """Sum maps [B, C, H, W] and their squares over parts of an image: [B, parts, M, 2, C]."""
    b, c, h, w = _check_maps(maps)
    out = maps[0].new_empty(b, _parts(b, h * w), len(maps), 2, c)
    call("sk_sums", len(maps), maps, out, b, h * w, c, out.shape[1])
    return out


# Rows of the norms [5, M, C] that `statistics` returns.
MEAN, RSTD, SCALE, SHIFT, VARIANCE = range(5)


def statistics(
    sums: Tensor,
    count: int,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    eps: Sequence[float],
    running: Sequence[Tensor | None],
) -> Tensor:
    """Compute what the batch norms of M branches do.

    Args:
        sums: [B, parts, M, 2, C], as `conv` and `sums` return them.
        count: Pixels of a map, over the batch.
        weights: [C] for each norm.
        biases: [C] for each norm.
        eps: Of each norm.
        running: The mean and the variance, [C] each, for each norm that uses running statistics;
            None, twice, for each norm that uses those of the batch.

    Returns:
        [5, M, C]: mean; 1 / sqrt(variance + eps); scale and shift, the norm being
        map * scale + shift; and variance, biased.
    """
    b, parts, m, _, c = sums.shape
    _check("sums", sums, (b, parts, m, 2, c))
    if not len(weights) == len(biases) == len(eps) == len(running) / 2 == m:
        raise ValueError(f"there must be a weight, bias, eps, mean and variance for {m} norms")
    for tensor in (*weights, *biases, *running):
        if tensor is not None:
            _check("a norm's parameter", tensor, (c,))
    norms = sums.new_empty(5, m, c)
    call("sk_statistics", m, sums, weights, biases, eps, running, norms, b * parts, count, c)
    return norms


def update_running(
    mean: Tensor, variance: Tensor, norms: Tensor, branch: int, momentum: float, count: int
) -> None:
    """Move the running statistics of a norm towards those of the batch, in place.

    Args:
        mean: [C], the running mean.
        variance: [C], the running variance.
        norms: [5, M, C], as `statistics` returns it.
        branch: Of the norm.
        momentum: The share of the batch.
        count: Pixels of a map, over the batch.
    """
    c = mean.shape[0]
    _check("norms", norms, (5, norms.shape[1], c))
    for tensor in (mean, variance):
        _check("running statistics", tensor, (c,))
    call(
        "sk_update_running",
        *(norms[MEAN, branch], norms[VARIANCE, branch], mean, variance, momentum, count, c),
    )


def select(
    maps: Sequence[Tensor],
    attention: Tensor,
    norms: Tensor | None = None,
    in_place: bool = False,
) -> Tensor:
    """Sum the branches, weighed by their attention; after norm and ReLU if there are norms.

    Args:
        maps: M maps [B, C, H, W].
        attention: [B, M, C].
        norms: [5, M, C], as `statistics` returns it; scale and shift are read.
        in_place: Whether to overwrite and return the first map. That saves an allocation, whose
            page faults cost more than the sum.
    """
    b, c, h, w = _check_maps(maps)
    _check("attention", attention, (b, len(maps), c))
    scale = shift = None
    if norms is not None:
        _check("norms", norms, (5, len(maps), c))
        scale, shift = row_address(norms, SCALE), row_address(norms, SHIFT)
    out = maps[0] if in_place else torch.empty_like(maps[0])
    call("sk_select", len(maps), maps, scale, shift, attention, out, b, h * w, c)
    return out


def pool(maps: Sequence[Tensor], norms: Tensor) -> Tensor:
    """Return the mean over the image of the sum of relu(map * scale + shift): [B, C].

    Args:
        maps: M maps [B, C, H, W].
        norms: [5, M, C], as `statistics` returns it; scale and shift are read.
    """
    b, c, h, w = _check_maps(maps)
    _check("norms", norms, (5, len(maps), c))
    scale, shift = row_address(norms, SCALE), row_address(norms, SHIFT)
    parts = _parts(b, h * w)
    sums, pooled = maps[0].new_empty(b, parts, c), maps[0].new_empty(b, c)
    call("sk_pool", len(maps), maps, scale, shift, sums, pooled, b, h * w, c, parts)
    return pooled


def gradient_sums(
    maps: Sequence[Tensor], norms: Tensor, attention: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the attention's gradient, and what `norm_gradients` needs of the output's.

    Args:
        maps: M maps [B, C, H, W].
        norms: [5, M, C].
        attention: [B, M, C].
        grad: [B, C, H, W], the gradient of the unit's output.

    Returns:
        The link [5, B, M, C]: over each image, where relu(map * scale + shift) is positive, the
        sums of grad, of 1, of grad * map, and of map; and the attention. And the gradient of the
        attention, [B, M, C].
    """
    b, c, h, w = _check_maps(maps, grad)
    m = len(maps)
    _check("norms", norms, (5, m, c))
    _check("attention", attention, (b, m, c))
    parts = grad.new_empty(b, _parts(b, h * w), m, 4, c)
    link, d_attention = grad.new_empty(5, b, m, c), grad.new_empty(b, m, c)
    call(
        "sk_grad_sums",
        *(
            m,
            maps,
            row_address(norms, SCALE),
            row_address(norms, SHIFT),
            attention,
            grad,
            parts,
            link,
        ),
        d_attention,
        *(b, h * w, c, parts.shape[1]),
    )
    return link, d_attention


class NormGradients(NamedTuple):
    """What `norm_gradients` returns.

    The gradient of a map is all_scale * map + all_shift, plus open_scale * grad + open_shift where
    the ReLU is open.

    Attributes:
        open_scale: [B, M, C].
        open_shift: [B, M, C].
        all_scale: [M, C].
        all_shift: [M, C].
        weight: [M, C], the gradient of the norms' weights.
        bias: [M, C], the gradient of the norms' biases.
    """

    open_scale: Tensor
    open_shift: Tensor
    all_scale: Tensor
    all_shift: Tensor
    weight: Tensor
    bias: Tensor


def norm_gradients(
    norms: Tensor, link: Tensor, d_pooled: Tensor, by_batch: Sequence[bool], pixels: int
) -> NormGradients:
    """Compute the gradients of the norms, and all that the gradients of the maps need.

    Args:
        norms: [5, M, C].
        link: [5, B, M, C], as `gradient_sums` returns it.
        d_pooled: [B, C], the gradient of the pooled features.
        by_batch: Whether each norm uses the statistics of the batch.
        pixels: Of a map of one image.
    """
    _, b, m, c = link.shape
    _check("link", link, (5, b, m, c))
    _check("norms", norms, (5, m, c))
    _check("d_pooled", d_pooled, (b, c))
    found = NormGradients(*link.new_empty(2, b, m, c), *link.new_empty(4, m, c))
    call("sk_norm_gradients", m, link, d_pooled, norms, by_batch, *found, b, pixels, c)
    return found


def gradient_maps(
    maps: Sequence[Tensor], norms: Tensor, grad: Tensor, found: NormGradients
) -> list[Tensor]:
    """Return the gradient of each map, see :class:`NormGradients`.

    Args:
        maps: M maps [B, C, H, W].
        norms: [5, M, C].
        grad: [B, C, H, W], the gradient of the unit's output.
        found: Of `norm_gradients`.
    """
    b, c, h, w = _check_maps(maps, grad)
    _check("norms", norms, (5, len(maps), c))
    out = [torch.empty_like(m) for m in maps]
    call(
        "sk_grad_maps",
        *(
            len(maps),
            maps,
            row_address(norms, SCALE),
            row_address(norms, SHIFT),
            grad,
            *found[:4],
            out,
        ),
        *(b, h * w, c),
    )
    return out


def backward(
    x: Tensor,
    weights: Sequence[Tensor],
    dilations: Sequence[int],
    maps: Sequence[Tensor],
    norms: Tensor,
    grad: Tensor,
    found: NormGradients,
    needs: tuple[bool, bool],
) -> tuple[Tensor | None, list[Tensor]]:
    """Compute the gradients of the maps as `gradient_maps` and pass them through the convolutions.

    Args:
        x: [B, C, H, W], the input of all branches.
        weights: [C, G, 3, 3] of each branch.
        dilations: Of each branch.
        maps: M maps [B, C, H, W].
        norms: [5, M, C].
        grad: [B, C, H, W], the gradient of the unit's output.
        found: Of `norm_gradients`.
        needs: Whether to compute the gradient of the input, and those of the weights.

    Returns:
        The gradient of the input, or None; and of each weight, or an empty list.
    """
    b, c, h, w = _check_maps(maps, x, grad)
    g = _check_convolutions(weights, dilations, c)
    m, threads = len(weights), torch.get_num_threads()
    _check("norms", norms, (5, m, c))
    block = max(g, library.LANES)
    splits = 1 if c // block >= threads else min(b, -(-threads * block // c))
    rows = max(_BAND_ROWS // 2, min(h, _SCRATCH // (m * w * block) - 2 * max(dilations)))
    d_x = torch.empty_like(x) if needs[0] else None
    d_weights = [
        torch.empty_strided((splits, *weight.shape), (weight.numel(), *weight.stride()))
        for weight in weights
        if needs[1]
    ]
    strides = [stride for weight in weights for stride in weight.stride()]
    call(
        "sk_backward",
        *(
            x,
            m,
            dilations,
            weights,
            strides,
            maps,
            row_address(norms, SCALE),
            row_address(norms, SHIFT),
            grad,
        ),
        *found[:4],
        *(d_x, d_weights or None, b, h, w, c, g, splits, rows),
    )
    return d_x, [d[0] if splits == 1 else d.sum(0) for d in d_weights]


def depthwise_gradient(
    x: Tensor,
    grad: Tensor,
    kernel_size: int,
    stride: int,
    padding: Sequence[int],
    dilation: int,
) -> Tensor:
    """Return the gradient of a depthwise convolution's weight, [C, 1, K, K].

    Torch takes 10 to 30 times as long for kernels of 5 or more taps a side, see
    docs/performance.md.

    Args:
        x: [B, C, H, W], of any strides, the convolution's input.
        grad: [B, C, H', W'], of any strides, the gradient of its output.
        kernel_size: K, one of `DEPTHWISE_KERNELS`.
        stride: Of the convolution, in both directions.
        padding: Of the convolution, vertically and horizontally.
        dilation: Of the convolution, in both directions.
    """
    if kernel_size not in DEPTHWISE_KERNELS:
        raise ValueError(f"kernel_size must be one of {DEPTHWISE_KERNELS}, got {kernel_size}")
    if not 0 < x.numel() < 2**31 or grad.numel() >= 2**31:  # strides are passed as ints
        raise ValueError(f"x must have 1 to 2^31 - 1 elements, got {x.numel()}")
    b, c, h, w = x.shape
    reach = dilation * (kernel_size - 1) + 1
    sides = [(s + 2 * p - reach) // stride + 1 for s, p in zip((h, w), padding, strict=True)]
    if grad.shape != (b, c, *sides):
        raise ValueError(f"grad must be of shape {[b, c, *sides]}, got {list(grad.shape)}")
    d_weight = torch.empty(c, 1, kernel_size, kernel_size)
    call(
        "sk_depthwise_grad",
        *(x, x.stride(), grad, grad.stride(), d_weight),
        *(b, c, h, w, *sides, kernel_size, stride, dilation, *padding),
    )
    return d_weight


def _parts(batch: int, pixels: int) -> int:
    """Partial sums of an image: enough for all threads, few enough to cost nothing themselves."""
    return max(1, min(16, pixels // _PART_PIXELS), -(-torch.get_num_threads() // batch))
