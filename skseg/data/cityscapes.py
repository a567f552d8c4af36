"""Cityscapes: 19 classes of street scenes, in the layout of its official archives."""

from dataclasses import replace
from pathlib import Path

from skseg.data.dataset import ClassTable, DatasetSpec, OfficialImages
from skseg.data.files import read_indices
from skseg.data.finding import NamedFiles, list_files, name_files
from skseg.data.masks import remap
from skseg.types import VOID, Mask

# (label id, name, color) in the order of the training ids; from `labels.py` of cityscapesScripts.
_TRAINED = (
    (7, "road", (128, 64, 128)),
    (8, "sidewalk", (244, 35, 232)),
    (11, "building", (70, 70, 70)),
    (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)),
    (17, "pole", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)),
    (20, "traffic sign", (220, 220, 0)),
    (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)),
    (23, "sky", (70, 130, 180)),
    (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)),
    (26, "car", (0, 0, 142)),
    (27, "truck", (0, 0, 70)),
    (28, "bus", (0, 60, 100)),
    (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)),
    (33, "bicycle", (119, 11, 32)),
)
LABEL_IDS = {name: label_id for label_id, name, _ in _TRAINED}
"""The label id of each training class by its name."""

OFFICIAL = OfficialImages(counts={"val": 500, "test": 1525}, size=(1024, 2048))
"""The images of the benchmark in the splits that can be submitted."""

# The first label id of each category with classes, likewise from `labels.py`.
_CATEGORIES = {
    7: "flat",
    11: "construction",
    17: "object",
    21: "nature",
    23: "sky",
    24: "human",
    26: "vehicle",
}

_FROM_LABEL_ID = dict.fromkeys(range(34), VOID) | {
    label_id: index for index, (label_id, *_) in enumerate(_TRAINED)
}
_FROM_TRAIN_ID = {index: index for index in range(len(_TRAINED))}

_IMAGE = "_leftImg8bit.png"
_LABEL_ID_MASK = "_gtFine_labelIds.png"
_TRAIN_ID_MASK = "_gtFine_labelTrainIds.png"

_LAYOUT = f"""Looked for:
  ROOT/leftImg8bit/SPLIT/CITY/NAME{_IMAGE}
  ROOT/gtFine/SPLIT/CITY/NAME{_LABEL_ID_MASK} (or {_TRAIN_ID_MASK[1:]})"""


def find(root: Path, split: str) -> tuple[NamedFiles, NamedFiles]:
    """Find images and masks by `CITY/NAME`; files of label ids win over those of training ids."""
    images = _by_stem(root / "leftImg8bit" / split, _IMAGE)
    masks, train_id_masks = (
        _by_stem(root / "gtFine" / split, ending) for ending in (_LABEL_ID_MASK, _TRAIN_ID_MASK)
    )
    both = masks._replace(
        by_name=train_id_masks.by_name | masks.by_name,
        doubles=masks.doubles + train_id_masks.doubles,
    )
    return images, both


def read_mask(path: Path) -> Mask:
    """Read a mask of label ids, or of training ids where the file's name says so."""
    is_train_ids = path.name.lower().endswith(_TRAIN_ID_MASK.lower())
    return remap(read_indices(path), _FROM_TRAIN_ID if is_train_ids else _FROM_LABEL_ID, path)


def _by_stem(folder: Path, ending: str) -> NamedFiles:
    files = list_files(folder, depth=2, ending=ending)
    return name_files(files, lambda file: f"{file.parent.name}/{file.name[: -len(ending)]}")


CITYSCAPES = DatasetSpec(
    name="cityscapes",
    classes=ClassTable(
        names=tuple(name for _, name, _ in _TRAINED),
        colors=tuple(color for *_, color in _TRAINED),
        categories=tuple(
            _CATEGORIES[max(first for first in _CATEGORIES if first <= label_id)]
            for label_id, *_ in _TRAINED
        ),
    ),
    splits=("train", "val", "test"),
    find=find,
    read_mask=read_mask,
    official=OFFICIAL,
    help=f"""{_LAYOUT}
To get it: register at https://www.cityscapes-dataset.com, `pip install cityscapesscripts`, and
  `csDownload -d ROOT gtFine_trainvaltest.zip leftImg8bit_trainvaltest.zip`; unpack both in ROOT.
Without it: `python scripts/draw_streets.py` draws a stand-in, for --data.name streets.""",
)

STREETS = replace(
    CITYSCAPES,
    name="streets",
    splits=("train", "val"),
    official=None,
    is_drawn=True,
    help=f"""{_LAYOUT}
To get it: `python scripts/draw_streets.py --root ROOT` draws it in about a minute.""",
)
"""Drawn scenes in the layout of Cityscapes; see `skseg.streets`."""
