"""The compiled kernels of `_sk.c` on torch tensors; absent, everything runs on torch alone."""

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

MAX_BRANCHES = 8
_BAND_ROWS = 16  # rows of a map that a thread takes at a time
_PART_PIXELS = 256  # pixels of a partial sum, at least
_MAX_DILATION = 4
_DEPTHWISE_KERNELS = (3, 5, 7, 9)
_SCRATCH = 1 << 17  # floats that a thread keeps in its cache


def _open() -> tuple[ctypes.CDLL | None, int]:
    """Return the library and its lanes, 16 for AVX-512 or 8 for AVX2; None and 0 without."""
    for path in Path(__file__).parent.glob("_sk*.so"):
        try:
            library = ctypes.CDLL(str(path))
        except OSError:  # built for another machine
            continue
        if lanes := int(library.sk_lanes()):
            return library, lanes
    return None, 0


_LIBRARY, LANES = _open()
_ENABLED = os.environ.get("SKSEG_KERNELS", "1") != "0"


def available() -> bool:
    """Whether the kernels were built, suit this CPU and are switched on.

    Not while torch.jit traces, which follows torch's operations alone.
    """
    tracing: bool = torch.jit.is_tracing()  # type: ignore[no-untyped-call]
    return _LIBRARY is not None and _ENABLED and not tracing


@contextmanager
def disabled() -> Iterator[None]:
    """Run on torch's own operations inside the context, as SKSEG_KERNELS=0 does for a process."""
    global _ENABLED
    before, _ENABLED = _ENABLED, False
    try:
        yield
    finally:
        _ENABLED = before


def take(conv: nn.Conv2d) -> bool:
    """Whether the kernels take the weight and the output of a convolution: float32 on the CPU."""
    return (
        available()
        and conv.weight.device.type == "cpu"
        and conv.weight.dtype is torch.float32
        and conv.out_channels % LANES == 0
    )


def fits(x: Tensor, conv: nn.Conv2d) -> bool:
    """Whether the kernels take what a convolution makes of an input.

    They know nothing of types and sizes: what does not match here would be read as it is not.

    Args:
        x: [B, C, H, W], to be float32 on the CPU, of the convolution's channels.
        conv: to take it.
    """
    return (
        take(conv)
        and x.device.type == "cpu"
        and x.dtype is torch.float32
        and x.dim() == 4
        and x.numel() > 0
        and x.shape[1] == conv.in_channels
    )


def has_conv(channels: int, groups: int, dilation: int) -> bool:
    """Whether there are kernels for 3x3 convolutions of as many channels out as in, stride 1.

    Args:
        channels: in and out, a multiple of `LANES`.
        groups: of the convolutions.
        dilation: the largest of the branches.
    """
    return channels in [g * groups for g in (4, 8, 16, 32)] and dilation <= _MAX_DILATION


def pack(weight: Tensor) -> Tensor:
    """Reorder a weight [C, G, 3, 3] as `conv` reads it: [C / LANES, 3, G, 3, LANES]."""
    c, g = weight.shape[:2]
    packed = weight.new_empty(c // LANES, 3, g, 3, LANES)
    _call("sk_pack", _p(weight), _ints(weight.stride()), _p(packed), c, g)
    return packed


def conv(
    x: Tensor,
    weights: Sequence[Tensor],
    dilations: Sequence[int],
    biases: Sequence[Tensor] | None = None,
    relu: bool = False,
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Convolve one input with the 3x3 kernels of every branch, stride 1, same padding.

    Args:
        x: [B, C, H, W] float32, channels last.
        weights: packed, one for each branch.
        dilations: one for each branch.
        biases: [C] for each branch.
        relu: whether a ReLU follows.

    Returns:
        The maps [B, C, H, W], channels last; sums [B, bands, M, 2, C] over bands of their rows, of
        the values and of their squares; and the mean over the image of their sum, [B, C].
    """
    b, c, h, w = x.shape
    maps = [torch.empty_like(x) for _ in weights]
    bands = max(-(-h // _BAND_ROWS), min(h, -(-torch.get_num_threads() // b)))
    rows = -(-h // bands)
    sums, pooled = x.new_empty(b, -(-h // rows), len(weights), 2, c), x.new_empty(b, c)
    _call(
        "sk_conv",
        *(_p(x), len(weights), _ints(dilations), _ps(weights)),
        *(None if biases is None else _ps(biases), _ps(maps), _p(sums), _p(pooled)),
        *(b, h, w, c, weights[0].shape[2], int(relu), rows),
    )
    return maps, sums, pooled


def sums(maps: Sequence[Tensor]) -> Tensor:
    """Sum maps [B, C, H, W], channels last, and their squares over parts: [B, parts, M, 2, C]."""
    b, c, h, w = maps[0].shape
    out = maps[0].new_empty(b, _parts(b, h * w), len(maps), 2, c)
    _call("sk_sums", len(maps), _ps(maps), _p(out), b, h * w, c, out.shape[1])
    return out


class Norms(NamedTuple):
    """The batch norms of M branches, each [M, C].

    Attributes:
        mean: of the batch, or the running mean of a norm in evaluation.
        rstd: 1 / sqrt(variance + eps), likewise.
        scale: of map * scale + shift, what the norm does.
        shift: likewise.
    """

    mean: Tensor
    rstd: Tensor
    scale: Tensor
    shift: Tensor


def statistics(
    sums: Tensor,
    count: int,
    norms: Sequence[nn.BatchNorm2d],
    by_batch: Sequence[bool],
    momentum: Sequence[float],
) -> Norms:
    """Return what norms do, and let the running statistics follow those of the batch.

    Args:
        sums: [B, parts, M, 2, C], as `conv` and `sums` return them.
        count: pixels of a map, over the batch.
        norms: affine ones, float32.
        by_batch: whether each uses the statistics of the batch.
        momentum: share of the batch's statistics in the new running ones; negative to leave them.
    """
    b, parts, m, _, c = sums.shape
    found = Norms(*sums.new_empty(4, m, c))
    running = (ctypes.c_void_p * (2 * m))(
        *(t if t is None else t.data_ptr() for n in norms for t in (n.running_mean, n.running_var))
    )
    _call(
        "sk_statistics",
        *(m, _p(sums), _ps([n.weight for n in norms]), _ps([n.bias for n in norms])),
        *(_floats([n.eps for n in norms]), _ints(by_batch), _floats(momentum), running),
        *(*map(_p, found), b * parts, count, c),
    )
    return found


def select(
    maps: Sequence[Tensor],
    attention: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    in_place: bool = False,
) -> Tensor:
    """Sum the branches by their attention, after norm and ReLU where a scale is given.

    Args:
        maps: [B, C, H, W] float32, channels last.
        attention: [B, M, C].
        scale: [M, C] of relu(map * scale + shift).
        shift: likewise.
        in_place: whether the first map may be overwritten, and returned: a map fewer to allocate,
            whose page faults cost more than the sum.
    """
    b, c, h, w = maps[0].shape
    out = maps[0] if in_place else torch.empty_like(maps[0])
    norm = (None, None) if scale is None or shift is None else (_p(scale), _p(shift))
    _call("sk_select", len(maps), _ps(maps), *norm, _p(attention), _p(out), b, h * w, c)
    return out


def pool(maps: Sequence[Tensor], scale: Tensor, shift: Tensor) -> Tensor:
    """Return the mean over the image of the sum of relu(map * scale + shift): [B, C]."""
    b, c, h, w = maps[0].shape
    parts = _parts(b, h * w)
    sums, pooled = maps[0].new_empty(b, parts, c), maps[0].new_empty(b, c)
    _call(
        "sk_pool",
        *(len(maps), _ps(maps), _p(scale), _p(shift), _p(sums), _p(pooled), b, h * w, c, parts),
    )
    return pooled


def gradient_sums(maps: Sequence[Tensor], norms: Norms, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over each image, where relu(map * scale + shift) passes, what the gradients need.

    Returns:
        Sums [B, M, 4, C]: of grad, of 1, of grad * map, of map. And the attention's gradient,
        [B, M, C].
    """
    b, c, h, w = maps[0].shape
    parts = maps[0].new_empty(b, _parts(b, h * w), len(maps), 4, c)
    sums, d_attention = parts.new_empty(b, len(maps), 4, c), parts.new_empty(b, len(maps), c)
    _call(
        "sk_grad_sums",
        *(len(maps), _ps(maps), _p(norms.scale), _p(norms.shift), _p(grad)),
        *(_p(parts), _p(sums), _p(d_attention), b, h * w, c, parts.shape[1]),
    )
    return sums, d_attention


class NormGradients(NamedTuple):
    """What `norm_gradients` finds.

    A map's gradient is p * grad + q where the ReLU passes, else 0, and r * map + s everywhere.

    Attributes:
        p: [B, M, C].
        q: [B, M, C].
        r: [M, C].
        s: [M, C].
        weight: [M, C], the gradient of the norms' weights.
        bias: likewise.
    """

    p: Tensor
    q: Tensor
    r: Tensor
    s: Tensor
    weight: Tensor
    bias: Tensor


def norm_gradients(
    norms: Norms,
    sums: Tensor,
    attention: Tensor,
    d_pooled: Tensor,
    by_batch: Sequence[bool],
    pixels: int,
) -> NormGradients:
    """Go back through select, pooling, ReLU and norm, short of the maps themselves.

    Args:
        norms: of the branches.
        sums: [B, M, 4, C] of `gradient_sums`.
        attention: [B, M, C].
        d_pooled: [B, C], the gradient of the pooled features.
        by_batch: whether each norm uses the statistics of the batch.
        pixels: of a map of one image.
    """
    b, m, c = attention.shape
    found = NormGradients(*sums.new_empty(2, b, m, c), *sums.new_empty(4, m, c))
    _call(
        "sk_norm_gradients",
        *(m, _p(sums), _p(attention), _p(d_pooled), _p(norms.mean), _p(norms.rstd)),
        *(_p(norms.scale), _ints(by_batch), *map(_p, found), b, pixels, c),
    )
    return found


def gradient_maps(
    maps: Sequence[Tensor], norms: Norms, grad: Tensor, found: NormGradients
) -> list[Tensor]:
    """Return each map's gradient, see :class:`NormGradients`.

    Args:
        maps: [B, C, H, W] float32, channels last.
        norms: of the branches.
        grad: [B, C, H, W] float32, channels last, of the unit's output.
        found: of `norm_gradients`.
    """
    b, c, h, w = maps[0].shape
    out = [torch.empty_like(m) for m in maps]
    _call(
        "sk_grad_maps",
        *(len(maps), _ps(maps), _p(norms.scale), _p(norms.shift), _p(grad)),
        *(*map(_p, found[:4]), _ps(out), b, h * w, c),
    )
    return out


def backward(
    x: Tensor,
    weights: Sequence[Tensor],
    dilations: Sequence[int],
    maps: Sequence[Tensor],
    norms: Norms,
    grad: Tensor,
    found: NormGradients,
    wants: tuple[bool, bool],
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Make the maps' gradients as `gradient_maps` and take them through the convolutions.

    Args:
        x: [B, C, H, W] float32, channels last, the input of all branches.
        weights: [C, G, 3, 3] of each branch.
        dilations: one for each branch.
        maps: as of `gradient_maps`, as the next three.
        norms: likewise.
        grad: likewise.
        found: likewise.
        wants: whether gradients are wanted of the input and of the weights.

    Returns:
        The gradients of the input and of each weight, None where not wanted.
    """
    b, c, h, w = x.shape
    m, g, threads = len(weights), weights[0].shape[1], torch.get_num_threads()
    block = max(g, LANES)
    splits = 1 if c // block >= threads else min(b, -(-threads * block // c))
    rows = max(_BAND_ROWS // 2, min(h, _SCRATCH // (m * w * block) - 2 * max(dilations)))
    d_x = torch.empty_like(x) if wants[0] else None
    d_weights = [
        torch.empty_strided((splits, *weight.shape), (weight.numel(), *weight.stride()))
        for weight in weights
        if wants[1]
    ]
    strides = _ints([stride for weight in weights for stride in weight.stride()])
    _call(
        "sk_backward",
        *(_p(x), m, _ints(dilations), _ps(weights), strides),
        *(_ps(maps), _p(norms.scale), _p(norms.shift), _p(grad), *map(_p, found[:4])),
        *(None if d_x is None else _p(d_x), _ps(d_weights) if d_weights else None),
        *(b, h, w, c, g, splits, rows),
    )
    if not wants[1]:
        return d_x, [None] * m
    return d_x, [d[0] if splits == 1 else d.sum(0) for d in d_weights]


def fits_depthwise(x: Tensor, conv: nn.Conv2d) -> bool:
    """Whether `depthwise_gradient` takes what a convolution makes of an input.

    Args:
        x: [B, C, H, W], to be float32 on the CPU, of the convolution's channels.
        conv: to be depthwise, with a square kernel of 3 to 9 taps a side.
    """
    return (
        available()
        and all(t.device.type == "cpu" and t.dtype is torch.float32 for t in (x, conv.weight))
        and conv.groups == conv.in_channels == conv.out_channels
        and conv.kernel_size[0] == conv.kernel_size[1] in _DEPTHWISE_KERNELS
        and conv.stride[0] == conv.stride[1]
        and conv.dilation[0] == conv.dilation[1]
        and not isinstance(conv.padding, str)
        and conv.padding_mode == "zeros"
        and x.dim() == 4
        and x.shape[1] == conv.in_channels
        and 0 < x.numel() < 2**31  # strides are passed as ints
    )


def depthwise_gradient(x: Tensor, grad: Tensor, conv: nn.Conv2d) -> Tensor:
    """Return the gradient of a depthwise convolution's weight, [C, 1, K, K].

    Torch's takes 10 to 30 times as long with kernels of 5 or more taps a side, see
    docs/performance.md.

    Args:
        x: [B, C, H, W] float32, of any strides, the convolution's input.
        grad: [B, C, H', W'] float32, of any strides, the gradient of its output.
        conv: for which `fits_depthwise`.
    """
    b, c, h, w = x.shape
    d_weight = torch.empty(conv.weight.shape)
    _call(
        "sk_depthwise_grad",
        *(_p(x), _ints(x.stride()), _p(grad), _ints(grad.stride()), _p(d_weight)),
        *(b, c, h, w, *grad.shape[2:], conv.kernel_size[0], conv.stride[0], conv.dilation[0]),
        *conv.padding,
    )
    return d_weight


def _parts(batch: int, pixels: int) -> int:
    """Partial sums of an image: enough for all threads, few enough to cost nothing themselves."""
    return max(1, min(16, pixels // _PART_PIXELS), -(-torch.get_num_threads() // batch))


def _call(name: str, *args: object) -> None:
    function = getattr(_LIBRARY, f"{name}_avx{512 if LANES == 16 else 2}")
    function(*args, torch.get_num_threads())


def _p(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _ps(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*[t.data_ptr() for t in tensors])


def _ints(values: Sequence[int]) -> ctypes.Array[ctypes.c_int]:
    return (ctypes.c_int * len(values))(*values)


def _floats(values: Sequence[float]) -> ctypes.Array[ctypes.c_float]:
    return (ctypes.c_float * len(values))(*values)
