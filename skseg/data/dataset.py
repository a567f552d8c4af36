"""The description of a data set, and the torch `Dataset` over one of its splits."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypedDict

import torch
from torch.utils.data import Dataset

from skseg.data.files import read_image
from skseg.data.finding import NamedFiles, describe_left_out, pairing_key
from skseg.data.transforms import Transform, reseed
from skseg.errors import UserError, check_class_names
from skseg.progress import say_once
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


class OwnLabels(NamedTuple):
    """How a user describes the labels in the masks of their own data.

    Attributes:
        values: The value of each class in masks without colors.
        is_sparse: Whether a class may have no pixel in the training set, and more than half of all
            pixels may be void.
    """

    values: tuple[int, ...]
    is_sparse: bool


class PairListing(NamedTuple):
    """What a search for the images and masks of a split found.

    Attributes:
        pairs: The images that have a mask, sorted by name.
        problems: One line for each kind of file that is not part of exactly one pair.
        left_out: What does not belong to the split, in a line; empty if nothing.
    """

    pairs: list[Pair]
    problems: list[str]
    left_out: str


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
            that pairs them; `finding.list_files` and `finding.name_files` do the work. Without
            files, both are empty.
        read_mask: Maps a mask file to class indices, uint8 [H, W], void 255;
            `files.read_indices` and `masks.remap` do the work and the checks.
        help: The layout below the root and how to get the data, for the error message.
        official: The images that the data set's benchmark scores, where it has one.
        is_drawn: Whether its scenes can be drawn again; see `skseg.streets.redraw`.
        own_labels: How a user describes the labels; None where the class table is known to fit.
            `skseg.data.labels` checks the masks against it before training.
        uses_colors: Whether palette masks are read by their colors, not by their indices.

    Example:
        >>> from skseg.data import get_dataset
        >>> spec = get_dataset("cityscapes")
        >>> len(spec.classes), spec.splits
        (19, ('train', 'val', 'test'))
    """

    name: str
    classes: ClassTable
    splits: tuple[str, ...]
    find: Callable[[Path, str], tuple[NamedFiles, NamedFiles]]
    read_mask: Callable[[Path], Mask]
    help: str
    official: OfficialImages | None = None
    is_drawn: bool = False
    own_labels: OwnLabels | None = None
    uses_colors: bool = False

    def pairs(self, root: Path, split: str) -> list[Pair]:
        """Find the images of a split with their masks, sorted by name.

        A message says once what is in the split's folders and does not belong to it.

        Raises:
            UserError: The split does not exist, has no data below `root`, or has an image
                without a mask, a mask without an image, or two files of one name.
        """
        listing = self.list_pairs(root, split)
        if listing.problems:
            problems = "; ".join(listing.problems)
            raise UserError(f"{self.name}, split {split!r}: {problems}\n{self.help}")
        if listing.left_out:
            say_once(f"{self.name}, split {split!r}: {listing.left_out}")
        return listing.pairs

    def list_pairs(self, root: Path, split: str) -> PairListing:
        """Find the images of a split with their masks, and what is wrong with the others.

        Raises:
            UserError: The split does not exist, or has no data below `root`.
        """
        if split not in self.splits:
            raise UserError(f"{self.name} has no split {split!r}; it has {', '.join(self.splits)}")
        images, masks = self.find(root, split)
        if not images.by_name and not masks.by_name:
            state = "has none" if root.is_dir() else "is not a directory"
            raise UserError(f"no {self.name} data for split {split!r}: {root} {state}\n{self.help}")
        mask_of = {pairing_key(name): path for name, path in masks.by_name.items()}
        image_keys = {pairing_key(name) for name in images.by_name}
        pairs = []
        without_mask = []
        for name, path in sorted(images.by_name.items()):
            if mask := mask_of.get(pairing_key(name)):
                pairs.append(Pair(path, mask, name))
            else:
                without_mask.append(path)
        without_image = [mask_of[key] for key in sorted(mask_of.keys() - image_keys)]
        wrong: dict[str, Sequence[object]] = {
            "image(s) without a mask": without_mask,
            "mask(s) without an image": without_image,
            "name(s) of two files, of which one must be removed": images.doubles + masks.doubles,
        }
        problems = [
            f"{len(found)} {kind}: {', '.join(map(str, found[:3]))}{', ...' * (len(found) > 3)}"
            for kind, found in wrong.items()
            if found
        ]
        left_out = describe_left_out(images.left_out + masks.left_out)
        return PairListing(pairs, problems, left_out)


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
