"""The table of data sets."""

import difflib
from pathlib import Path

from skseg.data.camvid import CAMVID
from skseg.data.cityscapes import CITYSCAPES, STREETS
from skseg.data.dataset import DatasetSpec
from skseg.data.folder import folder_dataset
from skseg.errors import UserError

DATASETS: dict[str, DatasetSpec] = {spec.name: spec for spec in (CITYSCAPES, CAMVID, STREETS)}
"""The known data sets by name; a "folder" is described by its own files."""


def get_dataset(name: str, root: str | Path | None = None) -> DatasetSpec:
    """Gives a data set by name.

    Args:
        name: A key of `DATASETS`, or "folder".
        root: The directory of the data, whose `classes.yaml` says what a "folder" has; data/folder
            if not given.

    Raises:
        UserError: There is none of this name; says which ones are near.
    """
    if name == "folder":
        return folder_dataset(Path(root or "data/folder"))
    if name not in DATASETS:
        known = [*DATASETS, "folder"]
        near = difflib.get_close_matches(name, known)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UserError(f"no data set {name!r}; {hint}there are {', '.join(known)}")
    return DATASETS[name]
