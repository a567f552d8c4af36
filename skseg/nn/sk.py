"""The selective-kernel convolution: split, fuse, select.

Li et al., "Selective Kernel Networks", CVPR 2019, https://arxiv.org/abs/1903.06586, section 3.1.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skseg.errors import UserError
from skseg.nn.fused import ConvNormAct, fused_unit, is_fusable

FuseNorm = Literal["batch", "layer", "none"]
Select = Literal["attention", "sum", "mean"]


class Branch(NamedTuple):
    """One convolution of an SK unit.

    Attributes:
        kernel_size: side of the kernel in taps, odd.
        dilation: distance between taps; 3 taps with dilation 2 span 5 pixels.
        groups: groups of the convolution; the unit's own when None.
    """

    kernel_size: int
    dilation: int = 1
    groups: int | None = None


PAPER_BRANCHES = (Branch(3, 1), Branch(3, 2))
ARTICLE_BRANCHES = (Branch(3, 1), Branch(5, 1))


class FuseBatchNorm(nn.BatchNorm1d):
    """Batch norm of pooled vectors [B, d] that explains why it cannot train on a single one."""

    def _check_input_dim(self, input: Tensor) -> None:
        if self.training and input.shape[0] == 1:
            raise UserError(
                "the batch norm inside an SK unit's Fuse sees one vector an image and cannot "
                "train on a single image: use a batch of two or more, fuse_norm='layer', or "
                "eval mode"
            )


class SKAttention(nn.Module):
    """Fuse and the softmax of Select: pooled features in, a weight for each branch out.

    Args:
        channels: channels C of the branches.
        branches: number of branches M.
        width: width d of the compact feature z.
        norm: norm of z: "batch" as in the paper, "layer", or "none". A batch norm here sees one
            vector an image, so few samples when batches are small.
        act: whether a ReLU follows the norm, as in the paper.
        bias: whether both linear layers have a bias (the paper's have none).
    """

    def __init__(
        self,
        channels: int,
        branches: int,
        width: int,
        norm: FuseNorm = "batch",
        act: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        norms: dict[str, Callable[[int], nn.Module]] = {
            "batch": FuseBatchNorm,
            "layer": nn.LayerNorm,
            "none": nn.Identity,
        }
        if norm not in norms:
            raise UserError(f"fuse_norm is one of {', '.join(norms)}, got {norm!r}")
        self.branches = branches
        self.fc_reduce = nn.Linear(channels, width, bias=bias)
        self.bn = norms[norm](width)
        self.act = nn.ReLU() if act else nn.Identity()
        # Branch-major outputs: branch 0's C channels first.
        self.fc_select = nn.Linear(width, branches * channels, bias=bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """Weigh the branches.

        Args:
            pooled: [B, C], the mean over the image of the sum of all branches; or the means over
                h x w windows of it, [B, C, h, w], each of which is weighed by itself.

        Returns:
            [B, M, C] or [B, M, C, h, w], positive, sums to 1 over the branches.

        Raises:
            UserError: a batch norm is to train on one image, one value a channel.
        """
        if pooled.dim() == 4:
            batch, channels, height, width = pooled.shape
            windows = self._weigh(pooled.permute(0, 2, 3, 1).reshape(-1, channels))
            attention = windows.reshape(batch, height, width, self.branches, -1)
            return attention.permute(0, 3, 4, 1, 2)
        return self._weigh(pooled)

    def _weigh(self, pooled: Tensor) -> Tensor:
        z = self.act(self.bn(self.fc_reduce(pooled)))
        logits = self.fc_select(z).unflatten(1, (self.branches, -1))
        return torch.softmax(logits, dim=1)


def pooled_sum(maps: list[Tensor], window: int | None = None) -> Tensor:
    """Average the sum of maps [B, C, H, W] over the image, [B, C].

    With a `window`, in pixels, over squares of that side from the top left: [B, C, h, w], where
    those at the right and bottom average what they have.
    """
    if window is not None:
        total = maps[0]
        for u in maps[1:]:
            total = total + u
        return F.avg_pool2d(total, window, ceil_mode=True)
    # The mean of the sum is the sum of the means: no pass over a summed map.
    pooled = maps[0].mean(dim=(2, 3))
    for u in maps[1:]:
        pooled = pooled + u.mean(dim=(2, 3))
    return pooled


def weighted_sum(maps: list[Tensor], attention: Tensor, window: int | None = None) -> Tensor:
    """Sum M maps [B, C, H, W] with weights that sum to 1 over the maps.

    The weights are [B, M, C]; or of `pooled_sum`'s windows, [B, M, C, h, w], and then bilinear
    between the windows' centres.
    """
    if window is None:
        weights = attention[:, :, :, None, None]
    else:
        weights = _between_windows(attention, window, maps[0].shape[2], maps[0].shape[3])
    if len(maps) == 2:
        return torch.lerp(maps[1], maps[0], weights[:, 0])  # one pass
    out = maps[0] * weights[:, 0]
    for i in range(1, len(maps)):
        out = torch.addcmul(out, maps[i], weights[:, i])
    return out


def _between_windows(attention: Tensor, window: int, height: int, width: int) -> Tensor:
    """Interpolate weights [B, M, C, h, w] of windows to pixels [B, M, C, height, width]."""
    rows, columns = attention.shape[3], attention.shape[4]
    # To whole windows first, so that their centres stay where they are.
    pixels = F.interpolate(
        attention.flatten(1, 2), (rows * window, columns * window), mode="bilinear"
    )
    weights = pixels.reshape(
        attention.shape[0], attention.shape[1], -1, rows * window, columns * window
    )
    return weights[..., :height, :width]


class SKConv2d(nn.Module):
    """Selective-kernel convolution SK[M, G, r] for any number M of branches.

    Split: every branch convolves the input with its own kernel, norm and activation. Fuse: the sum
    of the branches is averaged over the image and squeezed to d = max(C_out // r, L). Select: a
    softmax over the branches gives each channel of each branch its weight in the output's sum.

    The defaults are the paper's SKNet unit, its "5x5" being a 3x3 with dilation 2. The arithmetic
    of the common toy implementation is ``branches=ARTICLE_BRANCHES, bias=True, fuse_bias=True,
    fuse_norm="none", fuse_act=False``.

    Attention weights are read with :func:`record_attention`.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, C_out; those of the input when None.
        stride: stride of every branch.
        dilation: multiplies each branch's own dilation, so that branches stay different in a
            dilated network.
        groups: groups of the branches that do not set their own.
        branches: the branches, each (kernel size, dilation, groups) with the last two optional.
        reduction: reduction ratio r.
        min_attention_width: minimum L of the width d.
        split_input: give branch i the i-th of M equal slices of the input's channels instead of
            all of them, as timm's SK-ResNets do.
        select: "attention" as in the paper; "sum" adds the branches and "mean" averages them,
            both without any attention: the controls of a fair comparison.
        norm_layer: norm of a branch, called with the number of channels.
        act_layer: activation of a branch, called without arguments.
        bias: whether the branches' convolutions have a bias.
        fuse_norm: norm inside Fuse, see :class:`SKAttention`.
        fuse_act: whether Fuse has a ReLU.
        fuse_bias: whether the linear layers of Fuse and Select have a bias.
        pool_window: None weighs the branches once an image, as in the paper; a number weighs them
            by region, from the mean over windows of that many pixels of the output a side.

    Raises:
        UserError: the numbers do not fit together.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        *,
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
            raise UserError(f"select is one of {', '.join(get_args(Select))}, got {select!r}")
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
                raise UserError(f"{name} is at least 1, got {value}")
        if split_input and in_channels % len(specs):
            raise UserError(
                f"split_input gives each of {len(specs)} branches an equal share of the input: "
                f"{in_channels} channels do not divide"
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
        # TorchScript reads nested conditions only, so not one `if`.
        if not torch.jit.is_scripting() and not torch.compiler.is_compiling():  # noqa: SIM102
            if is_fusable(self, x):
                return fused_unit(self, x)
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

    def extra_repr(self) -> str:
        """What the children do not show."""
        text = f"{self.in_channels}, {self.out_channels}, select={self.select}"
        text += ", split_input=True" if self.split_input else ""
        return text + (f", pool_window={self.pool_window}" if self.pool_window else "")


def _check_branches(branches: Sequence[Branch | Sequence[int]], groups: int) -> list[Branch]:
    """Fill in the unit's groups and refuse kernels that have no centre."""
    if not branches:
        raise UserError("an SK unit needs at least one branch")
    specs: list[Branch] = []
    for given in branches:
        if not 1 <= len(given) <= 3:
            raise UserError(
                "a branch is (kernel size, dilation, groups), the last two optional, "
                f"got {tuple(given)}"
            )
        branch = Branch(*given)
        specs.append(branch._replace(groups=groups) if branch.groups is None else branch)
        if branch.kernel_size < 1 or branch.kernel_size % 2 == 0:
            raise UserError(f"kernel sizes are odd and positive, got {branch.kernel_size}")
        if branch.dilation < 1:
            raise UserError(f"dilations are at least 1, got {branch.dilation}")
    return specs


def _branch_conv(
    branch: Branch, in_channels: int, out_channels: int, stride: int, dilation: int, bias: bool
) -> nn.Conv2d:
    groups = branch.groups or 1
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


@contextmanager
def fix_attention(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Make SK units weigh every image alike while the context is open, for inference.

    Args:
        model: any module with :class:`SKConv2d` inside, or one itself.
        weights: by the unit's name in the model, [M, C] for its M branches.
    """

    def hook_for(fixed: Tensor) -> Callable[[nn.Module, object, Tensor], Tensor]:
        def hook(_module: nn.Module, _args: object, attention: Tensor) -> Tensor:
            shape = (1, *fixed.shape, *[1] * (attention.dim() - 3))
            return fixed.to(attention).reshape(shape).expand_as(attention)

        return hook

    units = {unit_name: attn for unit_name, attn in _attentions(model) if unit_name in weights}
    handles = [attn.register_forward_hook(hook_for(weights[n])) for n, attn in units.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Record the attention of every SK unit of a model while the context is open.

    Nothing is recorded, and nothing costs time, outside the context.

    Args:
        model: any module with :class:`SKConv2d` inside, or one itself.

    Yields:
        A dict that after each forward pass holds, by the unit's name in the model, its last
        attention: [B, M, C], or [B, M, C, h, w] with a `pool_window`, detached, positive, sums to
        1 over the M branches.
    """
    recorded: dict[str, Tensor] = {}

    def hook_for(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_module: nn.Module, _args: object, attention: Tensor) -> None:
            recorded[name] = attention.detach()

        return hook

    handles = [attn.register_forward_hook(hook_for(name)) for name, attn in _attentions(model)]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def _attentions(model: nn.Module) -> Iterator[tuple[str, SKAttention]]:
    """Yield the name of each unit in a model, and its attention."""
    for name, module in model.named_modules():
        if isinstance(module, SKAttention):
            yield name.removesuffix("attn").removesuffix("."), module
