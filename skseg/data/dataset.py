"""What a data set is, and the torch `Dataset` over one split of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import torch
from torch.utils.data import Dataset

from skseg.data.files import ImageArray, IndexMask, read_image
from skseg.data.transforms import Transform, reseed
from skseg.errors import UserError
from skseg.types import VOID


class Sample(TypedDict):
    """One item of a `SegmentationDataset`; `skseg.types.Batch` is what collating makes of it.

    Attributes:
        image: Normalised RGB, float32 `[3, H, W]`.
        mask: Class indices, int64 `[H, W]`; void is 255.
        name: Unique in the split, and usable as a relative file stem.
    """

    image: torch.Tensor
    mask: torch.Tensor
    name: str


class Pair(NamedTuple):
    """An image, its mask and the name of both."""

    image: Path
    mask: Path
    name: str


@dataclass(frozen=True)
class ClassTable:
    """The classes of a data set, in the order of their indices.

    Attributes:
        names: A name for each class.
        colors: An RGB colour for each class, 0 to 255.
        categories: The category of each class, where the data set has such.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    categories: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        assert len(self.names) == len(self.colors), "a colour for each name"
        assert self.categories is None or len(self.names) == len(self.categories)
        assert len(self.names) < VOID, "class indices must stay below void"

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class DatasetSpec:
    """All that is special about one data set.

    Attributes:
        name: Its key in `skseg.data.DATASETS`.
        classes: The class table.
        splits: The names of its splits.
        find: Takes the root and a split, and gives the files of the images and those of the
            masks by the name that pairs them. Gives two empty dicts where there is nothing.
        read_mask: Takes a mask's file and gives uint8 class indices `[H, W]`, void 255.
            `files.read_indices` and `files.remap` do the work and the checks.
        help: The layout below the root and how to get the data, for the error message.
    """

    name: str
    classes: ClassTable
    splits: tuple[str, ...]
    find: Callable[[Path, str], tuple[Mapping[str, Path], Mapping[str, Path]]]
    read_mask: Callable[[Path], IndexMask]
    help: str

    def pairs(self, root: Path, split: str) -> list[Pair]:
        """Finds the images of a split with their masks, sorted by name.

        Raises:
            UserError: The split does not exist, has no data below `root`, or has an image
                without a mask or a mask without an image.
        """
        if split not in self.splits:
            raise UserError(f"{self.name} has no split {split!r}; it has {', '.join(self.splits)}")
        images, masks = self.find(root, split)
        if not images and not masks:
            state = "has none" if root.is_dir() else "is not a directory"
            raise UserError(f"no {self.name} data for split {split!r}: {root} {state}\n{self.help}")
        lonely = {
            "image(s) without a mask": [images[name] for name in sorted(images.keys() - masks)],
            "mask(s) without an image": [masks[name] for name in sorted(masks.keys() - images)],
        }
        problems = [
            f"{len(paths)} {kind}: {', '.join(map(str, paths[:3]))}{', ...' * (len(paths) > 3)}"
            for kind, paths in lonely.items()
            if paths
        ]
        if problems:
            raise UserError(f"{self.name}, split {split!r}: {'; '.join(problems)}\n{self.help}")
        return [Pair(images[name], masks[name], name) for name in sorted(images)]


def read_pair(spec: DatasetSpec, pair: Pair) -> tuple[ImageArray, IndexMask]:
    """Reads an image, uint8 RGB `[H, W, 3]`, and its mask, uint8 class indices `[H, W]`.

    Raises:
        UserError: A file cannot be read, or the two do not fit; names the file.
    """
    image, mask = read_image(pair.image), spec.read_mask(pair.mask)
    if image.shape[:2] != mask.shape:
        (h, w), (mask_h, mask_w) = image.shape[:2], mask.shape
        raise UserError(
            f"{pair.mask}: the mask has {mask_w}x{mask_h} pixels, "
            f"but its image {pair.image} has {w}x{h}"
        )
    return image, mask


class SegmentationDataset(Dataset[Sample]):
    """One split of a data set, read from its files and transformed."""

    def __init__(self, spec: DatasetSpec, root: str | Path, split: str, transform: Transform):
        """Finds the files; none is read yet.

        Args:
            spec: The data set, from `skseg.data.get_dataset`.
            root: Its directory.
            split: One of `spec.splits`.
            transform: From `skseg.data.transforms`; this object's own, as it is reseeded.

        Raises:
            UserError: As `DatasetSpec.pairs`.
        """
        self.spec = spec
        self.pairs = spec.pairs(Path(root), split)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: int | tuple[int, int] | None) -> Sample:
        """Reads and transforms one pair.

        Args:
            key: An index, or an index and a seed: with a seed the sample depends on nothing
                else, whichever worker draws it; without one a random transform is random. None
                gives the first pair with all of its mask void.

        Raises:
            UserError: A file cannot be read, or image and mask do not fit; names the file.
        """
        if key is None:
            sample = self[0]
            sample["mask"].fill_(VOID)
            return sample
        index, seed = key if isinstance(key, tuple) else (key, None)
        pair = self.pairs[index]
        image, mask = read_pair(self.spec, pair)
        if seed is not None:
            reseed(self.transform, seed)
        drawn: dict[str, Any] = self.transform(image=image, mask=mask)
        return {"image": drawn["image"], "mask": drawn["mask"].long(), "name": pair.name}
