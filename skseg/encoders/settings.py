"""Settings of an encoder's SK units, as configs and checkpoints hold them."""

from dataclasses import asdict, dataclass
from typing import Any

from skseg.nn import FuseNorm, Select

OF_CONVERSION = {"stages", "depthwise", "modules"}
"""The settings of conversions alone; the others are those of the units."""


@dataclass(frozen=True)
class SKSettings:
    """Settings of an encoder's SK units; what is unset is the encoder's own.

    An encoder without SK units is converted with them, see :func:`skseg.convert_to_sk`. Values are
    checked there and in :class:`skseg.SKConv2d`: jsonargparse would dress up what is raised here.

    Args:
        branches: kernels of the units, each [kernel size, dilation, groups] with the last two
            optional: [[3], [3, 2]] are the paper's, its "5x5" being a 3x3 with dilation 2.
        select: "attention" weighs the branches, "sum" adds (not in a conversion) and "mean"
            averages them.
        reduction: reduction ratio r of the attention's width.
        min_attention_width: minimum L of the attention's width.
        fuse_norm: norm inside the attention: "batch" as in the paper, "running" for the same by its
            running statistics, "layer", or "none".
        pool_window: side of the windows, in pixels of a unit's output, that are weighed by
            themselves; 0 weighs the branches once an image, as in the paper.
        stages: stages of the encoder to convert, 1 (stride 2) to 5 (stride 32).
        depthwise: make the larger kernels of a conversion depthwise and add them to the old ones.
        modules: names of the convolutions to convert, or patterns of names such as
            "layer4.*.conv2", instead of the usual choice.
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
        """Return the arguments of `skseg.nn.SKConv2d` that are set."""
        arguments = {
            key: value
            for key, value in asdict(self).items()
            if value is not None and key not in OF_CONVERSION
        }
        if self.pool_window == 0:
            arguments["pool_window"] = None
        return arguments
