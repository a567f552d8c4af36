"""Semantic segmentation with selective-kernel (SK) backbones.

Importing this package registers its encoders in segmentation-models-pytorch and timm.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from skseg.convert import convert_to_sk, optimize_for_inference
from skseg.encoders import list_encoders
from skseg.errors import UserError
from skseg.models import build_model
from skseg.nn import SKConv2d

if TYPE_CHECKING:
    from skseg.data import SegmentationDataModule
    from skseg.training.task import SegmentationTask, load_model

    __version__: str

__all__ = [
    "SKConv2d",
    "SegmentationDataModule",
    "SegmentationTask",
    "UserError",
    "__version__",
    "build_model",
    "convert_to_sk",
    "list_encoders",
    "load_model",
    "optimize_for_inference",
]

# Imported at first use: whoever needs an encoder alone does not wait for Lightning.
_LAZY = {
    "SegmentationDataModule": "skseg.data",
    "SegmentationTask": "skseg.training.task",
    "load_model": "skseg.training.task",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("skseg")
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'skseg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
