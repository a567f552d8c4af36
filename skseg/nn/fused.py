"""The SK unit as one operation on the compiled kernels, forward and backward.

It keeps three maps for backward, the input and each branch's convolution, where norm, ReLU and
selection one after the other keep seven: what they made is made again from those.
"""

from collections.abc import Callable
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
        mean, rstd = _statistics(norms, sums, x.numel() // x.shape[1])  # [M, C]
        scale = torch.stack([n.weight for n in norms]) * rstd
        shift = torch.stack([n.bias for n in norms]) - mean * scale
        # The attention is an ordinary module: its own small graph gives its gradients.
        with torch.enable_grad():
            pooled = kernels.pool(maps, scale, shift).requires_grad_()
            attention = unit.attn(pooled)
        out = kernels.select(maps, attention.detach().contiguous(), scale, shift)
        ctx.save_for_backward(x, *maps, *parameters[: len(maps)], mean, rstd, scale, shift)
        ctx.small_graph = (pooled, attention, list(unit.attn.parameters()))
        ctx.dilations, ctx.groups = dilations, groups
        ctx.by_batch = [n.training or n.running_mean is None for n in norms]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        m = len(ctx.dilations)
        x, *saved = ctx.saved_tensors
        maps, weights, (mean, rstd, scale, shift) = saved[:m], saved[m : 2 * m], saved[2 * m :]
        pooled, attention, attention_parameters = ctx.small_graph
        grad = grad.contiguous(memory_format=torch.channels_last)
        pixels = x.shape[2] * x.shape[3]

        # Where the ReLU passes: sums of grad, of 1, of grad * map, of map; each [B, M, C].
        g, ones, gy, y = kernels.gradient_sums(maps, scale, shift, grad)
        d_attention = scale * gy + shift * g
        wanted = [pooled, *(p for p in attention_parameters if p.requires_grad)]
        # Kept, because the caller may go through the whole graph again.
        grads = torch.autograd.grad(attention, wanted, d_attention, retain_graph=True)
        d_pooled, *d_wanted = grads
        left = iter(d_wanted)
        d_attention_parameters = [
            next(left) if p.requires_grad else None for p in attention_parameters
        ]

        # A branch after its ReLU gets a * grad + p, with a, p the same at every pixel of an image.
        a, p = attention.detach(), (d_pooled / pixels)[:, None]
        total = (a * g).add_(p * ones).sum(0)  # [M, C]: the gradient of the norm's bias
        total_y = (a * gy).add_(p * y).sum(0)
        d_scale = (total_y - mean * total) * rstd  # of the norm's weight
        # Through the ReLU and the norm the map gets through * grad + bias where the ReLU passes,
        # and slope * map + offset everywhere if the norm's statistics are the batch's.
        through, bias = scale * a, (scale * p).expand_as(a).contiguous()
        by_batch = torch.tensor(ctx.by_batch).unsqueeze(1) / (x.shape[0] * pixels)
        slope = -scale * rstd * d_scale * by_batch
        offset = -scale * total * by_batch - slope * mean

        def map_gradients(image: slice) -> list[Tensor]:
            return kernels.gradient_maps(
                [m[image] for m in maps],
                *(scale, shift, grad[image], through[image], bias[image], slope, offset),
            )

        d_x, d_weights = _convolution_gradients(ctx, x, weights, map_gradients)
        norms = (*d_scale, *total)
        return d_x, None, *d_weights, *norms, *d_attention_parameters


def _convolve(
    x: Tensor, weights: list[Tensor], dilations: list[int], groups: int
) -> tuple[list[Tensor], Tensor]:
    """Return each branch's map and its sums [B, M, 2, C], as `kernels.conv` does."""
    if kernels.has_conv(x.shape[1], groups):
        return kernels.conv(x, [kernels.pack(w) for w in weights], dilations)
    maps = [
        torch.conv2d(x, w, None, 1, d, d, groups).contiguous(memory_format=torch.channels_last)
        for w, d in zip(weights, dilations, strict=True)
    ]
    return maps, kernels.sums(maps)


def _convolution_gradients(
    ctx: Any, x: Tensor, weights: list[Tensor], map_gradients: Callable[[slice], list[Tensor]]
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Return the gradients of the input and of each branch's weight, None where not needed."""
    m = len(weights)
    want_x, want_weights = ctx.needs_input_grad[0], any(ctx.needs_input_grad[2 : 2 + m])
    if not kernels.has_conv(x.shape[1], ctx.groups):
        d_x: Tensor | None = None
        d_weights: list[Tensor | None] = []
        for d_map, weight, d in zip(
            map_gradients(slice(None)), weights, ctx.dilations, strict=True
        ):
            part, d_weight, _ = torch.ops.aten.convolution_backward(
                *(d_map, x, weight, None, [1, 1], [d, d], [d, d], False, [0, 0], ctx.groups),
                [want_x, want_weights, False],
            )
            d_weights.append(d_weight)
            d_x = part if d_x is None else d_x.add_(part)
        return d_x, d_weights
    # Image by image, so that the maps' gradients stay in the cache.
    packed = [kernels.pack_transposed(w) for w in weights]
    d_x = torch.empty_like(x) if want_x else None
    sums: list[Tensor] = []
    for b in range(len(x)):
        image = slice(b, b + 1)
        d_maps = map_gradients(image)
        if d_x is not None:
            kernels.conv_transposed(d_maps, packed, ctx.dilations, d_x[image])
        if want_weights:
            parts = kernels.weight_gradients(x[image], d_maps, ctx.dilations)
            sums = [s.add_(p) for s, p in zip(sums, parts, strict=True)] if sums else parts
    return d_x, [*sums] if want_weights else [None] * m


def _statistics(norms: list[nn.BatchNorm2d], sums: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the means and 1 / standard deviations [M, C] that norms use; update running ones.

    Args:
        norms: one for each branch, in training or evaluation.
        sums: [B, M, 2, C] sums of each branch's map and of its square over each image.
        count: pixels of a map, over the batch.
    """
    # In float64, because the variance is a difference.
    mean, square = (sums.double().sum(0) / count).unbind(1)
    var = (square - mean * mean).clamp_(min=0)
    means, variances = [*mean.float()], [*var.float()]
    for m, norm in enumerate(norms):
        if norm.running_mean is None or norm.running_var is None:
            continue
        if not norm.training:
            means[m], variances[m] = norm.running_mean, norm.running_var
            continue
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.add_(1)
        momentum = norm.momentum
        if momentum is None:
            momentum = 1 / float(norm.num_batches_tracked)
        norm.running_mean.lerp_(means[m], momentum)
        norm.running_var.lerp_(variances[m] * (count / max(1, count - 1)), momentum)
    eps = [norm.eps for norm in norms]
    rstd = [(v + e).rsqrt_() for v, e in zip(variances, eps, strict=True)]
    return torch.stack(means), torch.stack(rstd)
