"""Settings of an encoder's SK units, as configs and checkpoints hold them."""

from dataclasses import asdict, dataclass
from typing import Any

from skseg.nn import FuseNorm, Select


@dataclass(frozen=True)
class SKSettings:
    """Settings of an encoder's SK units; what is unset is the encoder's own.

    Args:
        branches: kernels of the units, each [kernel size, dilation, groups] with the last two
            optional: [[3], [3, 2]] are the paper's, its "5x5" being a 3x3 with dilation 2.
        select: "attention" weighs the branches, "sum" adds and "mean" averages them.
        reduction: reduction ratio r of the attention's width.
        min_attention_width: minimum L of the attention's width.
        fuse_norm: norm inside the attention: "batch" as in the paper, "layer", or "none".
        pool_window: side of the windows, in pixels of a unit's output, that are weighed by
            themselves; 0 weighs the branches once an image, as in the paper.
    """

    branches: list[list[int]] | None = None
    select: Select | None = None
    reduction: int | None = None
    min_attention_width: int | None = None
    fuse_norm: FuseNorm | None = None
    pool_window: int | None = None

    def unit_arguments(self) -> dict[str, Any]:
        """Return the arguments of `skseg.nn.SKConv2d` that are set."""
        arguments = {key: value for key, value in asdict(self).items() if value is not None}
        if self.pool_window == 0:
            arguments["pool_window"] = None
        return arguments
