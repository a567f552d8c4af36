"""Decide which SK units run on the compiled kernels.

There are three fast paths. Everything else runs on torch's own operations, in the modules'
`forward`.

- `run_unit`: a whole unit with batch norms, ReLUs and one attention vector per image, forward and
  backward.
- `run_folded`: the same for inference, with norms folded into convolutions.
- `convolve`: a depthwise convolution whose weight's gradient the kernels compute.

Eager execution calls the kernels directly; graphs of `torch.compile` and `torch.export` hold them
as operators `torch.ops.skseg.*`. `SKSEG_KERNELS=0` in the environment, or
`skseg.nn.kernels.library.disabled()`, keeps everything on torch's own operations. Use
either to export a graph without operators of this package.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from skseg.nn.kernels import autograd, library, operators, ops


class _Path(Protocol):
    """A branch: :class:`skseg.nn.blocks.ConvNormAct`."""

    conv: nn.Conv2d
    bn: nn.Module
    act: nn.Module


class _Unit(Protocol):
    """What is asked of a unit: :class:`skseg.nn.SKConv2d` without its branches."""

    split_input: bool
    pool_window: int | None

    @property
    def attn(self) -> nn.Module | None: ...


class _FoldedUnit(_Unit, Protocol):
    """What is asked of :class:`skseg.convert.fold.FoldedSKConv2d`."""

    in_channels: int
    suits_kernels: bool
    compiled: bool
    geometry: list[int]
    norms: Tensor
    packed: Tensor


def uses_kernels(unit: _Unit, paths: Sequence[_Path], x: Tensor) -> bool:
    """Whether `run_unit` runs this unit on this input.

    Args:
        unit: An SK unit.
        paths: Its branches.
        x: Its input.
    """
    return (
        has_kernels(unit, paths)
        and _suits(x, paths[0].conv.in_channels, [path.conv.weight for path in paths])
        and all(
            type(path.bn) is nn.BatchNorm2d
            and path.bn.affine
            and path.bn.weight.dtype is torch.float32
            and path.conv.bias is None
            for path in paths
        )
        and not _have_hooks(paths)
    )


def has_kernels(unit: _Unit, paths: Sequence[_Path]) -> bool:
    """Whether the kernels compute units of this kind: ReLUs, and one attention vector per image."""
    return (
        unit.attn is not None
        and unit.pool_window is None
        and not unit.split_input
        and len(paths) <= ops.MAX_BRANCHES
        and all(
            type(path.conv) is nn.Conv2d  # subclasses may pad by themselves
            and path.conv.padding_mode == "zeros"
            and not isinstance(path.conv.padding, str)
            and path.conv.out_channels % max(library.LANES, 1) == 0
            and type(path.act) is nn.ReLU
            for path in paths
        )
    )


def has_own_convolutions(convs: Sequence[nn.Conv2d]) -> bool:
    """Whether the kernels also compute the convolutions of a unit; if not, torch does."""
    first = convs[0]
    return (
        library.available()
        and first.in_channels in [group * first.groups for group in ops.GROUP_WIDTHS]
        and first.in_channels % library.LANES == 0
        and all(
            conv.in_channels == conv.out_channels == first.in_channels
            and conv.groups == first.groups
            and conv.kernel_size == (3, 3)
            and conv.stride == (1, 1)
            and conv.padding == conv.dilation
            and conv.dilation[0] == conv.dilation[1] <= ops.MAX_DILATION
            and conv.weight.device.type == "cpu"
            and conv.weight.dtype is torch.float32
            for conv in convs
        )
    )


def run_unit(unit: _Unit, paths: Sequence[_Path], x: Tensor) -> Tensor | None:
    """Run an SK unit on the kernels, or return None if `uses_kernels` does not hold.

    Args:
        unit: An SK unit.
        paths: Its branches.
        x: [B, C_in, H, W].

    Returns:
        [B, C_out, H', W'], channels last.
    """
    if not uses_kernels(unit, paths, x):
        return None
    assert unit.attn is not None
    convs = [path.conv for path in paths]
    norms: list[nn.BatchNorm2d] = [path.bn for path in paths]  # type: ignore[misc]
    by_batch = [norm.training or norm.running_mean is None for norm in norms]
    running: list[Tensor] = []
    for norm, batch in zip(norms, by_batch, strict=True):
        if not batch:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            running += [norm.running_mean, norm.running_var]
    x = x.contiguous(memory_format=torch.channels_last)
    backend = operators if _in_graph(x) else autograd
    pooled, maps, statistics, link = backend.split(
        x,
        [conv.weight for conv in convs],
        geometry_of(convs),
        has_own_convolutions(convs),
        [_has_depthwise_gradient(conv, x) for conv in convs],
        [norm.weight for norm in norms],
        [norm.bias for norm in norms],
        [norm.eps for norm in norms],
        by_batch,
        running,
    )
    count = maps[0].shape[0] * maps[0].shape[2] * maps[0].shape[3]
    for branch, norm in enumerate(norms):
        momentum = _count_batch(norm)
        if momentum is not None:
            backend.update_running(
                norm.running_mean, norm.running_var, statistics, branch, momentum, count
            )
    attention = unit.attn(pooled).contiguous()
    out: Tensor = backend.select(maps, attention, statistics, link)
    return out


def run_folded(unit: _FoldedUnit, paths: Sequence[_Path], x: Tensor) -> Tensor | None:
    """Run a unit with folded norms on the kernels, or return None if it does not suit them.

    Args:
        unit: A unit for inference, whose convolutions have biases and whose norms are gone. Hooks
            on its branches do not run.
        paths: Its branches.
        x: [B, C_in, H, W].

    Returns:
        [B, C_out, H', W'], channels last.
    """
    if (
        not unit.suits_kernels
        # A unit may have been pickled on a CPU with shorter vectors, or none.
        or unit.norms.shape[-1] % max(library.LANES, 1)
        or not _suits(x, unit.in_channels, [unit.norms])
        or (x.requires_grad and torch.is_grad_enabled())
    ):
        return None
    assert unit.attn is not None
    x = x.contiguous(memory_format=torch.channels_last)
    backend = operators if _in_graph(x) else autograd
    # Packed for this CPU: a unit may have been pickled on another.
    compiled = unit.compiled and unit.packed.shape[-1] == library.LANES
    weights = [*unit.packed.unbind()] if compiled else [path.conv.weight for path in paths]
    pooled, maps = backend.split_folded(x, weights, unit.geometry, compiled, unit.norms)
    attention = unit.attn(pooled).contiguous()
    out: Tensor = backend.select_folded(maps, attention, None if compiled else unit.norms)
    return out


def convolve(conv: nn.Module, x: Tensor) -> Tensor:
    """Run a convolution; the kernels compute the weight's gradient of a depthwise one.

    Args:
        conv: A convolution, or what stands in its place.
        x: [B, C, H, W].
    """
    if (
        isinstance(conv, nn.Conv2d)
        and conv.weight.requires_grad
        and torch.is_grad_enabled()
        and conv.bias is None
        and type(conv) is nn.Conv2d
        and _suits(x, conv.in_channels, [conv.weight])
        and _has_depthwise_gradient(conv, x)
        and not has_hooks(conv)
    ):
        backend = operators if _in_graph(x) else autograd
        out: Tensor = backend.depthwise_conv(x, conv.weight, geometry_of([conv]))
        return out
    out = conv(x)
    return out


def _suits(x: Tensor, channels: int, weights: Sequence[Tensor]) -> bool:
    """Whether the kernels can read an input of so many channels and weights, here and now."""
    return (
        library.available()
        and not torch.is_autocast_enabled("cpu")
        and not _must_stay_on_torch()
        and x.device.type == "cpu"
        and x.dtype is torch.float32
        and x.dim() == 4
        and x.numel() > 0
        and x.shape[1] == channels
        and all(w.device.type == "cpu" and w.dtype is torch.float32 for w in weights)
    )


def _must_stay_on_torch() -> bool:
    """Whether a format without our operators is being made: TorchScript or ONNX."""
    if torch.compiler.is_compiling():
        return torch.onnx.is_in_onnx_export()
    tracing: bool = torch.jit.is_tracing()  # type: ignore[no-untyped-call]
    return tracing


def _in_graph(x: Tensor) -> bool:
    """Whether a graph is being made, in which kernels are operators."""
    return torch.compiler.is_compiling() or type(x) is not Tensor  # a fake tensor, for instance


def geometry_of(convs: Sequence[nn.Conv2d]) -> list[int]:
    """Return the geometry of convolutions as the kernels read it, see `halves.Geometry`."""
    numbers: list[int] = []
    for conv in convs:
        assert not isinstance(conv.padding, str)
        numbers += [*conv.stride, *conv.padding, *conv.dilation]
    return numbers


def _has_depthwise_gradient(conv: nn.Conv2d, x: Tensor) -> bool:
    """Whether there is a kernel for a weight's gradient: depthwise, 3 to 9 taps a side."""
    return (
        conv.groups == conv.in_channels == conv.out_channels
        and conv.kernel_size[0] == conv.kernel_size[1]
        and conv.kernel_size[0] in ops.DEPTHWISE_KERNELS
        and conv.stride[0] == conv.stride[1]
        and conv.dilation[0] == conv.dilation[1]
        and not isinstance(conv.padding, str)
        and conv.padding_mode == "zeros"
        and x.numel() < 2**31  # the kernel's strides are ints
    )


def _have_hooks(paths: Sequence[_Path]) -> bool:
    """Whether anything waits for a call of a branch or its parts, which the kernels replace."""
    return any(
        has_hooks(module)
        for path in paths
        for module in (path, path.conv, path.bn, path.act)
        if isinstance(module, nn.Module)
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether a module has hooks, which what replaces it would not run."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _count_batch(norm: nn.BatchNorm2d) -> float | None:
    """Count a batch of a norm in training; return its share in the running statistics."""
    if not norm.training or norm.num_batches_tracked is None:
        return None
    norm.num_batches_tracked.add_(1)
    return 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
