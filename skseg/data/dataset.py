"""The description of a data set, and the torch `Dataset` over one of its splits."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypedDict

import torch
from torch.utils.data import Dataset

from skseg.data.files import read_image
from skseg.data.transforms import Transform, reseed
from skseg.errors import UserError, check_class_names
from skseg.types import VOID, Image, Mask


class DatasetItem(TypedDict):
    """One item of a `SegmentationDataset`; a loader collates items to a `skseg.types.Batch`.

    Attributes:
        image: Normalized RGB image, float32 [3, H, W].
        mask: Class indices, int64 [H, W]; `VOID` where there is no class.
        name: Name that is unique in the split and usable as a relative file stem.
    """

    image: torch.Tensor
    mask: torch.Tensor
    name: str


class Pair(NamedTuple):
    """The files of an image and of its mask, and the name of both."""

    image: Path
    mask: Path
    name: str


@dataclass(frozen=True)
class ClassTable:
    """The classes of a data set, in the order of their indices.

    Attributes:
        names: A name for each class.
        colors: An RGB color for each class, 0 to 255.
        categories: The category of each class, where the data set has categories.

    Example:
        >>> classes = ClassTable(names=("sky", "road"), colors=((70, 130, 180), (128, 64, 128)))
        >>> len(classes)
        2
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    categories: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        assert len(self.names) == len(self.colors), "a color for each name"
        assert self.categories is None or len(self.names) == len(self.categories)
        assert len(self.names) < VOID, "class indices must stay below void"
        check_class_names(self.names)

    def __len__(self) -> int:
        return len(self.names)


class OfficialImages(NamedTuple):
    """The images that a benchmark scores.

    Attributes:
        counts: The number of images by split.
        size: Height and width of every image.
    """

    counts: Mapping[str, int]
    size: tuple[int, int]


@dataclass(frozen=True)
class DatasetSpec:
    """Everything that is specific to one data set.

    Attributes:
        name: Its key in `skseg.data.DATASETS`.
        classes: The class table.
        splits: The names of its splits.
        find: Maps the root and a split to the image files and the mask files, each by the name
            that pairs them. Returns two empty dicts where there are no files.
        read_mask: Maps a mask file to class indices, uint8 [H, W], void 255;
            `files.read_indices` and `files.remap` do the work and the checks.
        help: The layout below the root and how to get the data, for the error message.
        official: The images that the data set's benchmark scores, where it has one.
        is_drawn: Whether its scenes can be drawn again; see `skseg.streets.redraw`.

    Example:
        >>> from skseg.data import get_dataset
        >>> spec = get_dataset("cityscapes")
        >>> len(spec.classes), spec.splits
        (19, ('train', 'val', 'test'))
    """

    name: str
    classes: ClassTable
    splits: tuple[str, ...]
    find: Callable[[Path, str], tuple[Mapping[str, Path], Mapping[str, Path]]]
    read_mask: Callable[[Path], Mask]
    help: str
    official: OfficialImages | None = None
    is_drawn: bool = False

    def pairs(self, root: Path, split: str) -> list[Pair]:
        """Find the images of a split with their masks, sorted by name.

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


def read_pair(spec: DatasetSpec, pair: Pair) -> tuple[Image, Mask]:
    """Read an image, uint8 RGB [H, W, 3], and its mask, uint8 class indices [H, W].

    Raises:
        UserError: A file cannot be read, or the two have different sizes; the message names the
            file.
    """
    image, mask = read_image(pair.image), spec.read_mask(pair.mask)
    if image.shape[:2] != mask.shape:
        (h, w), (mask_h, mask_w) = image.shape[:2], mask.shape
        raise UserError(
            f"{pair.mask}: the mask has {mask_w}x{mask_h} pixels, "
            f"but its image {pair.image} has {w}x{h}"
        )
    return image, mask


class SegmentationDataset(Dataset[DatasetItem]):
    """One split of a data set, read from its files and transformed.

    Args:
        spec: The data set, from `skseg.data.get_dataset`.
        root: Its directory.
        split: One of `spec.splits`.
        transform: A transform from `skseg.data.transforms` that nothing else uses, because it is
            reseeded.

    Raises:
        UserError: As `DatasetSpec.pairs`.
    """

    def __init__(self, spec: DatasetSpec, root: str | Path, split: str, transform: Transform):
        self.spec = spec
        self.pairs = spec.pairs(Path(root), split)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: int | tuple[int, int] | None) -> DatasetItem:
        """Read and transform one pair.

        Args:
            key: An index, or an index and a seed. With a seed the item depends on nothing else,
                whichever worker reads it; without one a random transform is random. None returns
                the first pair with an all-void mask.

        Raises:
            UserError: A file cannot be read, or image and mask have different sizes; the message
                names the file.
        """
        if key is None:
            item = self[0]
            item["mask"].fill_(VOID)
            return item
        index, seed = key if isinstance(key, tuple) else (key, None)
        pair = self.pairs[index]
        image, mask = read_pair(self.spec, pair)
        if seed is not None:
            reseed(self.transform, seed)
        tensors = self.transform(image=image, mask=mask)
        return {"image": tensors["image"], "mask": tensors["mask"].long(), "name": pair.name}
