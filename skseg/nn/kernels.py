"""The compiled kernels of `_sk.c` on torch tensors; absent, everything runs on torch alone."""

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

MAX_BRANCHES = 8
_BAND_ROWS = 16  # rows of a map that a thread takes at a time
_BANDS = 16  # partial sums of an image


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
    """Whether the kernels were built, suit this CPU and are switched on."""
    return _LIBRARY is not None and _ENABLED


@contextmanager
def disabled() -> Iterator[None]:
    """Run on torch's own operations inside the context, as SKSEG_KERNELS=0 does for a process."""
    global _ENABLED
    before, _ENABLED = _ENABLED, False
    try:
        yield
    finally:
        _ENABLED = before


def fits(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernels take an input of a convolution of as many channels in as out.

    They know nothing of types and sizes: what does not match here would be read as it is not.

    Args:
        x: [B, C, H, W], to be float32 on the CPU.
        weight: of the convolution, its first dimension C, to be alike.
    """
    return (
        available()
        and x.device.type == weight.device.type == "cpu"
        and x.dtype is weight.dtype is torch.float32
        and x.dim() == 4
        and x.numel() > 0
        and x.shape[1] == weight.shape[0]
        and x.shape[1] % LANES == 0
    )


def has_conv(channels: int, groups: int) -> bool:
    """Whether there are kernels for these convolutions too; for others torch's are as fast."""
    return channels == 4 * groups


def pack(weight: Tensor) -> Tensor:
    """Reorder a convolution's weight [C, 4, 3, 3] to [9, 4, C], as the kernels read it."""
    return weight.detach().permute(2, 3, 1, 0).flatten(0, 1).contiguous()


def pack_transposed(weight: Tensor) -> Tensor:
    """Pack a convolution's weight [C, 4, 3, 3] for the convolution that is its input gradient."""
    taps = weight.detach().reshape(-1, 4, 4, 9).flip(3)  # [group, out, in, tap]
    return taps.permute(3, 1, 0, 2).flatten(2).contiguous()


def conv(
    x: Tensor,
    weights: Sequence[Tensor],
    dilations: Sequence[int],
    biases: Sequence[Tensor] | None = None,
    relu: bool = False,
) -> tuple[list[Tensor], Tensor]:
    """Convolve one input with the 3x3 kernels of every branch, stride 1, same padding.

    Args:
        x: [B, C, H, W] float32, channels last.
        weights: packed, one for each branch.
        dilations: one for each branch.
        biases: [C] for each branch.
        relu: whether a ReLU follows.

    Returns:
        The maps [B, C, H, W], channels last, and sums [B, M, 2, C] over each: of the values and of
        their squares.
    """
    b, c, h, w = x.shape
    maps = [torch.empty_like(x) for _ in weights]
    bands = -(-h // _BAND_ROWS)
    sums = x.new_empty(b, bands, len(weights), 2, c)
    _call(
        "sk_conv",
        *(_p(x), len(weights), _ints(dilations), _ps(weights)),
        *(None if biases is None else _ps(biases), _ps(maps), _p(sums)),
        *(b, h, w, c, int(relu), 0, _BAND_ROWS),
    )
    return maps, sums.sum(1)


def conv_transposed(
    grads: Sequence[Tensor], weights: Sequence[Tensor], dilations: Sequence[int], out: Tensor
) -> None:
    """Sum the input gradients of the branches' convolutions into `out`.

    Args:
        grads: [B, C, H, W] float32, channels last, of each branch's map.
        weights: packed by `pack_transposed`.
        dilations: one for each branch.
        out: [B, C, H, W] float32, channels last, overwritten.
    """
    b, c, h, w = out.shape
    for i, (grad, weight, dilation) in enumerate(zip(grads, weights, dilations, strict=True)):
        _call(
            "sk_conv",
            *(_p(grad), 1, _ints([dilation]), _ps([weight]), None, _ps([out]), None),
            *(b, h, w, c, 0, int(i > 0), _BAND_ROWS),
        )


def weight_gradients(x: Tensor, grads: Sequence[Tensor], dilations: Sequence[int]) -> list[Tensor]:
    """Return the gradient [C, 4, 3, 3] of each branch's convolution weight.

    Args:
        x: [B, C, H, W] float32, channels last, the input of all branches.
        grads: likewise, of each branch's map.
        dilations: one for each branch.
    """
    b, c, h, w = x.shape
    blocks, threads = c // LANES, torch.get_num_threads()
    splits = 1 if blocks >= threads else min(b, -(-threads // blocks))
    packed = [x.new_zeros(splits, 9, 4, c) for _ in grads]
    _call(
        "sk_dweight",
        *(_p(x), len(grads), _ints(dilations), _ps(grads), _ps(packed)),
        *(b, h, w, c, splits),
    )
    return [p.sum(0).view(3, 3, 4, c).permute(3, 2, 0, 1) for p in packed]


def sums(maps: Sequence[Tensor]) -> Tensor:
    """Sum each map [B, C, H, W], channels last, and its square over each image: [B, M, 2, C]."""
    b, c, h, w = maps[0].shape
    out = maps[0].new_zeros(b, _BANDS, len(maps), 2, c)
    _call("sk_sums", len(maps), _ps(maps), _p(out), b, h * w, c, _BANDS)
    return out.sum(1)


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
    sums = maps[0].new_zeros(b, _BANDS, c)
    _call("sk_pool", len(maps), _ps(maps), _p(scale), _p(shift), _p(sums), b, h * w, c, _BANDS)
    return sums.sum(1) / (h * w)


def gradient_sums(maps: Sequence[Tensor], scale: Tensor, shift: Tensor, grad: Tensor) -> Tensor:
    """Sum over each image, where relu(map * scale + shift) passes, what the gradients need.

    Returns:
        [4, B, M, C]: sums of grad, of 1, of grad * map, of map.
    """
    b, c, h, w = maps[0].shape
    sums = maps[0].new_zeros(b, _BANDS, len(maps), 4, c)
    _call(
        "sk_grad_sums",
        *(len(maps), _ps(maps), _p(scale), _p(shift), _p(grad), _p(sums), b, h * w, c, _BANDS),
    )
    return sums.sum(1).permute(2, 0, 1, 3)


def gradient_maps(
    maps: Sequence[Tensor],
    scale: Tensor,
    shift: Tensor,
    grad: Tensor,
    p: Tensor,
    q: Tensor,
    r: Tensor,
    s: Tensor,
) -> list[Tensor]:
    """Return (p * grad + q where relu(map * scale + shift) passes, else 0) + r * map + s.

    Args:
        maps: [B, C, H, W] float32, channels last.
        scale: [M, C].
        shift: [M, C].
        grad: [B, C, H, W] float32, channels last, of the unit's output.
        p: [B, M, C].
        q: [B, M, C].
        r: [M, C].
        s: [M, C].
    """
    b, c, h, w = maps[0].shape
    out = [torch.empty_like(m) for m in maps]
    _call(
        "sk_grad_maps",
        *(len(maps), _ps(maps), _p(scale), _p(shift), _p(grad), _p(p), _p(q), _p(r), _p(s)),
        *(_ps(out), b, h * w, c),
    )
    return out


def _call(name: str, *args: object) -> None:
    function = getattr(_LIBRARY, f"{name}_avx{512 if LANES == 16 else 2}")
    function(*args, torch.get_num_threads())


def _p(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _ps(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*[t.data_ptr() for t in tensors])


def _ints(values: Sequence[int]) -> ctypes.Array[ctypes.c_int]:
    return (ctypes.c_int * len(values))(*values)
