"""The SK unit as one operation on the compiled kernels, forward and backward.

It keeps three maps for backward, the input and each branch's convolution, where norm, ReLU and
selection one after the other keep seven: what they made is made again from those.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from skseg.nn.kernels import ops as kernels

if TYPE_CHECKING:
    from skseg.nn.sk import SKConv2d


class ConvNormAct(nn.Module):
    """Convolution, norm and activation: what each branch does to the input."""

    def __init__(self, conv: nn.Conv2d, norm: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.bn = norm  # named as in timm, whose weights load by these names
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C_in, H, W] to [B, C_out, H', W']."""
        # TorchScript reads nested conditions only, so not one `if`.
        if not torch.jit.is_scripting() and not torch.compiler.is_compiling():
            x = convolve(self.conv, x)
        else:
            x = self.conv(x)
        x = self.bn(x)
        x = self.act(x)
        return x


@torch.jit.unused
def convolve(conv: nn.Module, x: Tensor) -> Tensor:
    """Run a convolution, a depthwise one such that its weight's gradient is the kernels'."""
    if (
        type(conv) is nn.Conv2d
        and conv.bias is None
        and conv.weight.requires_grad
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and kernels.fits_depthwise(x, conv)
        and not _has_hooks(conv)
    ):
        out: Tensor = _DepthwiseConv.apply(x, conv.weight, conv)
        return out
    mapped: Tensor = conv(x)
    return mapped


class _DepthwiseConv(torch.autograd.Function):
    """A depthwise convolution whose weight's gradient is the kernels'."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, conv: nn.Conv2d) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.conv = conv
        return conv(x)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        return (*_conv_backward(x, weight, ctx.conv, grad, wants), None)


def _has_hooks(*modules: nn.Module) -> bool:
    return any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in modules)


def _conv_backward(
    x: Tensor, weight: Tensor, conv: nn.Conv2d, grad: Tensor, wants: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of a convolution's input and weight, None where not wanted."""
    own = wants[1] and kernels.fits_depthwise(x, conv)
    d_x, d_weight, _ = torch.ops.aten.convolution_backward(
        *(grad, x, weight, None, conv.stride, conv.padding, conv.dilation),
        *(False, [0, 0], conv.groups, [wants[0], wants[1] and not own, False]),
    )
    return d_x, kernels.depthwise_gradient(x, grad, conv) if own else d_weight


def paths_of(unit: nn.Module) -> list[ConvNormAct]:
    """Return the branches of an SK unit, typed."""
    return [*unit.paths]  # type: ignore[misc]


def fits_kernels(unit: "SKConv2d") -> bool:
    """Whether the kernels know this kind of unit: ReLUs, and one attention an image."""
    return (
        unit.attn is not None
        and unit.pool_window is None
        and not unit.split_input
        and len(unit.paths) <= kernels.MAX_BRANCHES
        and all(
            type(path.conv) is nn.Conv2d  # those that pad by themselves are subclasses
            and path.conv.padding_mode == "zeros"
            and not isinstance(path.conv.padding, str)
            and type(path.act) is nn.ReLU
            for path in paths_of(unit)
        )
    )


def fits_convolutions(convs: list[nn.Conv2d]) -> bool:
    """Whether there are kernels for a unit's convolutions too; others are left to torch."""
    first = convs[0]
    return kernels.has_conv(
        first.in_channels, first.groups, max(conv.dilation[0] for conv in convs)
    ) and all(
        conv.in_channels == conv.out_channels
        and conv.groups == first.groups
        and conv.kernel_size == (3, 3)
        and conv.stride == (1, 1)
        and conv.padding == conv.dilation
        and conv.dilation[0] == conv.dilation[1]
        for conv in convs
    )


def is_fusable(unit: "SKConv2d", x: Tensor) -> bool:
    """Whether `fused_unit` computes what this unit does to this input.

    Its norms must be batch norms. Hooks on what the kernels replace would not run, and autocast
    would not apply.
    """
    if torch.is_autocast_enabled("cpu") or not fits_kernels(unit):
        return False
    if not all(kernels.fits(x, path.conv) for path in paths_of(unit)):
        return False
    return all(
        type(path.bn) is nn.BatchNorm2d
        and path.bn.affine
        and path.bn.weight.dtype is torch.float32
        and path.conv.bias is None
        for path in paths_of(unit)
    ) and not _has_hooks(
        *(m for path in paths_of(unit) for m in (path, path.conv, path.bn, path.act))
    )


def fused_unit(unit: "SKConv2d", x: Tensor) -> Tensor:
    """Run an SK unit on the kernels: [B, C_in, H, W] to [B, C_out, H', W'], channels last."""
    assert unit.attn is not None
    paths = paths_of(unit)
    parameters: list[Any] = [path.conv.weight for path in paths]
    parameters += [path.bn.weight for path in paths] + [path.bn.bias for path in paths]
    parameters += unit.attn.parameters()
    out: Tensor = _FusedUnit.apply(x, unit, *parameters)
    return out


class _FusedUnit(torch.autograd.Function):
    """Split, fuse and select with norms, in training or evaluation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, unit: "SKConv2d", *parameters: Tensor) -> Tensor:
        assert unit.attn is not None
        convs = [path.conv for path in paths_of(unit)]
        norms: list[nn.BatchNorm2d] = [path.bn for path in paths_of(unit)]  # type: ignore[misc]
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.own = fits_convolutions(convs)
        if ctx.own:
            weights = [kernels.pack(conv.weight) for conv in convs]
            maps, sums, _ = kernels.conv(x, weights, [conv.dilation[0] for conv in convs])
        else:
            maps = [conv(x).contiguous(memory_format=torch.channels_last) for conv in convs]
            sums = kernels.sums(maps)
        by_batch = [n.training or n.running_mean is None for n in norms]
        count = maps[0].numel() // maps[0].shape[1]
        used = kernels.statistics(sums, count, norms, by_batch, [_momentum(n) for n in norms])
        # The attention is an ordinary module: its own small graph gives its gradients.
        with torch.enable_grad():
            pooled = kernels.pool(maps, used.scale, used.shift).requires_grad_()
            attention = unit.attn(pooled).contiguous()
        out = kernels.select(maps, attention.detach(), used.scale, used.shift)
        ctx.save_for_backward(x, *maps, *parameters[: len(maps)], *used)
        ctx.small_graph = (pooled, attention, list(unit.attn.parameters()))
        ctx.convs, ctx.by_batch = convs, by_batch
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        m = len(ctx.convs)
        x, *saved = ctx.saved_tensors
        maps, weights, norms = saved[:m], saved[m : 2 * m], kernels.Norms(*saved[2 * m :])
        pooled, attention, attention_parameters = ctx.small_graph
        grad = grad.contiguous(memory_format=torch.channels_last)

        sums, d_attention = kernels.gradient_sums(maps, norms, grad)
        wanted = [pooled, *(p for p in attention_parameters if p.requires_grad)]
        # Kept, because the caller may go through the whole graph again.
        grads = torch.autograd.grad(attention, wanted, d_attention, retain_graph=True)
        d_pooled, *d_wanted = grads
        left = iter(d_wanted)
        d_attention_parameters = [
            next(left) if p.requires_grad else None for p in attention_parameters
        ]
        found = kernels.norm_gradients(
            *(norms, sums, attention.detach(), d_pooled.contiguous(), ctx.by_batch),
            pixels=grad.shape[2] * grad.shape[3],
        )

        wants = ctx.needs_input_grad[0], any(ctx.needs_input_grad[2 : 2 + m])
        if ctx.own:
            dilations = [conv.dilation[0] for conv in ctx.convs]
            d_x, d_weights = kernels.backward(
                x, weights, dilations, maps, norms, grad, found, wants
            )
        else:
            d_maps = kernels.gradient_maps(maps, norms, grad, found)
            d_x, d_weights = _torch_backward(x, weights, ctx.convs, d_maps, wants)
        return (d_x, None, *d_weights, *found.weight, *found.bias, *d_attention_parameters)


def _torch_backward(
    x: Tensor,
    weights: list[Tensor],
    convs: list[nn.Conv2d],
    d_maps: list[Tensor],
    wants: tuple[bool, bool],
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Return the gradients of the input and of each branch's weight, None where not wanted."""
    d_x: Tensor | None = None
    d_weights: list[Tensor | None] = []
    for d_map, weight, conv in zip(d_maps, weights, convs, strict=True):
        part, d_weight = _conv_backward(x, weight, conv, d_map, wants)
        d_weights.append(d_weight)
        d_x = part if d_x is None or part is None else d_x.add_(part)
    return d_x, d_weights


def _momentum(norm: nn.BatchNorm2d) -> float:
    """Count a batch of a norm; return its share in the running statistics, negative for none."""
    if not norm.training or norm.num_batches_tracked is None:
        return -1.0
    norm.num_batches_tracked.add_(1)
    return 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
