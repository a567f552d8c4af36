"""Fuse and Select: how an SK unit weighs its branches; and how to record and fix the weights."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skseg.errors import UserError

FuseNorm = Literal["batch", "running", "layer", "none"]


class FuseBatchNorm(nn.BatchNorm1d):
    """Batch norm of pooled vectors [B, d] whose error says why it cannot train on a single one."""

    def _check_input_dim(self, input: Tensor) -> None:
        if self.training and input.shape[0] == 1:
            raise UserError(
                "the batch norm inside an SK unit's Fuse has one vector for each image, so it "
                "cannot train on a single image: use a batch of two or more images, "
                "fuse_norm='running', or eval mode"
            )


class FuseRunningNorm(nn.Module):
    """Batch norm of pooled vectors [B, d] that uses its running statistics in training, too.

    A network is then trained as it is used, a batch of one image is enough, and the result for an
    image depends little on the rest of its batch. Unlike a layer norm, it removes what all images
    have in common and keeps how they differ.

    The statistics are a cumulative average for the first 1 / `momentum` batches, then an
    exponential one. They have no gradient. They include the current batch, so the mean of a
    normalized batch is at most sqrt(1 / `momentum` - 1).

    Parameters and buffers have the names of `nn.BatchNorm1d`, but it is not a subclass, so that
    `nn.SyncBatchNorm.convert_sync_batchnorm` leaves it alone: with several processes the statistics
    are those of the first.

    Args:
        num_features: Length d of the vectors.
        eps: Added to the variance.
        momentum: The least share of a batch in the running statistics.
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
        # The variance of old and new vectors together, so that a batch of one has one, too.
        var = torch.lerp(self.running_var, x.var(0, correction=0), share)
        self.running_var.copy_(var + share * (1 - share) * change.square())
        self.running_mean += share * change


class SKAttention(nn.Module):
    """Fuse, and the softmax of Select: from pooled features to a weight for each branch.

    Args:
        channels: Channels C of the branches.
        branches: Number of branches M.
        width: Width d of the compact feature z.
        norm: Norm of z: "batch" as in the paper; "running", a batch norm that uses its running
            statistics in training, too; "layer"; or "none". A batch norm has one vector for each
            image here, so few samples in small batches.
        act: Whether a ReLU follows the norm, as in the paper.
        bias: Whether both linear layers have a bias (the paper's have none).
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
            raise UserError(f"fuse_norm must be one of {', '.join(norms)}, got {norm!r}")
        self.branches = branches
        self.fc_reduce = nn.Linear(channels, width, bias=bias)
        self.bn = norms[norm](width)
        self.act = nn.ReLU() if act else nn.Identity()
        # Branch-major outputs: branch 0's C channels first.
        self.fc_select = nn.Linear(width, branches * channels, bias=bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """Compute the weights of the branches.

        Args:
            pooled: [B, C], the mean over the image of the sum of all branches; or [B, C, h, w], the
                means over h x w windows, each of which has weights of its own.

        Returns:
            [B, M, C] or [B, M, C, h, w], positive, with sum 1 over the branches.

        Raises:
            UserError: A batch norm cannot train on one image.
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
    """Average the sum of maps [B, C, H, W] over the image.

    Args:
        maps: One for each branch.
        window: If given, average over squares of that many pixels a side instead, from the top
            left. Squares at the right and bottom average the pixels that they have.

    Returns:
        [B, C], or [B, C, h, w] with a window.
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
    """Sum maps [B, C, H, W] with weights whose sum over the maps is 1.

    Args:
        maps: One for each of M branches.
        attention: The weights, [B, M, C]; or [B, M, C, h, w], those of the windows of `pooled_sum`,
            which are interpolated bilinearly between the centers of windows.
        window: Side of the windows, in pixels.

    Returns:
        [B, C, H, W].
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
    # To whole windows first, so that the centers of windows stay where they are.
    pixels = F.interpolate(
        attention.flatten(1, 2), (rows * window, columns * window), mode="bilinear"
    )
    weights = pixels.reshape(
        attention.shape[0], attention.shape[1], -1, rows * window, columns * window
    )
    return weights[..., :height, :width]


@contextmanager
def fix_attention(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Use the same attention for every image while the context is open.

    Args:
        model: Any module with :class:`SKConv2d` inside, or one itself.
        weights: [M, C] for the M branches of a unit, by the unit's name in the model. The
            attention of units that are not named still depends on the image.

    Raises:
        UserError: No unit with attention has this name.

    Example:
        >>> from skseg.nn import SKConv2d
        >>> model = nn.Sequential(SKConv2d(8)).eval()
        >>> first_branch_alone = torch.tensor([[1.0] * 8, [0.0] * 8])
        >>> image = torch.randn(2, 8, 16, 16)
        >>> with fix_attention(model, {"0": first_branch_alone}):
        ...     out = model(image)
        >>> torch.allclose(out, model[0].paths[0](image), atol=1e-5)
        True
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

    Outside the context, recording costs nothing.

    Args:
        model: Any module with :class:`SKConv2d` inside, or one itself.

    Yields:
        A dict from the names of units in the model to the attention of the latest forward pass:
        [B, M, C], or [B, M, C, h, w] with a `pool_window`; detached, positive, with sum 1 over the
        M branches.

    Example:
        >>> from skseg.nn import SKConv2d
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 1), SKConv2d(8)).eval()
        >>> with record_attention(model) as attention:
        ...     out = model(torch.randn(2, 3, 16, 16))
        >>> {name: tuple(weights.shape) for name, weights in attention.items()}
        {'1': (2, 2, 8)}
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
