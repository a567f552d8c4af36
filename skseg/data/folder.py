"""A user's own data: `images/` and `masks/` per split, and `classes.yaml` beside the splits."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from skseg.data.dataset import ClassTable, DatasetSpec, OwnLabels
from skseg.data.files import Color, read_colors, read_indices
from skseg.data.finding import NamedFiles, is_regular, list_files, name_files
from skseg.data.masks import remap, remap_colors
from skseg.errors import UserError, check_values
from skseg.pixels import voc_color
from skseg.types import VOID, Mask

HELP = """Looked for:
  ROOT/SPLIT/images/NAME.jpg (or .png, .tif, ...) and ROOT/SPLIT/masks/NAME.png,
    where SPLIT is train, val, or the name of another split
  ROOT/classes.yaml:
    names: [background, crack]
    colors: [[0, 0, 0], [255, 0, 0]]  # optional; palette and RGB masks are read by them
    values: [0, 255]  # of the classes in other masks; 0, 1, 2, ... by default
    void: [2, [0, 0, 255]]  # optional; further values and colors without a class
    sparse: true  # optional; a class may be missing in training, and most pixels void"""


_KEYS = ("names", "colors", "values", "void", "sparse")


class Labels(NamedTuple):
    """The content of `classes.yaml`.

    Attributes:
        classes: The class table.
        own: The values of the classes, and whether labels are sparse.
        by_value: The class index, or `VOID`, of each value.
        by_color: The same for colors; None where the file lists none.
    """

    classes: ClassTable
    own: OwnLabels
    by_value: Mapping[int, int]
    by_color: Mapping[Color, int] | None


def folder_dataset(root: Path) -> DatasetSpec:
    """Describe the data set in a folder by its `classes.yaml`.

    Raises:
        UserError: There is no such file, it does not define valid classes, or the folder has no
            split.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> (root / "train" / "images").mkdir(parents=True)
        >>> text = "names: [background, crack]"
        >>> _ = (root / "classes.yaml").write_text(text, encoding="utf-8")
        >>> spec = folder_dataset(root)
        >>> spec.classes.names, spec.splits
        (('background', 'crack'), ('train',))
    """
    path = root / "classes.yaml"
    try:
        if not is_regular(path):
            raise UserError(f"{path}: is not a regular file")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})\n{HELP}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: is not YAML ({reason})") from error
    labels = _parse_labels(content, path)
    return DatasetSpec(
        name="folder",
        classes=labels.classes,
        splits=_find_splits(root),
        find=find,
        read_mask=partial(read_mask, labels),
        help=HELP,
        own_labels=labels.own,
        uses_colors=labels.by_color is not None,
    )


def _find_splits(root: Path) -> tuple[str, ...]:
    folders = (path.parent for path in root.glob("*/images") if path.is_dir())
    # As everywhere, what is hidden is left out.
    splits = sorted(p.name for p in folders if not p.name.startswith(".") and p.name != "__MACOSX")
    if not splits:
        there = sorted(p.name + "/" * p.is_dir() for p in root.iterdir())
        listed = ", ".join(there[:5]) + ", ..." * (len(there) > 5)
        raise UserError(f"{root}: has no folder SPLIT/images, but {listed}\n{HELP}")
    return tuple(splits)


def find(root: Path, split: str) -> tuple[NamedFiles, NamedFiles]:
    """Find images and masks by their path below their folder, without the suffix."""
    return _by_stem(root / split / "images"), _by_stem(root / split / "masks")


def read_mask(labels: Labels, path: Path) -> Mask:
    """Read a mask by the colors or values of `classes.yaml`; 255 is void unless it has a class."""
    mask = read_indices(path) if labels.by_color is None else read_colors(path)
    if labels.by_color is not None and mask.ndim == 3:
        hint = (
            "; add them to `colors:` or `void:` in classes.yaml, or remove `colors:` where the "
            "indices of a palette are the classes"
        )
        return remap_colors(mask, labels.by_color, path, hint)
    hint = (
        "; write `void: [{values}]` in classes.yaml if they have no class, or list the value of "
        "each class as `values:`"
    )
    return remap(mask, labels.by_value, path, hint)


def _by_stem(folder: Path) -> NamedFiles:
    return name_files(
        list_files(folder), lambda file: file.relative_to(folder).with_suffix("").as_posix()
    )


def _parse_labels(content: Any, path: Path) -> Labels:
    if not isinstance(content, dict) or "names" not in content:
        raise UserError(f"{path}: has no `names`, the list of the classes\n{HELP}")
    if unknown := sorted(map(str, content.keys() - _KEYS)):
        raise UserError(f"{path}: has a key {unknown[0]!r}; there are {', '.join(_KEYS)}")
    names = content["names"]
    if isinstance(names, list):
        names = [_as_text(name) if isinstance(name, str) else name for name in names]
    count = len(names) if isinstance(names, list) else 0
    given = {
        "names": names,
        "colors": content.get("colors", [voc_color(index) for index in range(count)]),
        "values": content.get("values", list(range(count))),
        "void": content.get("void", []),
        "sparse": content.get("sparse", False),
    }
    colors, values, void = given["colors"], given["values"], given["void"]
    rules = {
        "names": (
            2 <= count < VOID
            and all(isinstance(name, str) and name for name in names)
            and len(set(names)) == count,
            f"a list of 2 to {VOID - 1} different names",
        ),
        "colors": (
            _is_list(colors, count) and all(map(_is_color, colors)),
            "an RGB color, three whole numbers from 0 to 255, for each name",
        ),
        "values": (
            _is_list(values, count) and all(map(_is_byte, values)) and len(set(values)) == count,
            "a different whole number from 0 to 255 for each name",
        ),
        "void": (
            isinstance(void, list) and all(_is_byte(x) or _is_color(x) for x in void),
            "a list of whole numbers from 0 to 255 and RGB colors",
        ),
        "sparse": (isinstance(given["sparse"], bool), "true or false"),
    }
    check_values(given, rules, f"{path}: ")
    classes = ClassTable(tuple(names), tuple(map(_as_color, colors)))
    void_values = [value for value in void if _is_byte(value)]
    void_colors = [_as_color(color) for color in void if not _is_byte(color)]
    by_color = None
    # Classes of one color differ in the masks by their values, and the colors are for pictures.
    if "colors" in content and len(set(classes.colors)) == count:
        by_color = {color: index for index, color in enumerate(classes.colors)}
    rules = {
        "void": (
            not set(void_values) & set(values)
            and not set(void_colors) & set(by_color or {})
            and not (void_colors and by_color is None),
            "values and colors of no class (colors only if `colors` gives each class its own)",
        )
    }
    check_values(given, rules, f"{path}: ")
    return Labels(
        classes,
        OwnLabels(tuple(values), given["sparse"]),
        {value: index for index, value in enumerate(values)} | dict.fromkeys(void_values, VOID),
        None if by_color is None else by_color | dict.fromkeys(void_colors, VOID),
    )


def _as_text(name: str) -> str:
    """Join the halves of characters, as JSON escapes them; one without the other is no text."""
    return name.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _as_color(value: Any) -> Color:
    red, green, blue = value
    return red, green, blue


def _is_list(value: Any, length: int) -> bool:
    return isinstance(value, list | tuple) and len(value) == length


def _is_byte(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 255


def _is_color(value: Any) -> bool:
    return _is_list(value, 3) and all(map(_is_byte, value))
