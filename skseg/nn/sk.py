"""The selective-kernel convolution: split, fuse, select.

Li et al., "Selective Kernel Networks", CVPR 2019, https://arxiv.org/abs/1903.06586, section 3.1.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from skseg.errors import UserError
from skseg.nn import dispatch
from skseg.nn.attention import FuseNorm, SKAttention, pooled_sum, weighted_sum
from skseg.nn.blocks import ConvNormAct, paths_of

Select = Literal["attention", "sum", "mean"]


class Branch(NamedTuple):
    """One convolution of an SK unit.

    Attributes:
        kernel_size: Side of the kernel in taps, odd.
        dilation: Distance between taps; 3 taps with dilation 2 span 5 pixels.
        groups: Groups of the convolution; those of the unit if None.

    Example:
        >>> SKConv2d(8, branches=[Branch(3), Branch(3, dilation=2), Branch(5, groups=8)])
        ... # doctest: +ELLIPSIS
        SKConv2d(
          8, 8, select=attention
        ...
    """

    kernel_size: int
    dilation: int = 1
    groups: int | None = None


PAPER_BRANCHES = (Branch(3, 1), Branch(3, 2))
"""The branches of SKNet: a 3x3 kernel, and a "5x5" one that is a 3x3 with dilation 2."""
TOY_BRANCHES = (Branch(3, 1), Branch(5, 1))
"""The branches of the toy implementation of many tutorials: true 3x3 and 5x5 kernels."""


class SKConv2d(nn.Module):
    """Selective-kernel convolution SK[M, G, r], for any number M of branches.

    Split: each branch convolves the input with its own kernel, norm and activation. Fuse: the sum
    of the branches is averaged over the image and reduced to d = max(C_out // r, L) features.
    Select: a softmax over the branches gives the weight of each channel of each branch; the output
    is the weighted sum of the branches.

    The defaults are the unit of SKNet. The toy implementation of many tutorials computes
    ``SKConv2d(..., branches=TOY_BRANCHES, bias=True, fuse_bias=True, fuse_norm="none",
    fuse_act=False)``.

    :func:`record_attention` records the weights of the branches.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, C_out; those of the input if None.
        stride: Stride of every branch.
        dilation: Multiplies the dilation of each branch, so that branches remain different in a
            dilated network.
        groups: Groups of the branches that do not set their own.
        branches: The branches, each (kernel size, dilation, groups), the last two optional.
        reduction: Reduction ratio r.
        min_attention_width: Minimum L of the width d.
        split_input: Whether branch i convolves the i-th of M equal slices of the input's channels,
            instead of all channels, as in timm's SK-ResNets.
        select: "attention" as in the paper. "sum" adds the branches and "mean" averages them,
            without attention: the controls of a fair comparison.
        norm_layer: Norm of a branch, called with the number of channels.
        act_layer: Activation of a branch, called without arguments.
        bias: Whether the convolutions of the branches have a bias.
        fuse_norm: Norm inside Fuse, see :class:`skseg.nn.attention.SKAttention`.
        fuse_act: Whether Fuse has a ReLU.
        fuse_bias: Whether the linear layers of Fuse and Select have a bias.
        pool_window: None computes the attention once for each image, as in the paper. A number
            computes it by region: from the mean over each window of that many pixels a side.

    Raises:
        UserError: An argument is out of range, or groups or slices do not divide the channels.

    Example:
        >>> unit = SKConv2d(64, stride=2, groups=32)
        >>> unit(torch.randn(2, 64, 32, 48)).shape
        torch.Size([2, 64, 16, 24])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        *,  # Conv2d has the kernel size here
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        branches: Sequence[Branch | Sequence[int]] = PAPER_BRANCHES,
        reduction: int = 16,
        min_attention_width: int = 32,
        split_input: bool = False,
        select: Select = "attention",
        norm_layer: Callable[[int], nn.Module] = nn.BatchNorm2d,
        act_layer: Callable[[], nn.Module] = nn.ReLU,
        bias: bool = False,
        fuse_norm: FuseNorm = "batch",
        fuse_act: bool = True,
        fuse_bias: bool = False,
        pool_window: int | None = None,
    ) -> None:
        super().__init__()
        out_channels = in_channels if out_channels is None else out_channels
        specs = _check_branches(branches, groups)
        if select not in get_args(Select):
            raise UserError(f"select must be one of {', '.join(get_args(Select))}, got {select!r}")
        for name, value in (
            ("in_channels", in_channels),
            ("out_channels", out_channels),
            ("stride", stride),
            ("dilation", dilation),
            ("reduction", reduction),
            ("min_attention_width", min_attention_width),
            ("pool_window", 1 if pool_window is None else pool_window),
        ):
            if value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")
        if split_input and in_channels % len(specs):
            raise UserError(
                f"with split_input, in_channels must be a multiple of the {len(specs)} branches, "
                f"got {in_channels}"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.select = select
        self.split_input = split_input
        self.pool_window = pool_window
        branch_in = in_channels // len(specs) if split_input else in_channels
        self.paths = nn.ModuleList(
            ConvNormAct(
                _branch_conv(branch, branch_in, out_channels, stride, dilation, bias),
                norm_layer(out_channels),
                act_layer(),
            )
            for branch in specs
        )
        self.attn = (
            SKAttention(
                out_channels,
                len(specs),
                max(out_channels // reduction, min_attention_width),
                fuse_norm,
                fuse_act,
                fuse_bias,
            )
            if select == "attention"
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C_in, H, W] to [B, C_out, ceil(H / stride), ceil(W / stride)]."""
        if not torch.jit.is_scripting():
            fast = self._on_kernels(x)
            if fast is not None:
                return fast
        maps: list[Tensor] = []
        inputs = x.chunk(len(self.paths), dim=1) if self.split_input else [x] * len(self.paths)
        for i, path in enumerate(self.paths):
            maps.append(path(inputs[i]))  # [B, C, H', W']

        if self.attn is not None:
            pooled = pooled_sum(maps, self.pool_window)
            return weighted_sum(maps, self.attn(pooled), self.pool_window)
        out = maps[0]
        for u in maps[1:]:
            out = out + u
        return out / len(maps) if self.select == "mean" else out

    @torch.jit.unused
    def _on_kernels(self, x: Tensor) -> Tensor | None:
        return dispatch.run_unit(self, paths_of(self), x)

    def extra_repr(self) -> str:
        """Return the arguments that the children do not show."""
        text = f"{self.in_channels}, {self.out_channels}, select={self.select}"
        text += ", split_input=True" if self.split_input else ""
        return text + (f", pool_window={self.pool_window}" if self.pool_window else "")


def _check_branches(branches: Sequence[Branch | Sequence[int]], groups: int) -> list[Branch]:
    """Fill in the groups of the unit; raise UserError for kernels without a center."""
    if not branches:
        raise UserError("an SK unit needs at least one branch")
    specs: list[Branch] = []
    for given in branches:
        if not 1 <= len(given) <= 3:
            raise UserError(
                "a branch must be (kernel size, dilation, groups), the last two optional, "
                f"got {tuple(given)}"
            )
        branch = Branch(*given)
        branch = branch._replace(groups=groups) if branch.groups is None else branch
        specs.append(branch)
        if branch.kernel_size < 1 or branch.kernel_size % 2 == 0:
            raise UserError(f"kernel sizes must be odd and positive, got {branch.kernel_size}")
        if branch.dilation < 1:
            raise UserError(f"dilations must be at least 1, got {branch.dilation}")
        if branch.groups is not None and branch.groups < 1:
            raise UserError(f"groups must be at least 1, got {branch.groups}")
    return specs


def _branch_conv(
    branch: Branch, in_channels: int, out_channels: int, stride: int, dilation: int, bias: bool
) -> nn.Conv2d:
    groups = branch.groups
    assert groups is not None, "see _check_branches"
    if in_channels % groups or out_channels % groups:
        raise UserError(
            f"{groups} groups do not divide a branch's {in_channels} input and "
            f"{out_channels} output channels"
        )
    dilation = dilation * branch.dilation
    return nn.Conv2d(
        in_channels,
        out_channels,
        branch.kernel_size,
        stride=stride,
        padding=dilation * (branch.kernel_size // 2),
        dilation=dilation,
        groups=groups,
        bias=bias,
    )
