"""Data sets as pairs of image and mask, their transforms, and the datamodule.

A new data set is one file with a `DatasetSpec` and one entry in `registry.DATASETS`.
"""

from skseg.data.cityscapes import LABEL_IDS, OFFICIAL
from skseg.data.datamodule import SegmentationDataModule
from skseg.data.dataset import (
    ClassTable,
    DatasetItem,
    DatasetSpec,
    OfficialImages,
    Pair,
    SegmentationDataset,
    read_pair,
)
from skseg.data.files import read_image
from skseg.data.finding import IMAGE_SUFFIXES
from skseg.data.registry import DATASETS, default_root, get_dataset
from skseg.data.transforms import eval_transform, train_transform
from skseg.pixels import IMAGENET_MEAN, IMAGENET_STD
from skseg.types import VOID

__all__ = [
    "DATASETS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "IMAGE_SUFFIXES",
    "LABEL_IDS",
    "OFFICIAL",
    "VOID",
    "ClassTable",
    "DatasetItem",
    "DatasetSpec",
    "OfficialImages",
    "Pair",
    "SegmentationDataModule",
    "SegmentationDataset",
    "default_root",
    "eval_transform",
    "get_dataset",
    "read_image",
    "read_pair",
    "train_transform",
]
