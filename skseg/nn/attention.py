"""Fuse and Select: how an SK unit weighs its branches, and ways to read and to fix the weights."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skseg.errors import UserError

FuseNorm = Literal["batch", "running", "layer", "none"]


class FuseBatchNorm(nn.BatchNorm1d):
    """Batch norm of pooled vectors [B, d] that explains why it cannot train on a single one."""

    def _check_input_dim(self, input: Tensor) -> None:
        if self.training and input.shape[0] == 1:
            raise UserError(
                "the batch norm inside an SK unit's Fuse sees one vector an image and cannot "
                "train on a single image: use a batch of two or more, fuse_norm='running', or "
                "eval mode"
            )


class FuseRunningNorm(nn.Module):
    """Batch norm of pooled vectors [B, d] by its running statistics, in training too.

    So a network trains as it is used, a batch of one is enough, and what an image's vector is does
    not depend on the others of its batch; but unlike a layer norm it takes away what all images
    have in common, and leaves how they differ. The statistics are those of all vectors so far,
    and from 1 / `momentum` batches on those of exponentially weighted batches. They have no
    gradient, and hold the present batch, which bounds the mean of what it is mapped to to
    sqrt(1 / `momentum` - 1).

    Parameters and buffers are those of `nn.BatchNorm1d`, but converters to synchronised batch norms
    are to leave it: over several processes the statistics are the first one's.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, d] to [B, d]."""
        if self.training:
            self._update(x.detach().to(self.running_var))
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return (x - self.running_mean) * scale + self.bias

    def _update(self, x: Tensor) -> None:
        self.num_batches_tracked += 1
        share = (1 / self.num_batches_tracked).clamp(min=self.momentum).to(x)
        change = x.mean(0) - self.running_mean
        # Of the old vectors and the new ones together, so that a batch of one has a variance too.
        var = torch.lerp(self.running_var, x.var(0, correction=0), share)
        self.running_var.copy_(var + share * (1 - share) * change.square())
        self.running_mean += share * change


class SKAttention(nn.Module):
    """Fuse and the softmax of Select: pooled features in, a weight for each branch out.

    Args:
        channels: channels C of the branches.
        branches: number of branches M.
        width: width d of the compact feature z.
        norm: norm of z: "batch" as in the paper, "running" for the same by its running statistics,
            "layer", or "none". A batch norm here sees one vector an image, so few samples when
            batches are small.
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
            "running": FuseRunningNorm,
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


@contextmanager
def fix_attention(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Make SK units weigh every image alike while the context is open, for inference.

    Args:
        model: any module with :class:`SKConv2d` inside, or one itself.
        weights: by the unit's name in the model, [M, C] for its M branches; others stay free.

    Raises:
        UserError: a name is not of a unit with attention.
    """

    def hook_for(fixed: Tensor) -> Callable[[nn.Module, object, Tensor], Tensor]:
        def hook(_module: nn.Module, _args: object, attention: Tensor) -> Tensor:
            shape = (1, *fixed.shape, *[1] * (attention.dim() - 3))
            return fixed.to(attention).reshape(shape).expand_as(attention)

        return hook

    units = dict(_attentions(model))
    if unknown := weights.keys() - units.keys():
        raise UserError(f"no SK unit with attention is named {', '.join(sorted(unknown))}")
    handles = [units[n].register_forward_hook(hook_for(fixed)) for n, fixed in weights.items()]
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
