"""The flags that several commands share."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from skseg.errors import UserError
from skseg.inference import InferenceSettings


@dataclass(frozen=True)
class DataFlags:
    """The data set, where it is not the one that the run was trained on.

    Args:
        name: Data set: cityscapes, camvid, streets, or folder for your own; the run's when unset.
        root: Its folder; when unset, the run's for the run's data set, else data/NAME.
    """

    flag_prefix: ClassVar[str] = "data."

    name: str | None = None
    root: Path | None = None


@dataclass(frozen=True)
class InferenceFlags:
    """How images go through the network.

    Args:
        window: Side, or height and width, in pixels of a sliding window; the whole image when
            unset.
        overlap: Share of its side by which a window overlaps the next one, from 0 to below 1.
        blend: Weights of the logits of overlapping windows.
        scales: Factors on the image's sides; probabilities are averaged over them.
        flip: Average over the mirrored image too.
        precision: 32, or bf16 for autocast to bfloat16.
    """

    window: Sequence[int] | None = None
    overlap: float = InferenceSettings.overlap
    blend: Literal["gaussian", "uniform"] = InferenceSettings.blend
    scales: Sequence[float] = InferenceSettings.scales
    flip: bool = False
    precision: Literal["32", "bf16"] = InferenceSettings.precision

    def settings(self) -> InferenceSettings:
        """Return the library's settings.

        Raises:
            UserError: A value is out of its range.
        """
        window = None
        if self.window is not None:
            if len(self.window) > 2:
                raise UserError(
                    f"`window` has {len(self.window)} values; give a side, or height and width"
                )
            window = (self.window[0], self.window[-1])
        return InferenceSettings(
            window, self.overlap, self.blend, tuple(self.scales), self.flip, self.precision
        )
