"""A user's own data: `images/` and `masks/` per split, and `classes.yaml` beside the splits."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from skseg.data.dataset import ClassTable, DatasetSpec
from skseg.data.files import IMAGE_SUFFIXES, files_by_name, read_indices, remap
from skseg.errors import UserError, check_values
from skseg.pixels import voc_color
from skseg.types import VOID, Mask

HELP = """Looked for:
  ROOT/SPLIT/images/NAME.jpg (or .png, .tif, ...) and ROOT/SPLIT/masks/NAME.png,
    where SPLIT is train, val, or the name of another split
  ROOT/classes.yaml:
    names: [background, crack]
    colors: [[0, 0, 0], [255, 0, 0]]  # optional
    values: [0, 255]  # of the classes in the masks; 0, 1, 2, ... by default"""
_KEYS = ("names", "colors", "values")


def folder_dataset(root: Path) -> DatasetSpec:
    """Describe the data set in a folder by its `classes.yaml`.

    Raises:
        UserError: There is no such file, or it does not define valid classes.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> (root / "train" / "images").mkdir(parents=True)
        >>> _ = (root / "classes.yaml").write_text("names: [background, crack]")
        >>> spec = folder_dataset(root)
        >>> spec.classes.names, spec.splits
        (('background', 'crack'), ('train',))
    """
    path = root / "classes.yaml"
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})\n{HELP}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: is not YAML ({reason})") from error
    names, colors, values = _parse_classes(content, path)
    return DatasetSpec(
        name="folder",
        classes=ClassTable(names, colors),
        splits=tuple(sorted(p.parent.name for p in root.glob("*/images") if p.is_dir())),
        find=find,
        read_mask=partial(read_mask, {value: index for index, value in enumerate(values)}),
        help=HELP,
    )


def find(root: Path, split: str) -> tuple[Mapping[str, Path], Mapping[str, Path]]:
    """Find images and masks by their path below their folder, without the suffix."""
    return _by_stem(root / split / "images"), _by_stem(root / split / "masks")


def read_mask(classes: Mapping[int, int], path: Path) -> Mask:
    """Read a mask whose values are keys of `classes`; 255 is void unless it is one of them."""
    return remap(read_indices(path), classes, path)


def _by_stem(folder: Path) -> dict[str, Path]:
    files = (file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    return files_by_name(files, lambda file: file.relative_to(folder).with_suffix("").as_posix())


def _parse_classes(
    content: Any, path: Path
) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...], list[int]]:
    if not isinstance(content, dict) or "names" not in content:
        raise UserError(f"{path}: has no `names`, the list of the classes\n{HELP}")
    if unknown := sorted(map(str, content.keys() - _KEYS)):
        raise UserError(f"{path}: has a key {unknown[0]!r}; there are {', '.join(_KEYS)}")
    names = content["names"]
    count = len(names) if isinstance(names, list) else 0
    colors = content.get("colors", [voc_color(index) for index in range(count)])
    values = content.get("values", list(range(count)))
    rules = {
        "names": (
            2 <= count < VOID
            and all(isinstance(name, str) and name for name in names)
            and len(set(names)) == count,
            f"a list of 2 to {VOID - 1} different names",
        ),
        "colors": (
            _is_list(colors, count) and all(_is_list(c, 3) and _are_bytes(c) for c in colors),
            "an RGB color, three whole numbers from 0 to 255, for each name",
        ),
        "values": (
            _is_list(values, count) and _are_bytes(values) and len(set(values)) == count,
            "a different whole number from 0 to 255 for each name",
        ),
    }
    check_values({"names": names, "colors": colors, "values": values}, rules, f"{path}: ")
    return tuple(names), tuple((red, green, blue) for red, green, blue in colors), values


def _is_list(value: Any, length: int) -> bool:
    return isinstance(value, list | tuple) and len(value) == length


def _are_bytes(values: Any) -> bool:
    return all(type(value) is int and 0 <= value <= 255 for value in values)
