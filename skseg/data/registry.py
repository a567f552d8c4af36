"""The table of data sets."""

from collections.abc import Callable
from pathlib import Path

from skseg.data.camvid import CAMVID
from skseg.data.cityscapes import CITYSCAPES, STREETS
from skseg.data.dataset import DatasetSpec
from skseg.data.folder import folder_dataset
from skseg.errors import UserError, near_names

DATASETS: dict[str, DatasetSpec] = {spec.name: spec for spec in (CITYSCAPES, CAMVID, STREETS)}
"""The data sets by name."""

_READERS: dict[str, Callable[[Path], DatasetSpec]] = {"folder": folder_dataset}
"""By name, readers of the data sets that describe themselves in a file in their root."""


def default_root(name: str) -> Path:
    """Return the directory of a data set where none is given.

    Example:
        >>> default_root("camvid").as_posix()
        'data/camvid'
    """
    return Path("data") / name


def get_dataset(name: str, root: str | Path | None = None) -> DatasetSpec:
    """Return a data set by name.

    Args:
        name: A key of `DATASETS`, or "folder".
        root: The directory of the data, `default_root` if None. Only "folder" reads it: its
            `classes.yaml` describes the data set.

    Raises:
        UserError: There is no data set of this name; the message lists near names.

    Example:
        >>> spec = get_dataset("camvid")
        >>> spec.classes.names[:3], spec.classes.colors[0]
        (('sky', 'building', 'pole'), (128, 128, 128))
    """
    if name in DATASETS:
        return DATASETS[name]
    if name in _READERS:
        return _READERS[name](Path(root or default_root(name)))
    raise UserError(f"no data set {name!r}{near_names(name, [*DATASETS, *_READERS])}")
