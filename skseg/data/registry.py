"""The table of data sets."""

import difflib

from skseg.data.camvid import CAMVID
from skseg.data.cityscapes import CITYSCAPES
from skseg.data.dataset import DatasetSpec
from skseg.data.streets import STREETS
from skseg.errors import UserError

DATASETS: dict[str, DatasetSpec] = {spec.name: spec for spec in (CITYSCAPES, CAMVID, STREETS)}
"""The known data sets by name."""


def get_dataset(name: str) -> DatasetSpec:
    """Gives a data set by name.

    Raises:
        UserError: There is none of this name; says which ones are near.
    """
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UserError(f"no data set {name!r}; {hint}there are {', '.join(DATASETS)}")
    return DATASETS[name]
