"""What a config may say about SK units: `model.sk`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from skseg.nn import FuseNorm, Select

OF_CONVERSION = {"stages", "modules"}
"""The settings that choose what to convert; the others are those of :class:`skseg.SKConv2d`."""


@dataclass(frozen=True)
class SKSettings:
    """Options of the SK units of an encoder; unset ones are the encoder's own.

    An encoder of this package with SK units is built with these. Any other one is converted, see
    :func:`skseg.encoders.convert_to_sk`, and what its units have without these says its docstring.
    The values are checked there, since jsonargparse would dress up an error raised here.

    Args:
        branches: [kernel size, dilation, groups] of each branch, the last two optional, such as
            [[3, 1], [3, 2]].
        select: "attention" as in the paper; "sum" adds the branches (not in a conversion) and
            "mean" averages them, without attention.
        reduction: ratio r of the attention's width d = max(channels // r, L).
        min_attention_width: minimum L of that width.
        fuse_norm: norm in the attention: "batch" as in the paper, "layer" for batches of a few
            images, or "none".
        stages: in a conversion, the encoder's stages, 1 (stride 2) to 5 (stride 32).
        modules: in a conversion, names of the convolutions, or patterns of names such as
            "layer4.*.conv2", and no others.
    """

    branches: Sequence[Sequence[int]] | None = None
    select: Select | None = None
    reduction: int | None = None
    min_attention_width: int | None = None
    fuse_norm: FuseNorm | None = None
    stages: Sequence[int] | None = None
    modules: Sequence[str] | None = None

    def given(self) -> dict[str, Any]:
        """Return the options that are set, in plain values that a checkpoint may hold."""
        values = {key: value for key, value in asdict(self).items() if value is not None}
        if self.branches is not None:
            values["branches"] = [list(branch) for branch in self.branches]
        return values | {key: list(values[key]) for key in OF_CONVERSION & values.keys()}
