"""The SK unit as one operation on the compiled kernels, forward and backward.

It keeps three maps for backward, the input and each branch's convolution, where norm, ReLU and
selection one after the other keep seven: what they made is made again from those.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from skseg.nn import kernels

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
        x = self.conv(x)
        x = self.bn(x)
        x = self.act(x)
        return x


def paths_of(unit: nn.Module) -> list[ConvNormAct]:
    """Return the branches of an SK unit, typed."""
    return [*unit.paths]  # type: ignore[misc]


def fits_kernels(unit: "SKConv2d") -> bool:
    """Whether the kernels know this kind of unit.

    That is 3x3 kernels of any dilation at stride 1, as many channels out as in, the same groups in
    all branches, ReLUs, and one attention an image, as in the paper.
    """
    first = paths_of(unit)[0].conv
    return (
        unit.attn is not None
        and unit.pool_window is None
        and unit.in_channels == unit.out_channels
        and not unit.split_input
        and len(unit.paths) <= kernels.MAX_BRANCHES
        and all(
            type(path.conv) is nn.Conv2d  # those that pad otherwise are subclasses
            and path.conv.kernel_size == (3, 3)
            and path.conv.stride == (1, 1)
            and path.conv.padding == path.conv.dilation
            and path.conv.dilation[0] == path.conv.dilation[1]
            and path.conv.groups == first.groups
            and type(path.act) is nn.ReLU
            for path in paths_of(unit)
        )
    )


def is_fusable(unit: "SKConv2d", x: Tensor) -> bool:
    """Whether `fused_unit` computes what this unit does to this input.

    Its norms must be batch norms. Hooks on what the kernels replace would not run, and autocast
    would not apply.
    """
    if torch.is_autocast_enabled("cpu") or not fits_kernels(unit):
        return False
    if not all(kernels.fits(x, path.conv.weight) for path in paths_of(unit)):
        return False
    return all(
        type(path.bn) is nn.BatchNorm2d and path.bn.affine and path.conv.bias is None
        for path in paths_of(unit)
    ) and not any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        for path in paths_of(unit)
        for module in (path, path.conv, path.bn, path.act)
    )


def fused_unit(unit: "SKConv2d", x: Tensor) -> Tensor:
    """Run an SK unit on the kernels: [B, C, H, W] to the same, channels last."""
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
        dilations = [c.dilation[0] for c in convs]
        x = x.contiguous(memory_format=torch.channels_last)
        groups = convs[0].groups
        maps, sums = _convolve(x, [c.weight for c in convs], dilations, groups)
        by_batch = [n.training or n.running_mean is None for n in norms]
        used = _norms(norms, by_batch, sums, x.numel() // x.shape[1])
        # The attention is an ordinary module: its own small graph gives its gradients.
        with torch.enable_grad():
            pooled = kernels.pool(maps, used.scale, used.shift).requires_grad_()
            attention = unit.attn(pooled).contiguous()
        out = kernels.select(maps, attention.detach(), used.scale, used.shift)
        ctx.save_for_backward(x, *maps, *parameters[: len(maps)], *used)
        ctx.small_graph = (pooled, attention, list(unit.attn.parameters()))
        ctx.dilations, ctx.groups, ctx.by_batch = dilations, groups, by_batch
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        m = len(ctx.dilations)
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
            pixels=x.shape[2] * x.shape[3],
        )

        wants = ctx.needs_input_grad[0], any(ctx.needs_input_grad[2 : 2 + m])
        if kernels.has_conv(x.shape[1], ctx.groups, ctx.dilations):
            d_x, d_weights = kernels.backward(
                x, weights, ctx.dilations, maps, norms, grad, found, wants
            )
        else:
            d_maps = kernels.gradient_maps(maps, norms, grad, found)
            d_x, d_weights = _torch_backward(x, weights, ctx.dilations, d_maps, ctx.groups, wants)
        return (d_x, None, *d_weights, *found.weight, *found.bias, *d_attention_parameters)


def _convolve(
    x: Tensor, weights: list[Tensor], dilations: list[int], groups: int
) -> tuple[list[Tensor], Tensor]:
    """Return each branch's map and its sums, as `kernels.conv` does."""
    if kernels.has_conv(x.shape[1], groups, dilations):
        return kernels.conv(x, [kernels.pack(w) for w in weights], dilations)
    maps = [
        torch.conv2d(x, w, None, 1, d, d, groups).contiguous(memory_format=torch.channels_last)
        for w, d in zip(weights, dilations, strict=True)
    ]
    return maps, kernels.sums(maps)


def _torch_backward(
    x: Tensor,
    weights: list[Tensor],
    dilations: list[int],
    d_maps: list[Tensor],
    groups: int,
    wants: tuple[bool, bool],
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Return the gradients of the input and of each branch's weight, None where not wanted."""
    d_x: Tensor | None = None
    d_weights: list[Tensor | None] = []
    for d_map, weight, d in zip(d_maps, weights, dilations, strict=True):
        part, d_weight, _ = torch.ops.aten.convolution_backward(
            *(d_map, x, weight, None, [1, 1], [d, d], [d, d], False, [0, 0], groups),
            [*wants, False],
        )
        d_weights.append(d_weight)
        d_x = part if d_x is None else d_x.add_(part)
    return d_x, d_weights


def _norms(
    norms: list[nn.BatchNorm2d], by_batch: list[bool], sums: Tensor, count: int
) -> kernels.Norms:
    """Return what norms do, and update the running statistics of those in training.

    Args:
        norms: one for each branch, in training or evaluation.
        by_batch: whether each uses the statistics of the batch.
        sums: of each branch's map, see `kernels.conv`.
        count: pixels of a map, over the batch.
    """
    running = [
        None if batch or n.running_mean is None or n.running_var is None
        else (n.running_mean, n.running_var)
        for n, batch in zip(norms, by_batch, strict=True)
    ]  # fmt: skip
    weights, biases = [n.weight for n in norms], [n.bias for n in norms]
    used = kernels.statistics(sums, count, weights, biases, [n.eps for n in norms], running)
    for norm, mean, var in zip(norms, used.mean, used.var, strict=True):
        if not norm.training or norm.running_mean is None or norm.running_var is None:
            continue
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
        momentum = norm.momentum
        if momentum is None:
            momentum = 1 / float(norm.num_batches_tracked)
        norm.running_mean.lerp_(mean, momentum)
        norm.running_var.lerp_(var * (count / max(1, count - 1)), momentum)
    return used
