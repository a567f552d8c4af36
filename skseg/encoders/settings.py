"""Settings of an encoder's SK units, as configs and checkpoints hold them."""

from dataclasses import asdict, dataclass
from typing import Any

from skseg.nn import FuseNorm, Select

OF_CONVERSION = {"stages", "depthwise", "modules"}
"""The settings that only a conversion has; the others are arguments of the units."""


@dataclass(frozen=True)
class SKSettings:
    """Settings of an encoder's SK units; the encoder's own where unset.

    An encoder without SK units is converted with them, see `skseg.convert_to_sk`. That function and
    `skseg.SKConv2d` check the values: jsonargparse would bury an error that is raised here.

    Args:
        branches: Kernels of the units, each [kernel size, dilation, groups], the last two optional.
            [[3], [3, 2]] are the paper's, whose "5x5" is a 3x3 with dilation 2.
        select: "attention" weighs the branches, "sum" adds them (not in a conversion) and "mean"
            averages them.
        reduction: Reduction ratio r of the attention's width.
        min_attention_width: Minimum L of the attention's width.
        fuse_norm: Norm inside the attention: "batch" as in the paper, "running" for a batch norm
            that always uses its running statistics, "layer", or "none".
        pool_window: Side of the windows, in pixels of a unit's output, that have attention weights
            of their own; 0 for one set of weights per image, as in the paper.
        stages: Stages of the encoder to convert, 1 (stride 2) to 5 (stride 32).
        depthwise: Make the larger kernels of a conversion depthwise and add them to the old ones.
        modules: Names of the convolutions to convert, or patterns of names such as
            "layer4.*.conv2", instead of the default choice.
    """

    branches: list[list[int]] | None = None
    select: Select | None = None
    reduction: int | None = None
    min_attention_width: int | None = None
    fuse_norm: FuseNorm | None = None
    pool_window: int | None = None
    stages: list[int] | None = None
    depthwise: bool | None = None
    modules: list[str] | None = None

    def unit_arguments(self) -> dict[str, Any]:
        """Return the arguments of `skseg.nn.SKConv2d` that are set.

        Example:
            >>> SKSettings(reduction=8, stages=[4, 5]).unit_arguments()
            {'reduction': 8}
        """
        arguments = {
            key: value
            for key, value in asdict(self).items()
            if value is not None and key not in OF_CONVERSION
        }
        if self.pool_window == 0:
            arguments["pool_window"] = None
        return arguments
