"""Data sets as pairs of image and mask, their transforms, and the datamodule.

A new data set is one file with a `DatasetSpec` and one row in `registry.DATASETS`.
"""

from skseg.data.cityscapes import LABEL_IDS, OFFICIAL_COUNTS, OFFICIAL_SIZE, STREETS
from skseg.data.datamodule import SegmentationDataModule
from skseg.data.dataset import ClassTable, DatasetSpec, Pair, Sample, SegmentationDataset, read_pair
from skseg.data.files import IMAGE_SUFFIXES, read_image
from skseg.data.registry import DATASETS, get_dataset
from skseg.data.transforms import IMAGENET_MEAN, IMAGENET_STD, eval_transform, train_transform
from skseg.types import VOID

__all__ = [
    "DATASETS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "IMAGE_SUFFIXES",
    "LABEL_IDS",
    "OFFICIAL_COUNTS",
    "OFFICIAL_SIZE",
    "STREETS",
    "VOID",
    "ClassTable",
    "DatasetSpec",
    "Pair",
    "Sample",
    "SegmentationDataModule",
    "SegmentationDataset",
    "eval_transform",
    "get_dataset",
    "read_image",
    "read_pair",
    "train_transform",
]
