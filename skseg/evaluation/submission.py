"""Label maps for the Cityscapes benchmark server and for its evaluation scripts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from skseg.data import LABEL_IDS, OFFICIAL, DatasetSpec, OfficialImages, read_image
from skseg.errors import UserError
from skseg.inference import InferenceSettings, best_device, predict
from skseg.training.task import SegmentationTask
from skseg.types import Image, Mask
from skseg.viz import write_png

_SUFFIX = "_pred_labelIds.png"


class Submission:
    """A folder of label-id PNGs, `CITY_SEQUENCE_FRAME_pred_labelIds.png`, one for each image.

    The benchmark takes any name that starts with the image's city, sequence and frame and ends in
    `.png` (`getPrediction` of cityscapesScripts).

    Attributes:
        images: the split's images by name, `CITY/CITY_SEQUENCE_FRAME`.
        has_truth: whether the split has masks here, so that it can be scored as well.
    """

    def __init__(self, spec: DatasetSpec, root: Path, split: str, folder: Path) -> None:
        """Checks that the result will be a valid submission; nothing is written yet.

        Args:
            spec: cityscapes, or a data set with its classes and names.
            root: Its directory.
            split: val or test; its images are enough.
            folder: To write to; new or empty.

        Raises:
            UserError: Other classes, a split that is not submitted, a folder in use, or images
                whose number or size is not the official one (of `cityscapes`; other data sets
                with its classes have no official number).
        """
        if list(spec.classes.names) != list(LABEL_IDS):
            raise UserError(f"--submission needs the Cityscapes classes; {spec.name} has others")
        if split not in OFFICIAL.counts:
            raise UserError(f"--submission is for {' or '.join(OFFICIAL.counts)}, not {split}")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"--submission {folder}: exists and is not an empty folder")
        images, masks = spec.find(root, split)
        if not images:
            raise UserError(f"no {spec.name} images for split {split!r} in {root}\n{spec.help}")
        self.folder = folder
        self.images = {name: images[name] for name in sorted(images)}
        self.has_truth = bool(masks)
        if spec.official is not None:
            _check_official(self.images, split, spec.official)

    def write(self, name: str, indices: Mask) -> None:
        """Write one image's class indices [H, W] as label ids.

        Raises:
            UserError: They have another size than the image.
        """
        with PillowImage.open(self.images[name]) as image:
            if image.size != indices.shape[::-1]:
                raise UserError(
                    f"{name}: {indices.shape[::-1]} pixels for an image of {image.size}"
                )
        self.folder.mkdir(parents=True, exist_ok=True)
        table = np.array(list(LABEL_IDS.values()), np.uint8)
        write_png(self.folder / f"{name.split('/')[-1]}{_SUFFIX}", table[indices])

    def write_all(self, task: SegmentationTask, settings: InferenceSettings, workers: int) -> None:
        """Segment and write every image, for a split without masks."""
        task = task.to(best_device()).eval()
        loader = DataLoader(_Files([*self.images.values()]), batch_size=None, num_workers=workers)
        pictures = track(loader, "predicting", total=len(self.images), transient=True)
        for name, picture in zip(self.images, pictures, strict=True):
            self.write(name, predict(task, np.asarray(picture), settings).indices)


class _Files(Dataset[Image]):
    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image:
        return read_image(self.paths[index])


def _check_official(images: dict[str, Path], split: str, official: OfficialImages) -> None:
    if len(images) != official.counts[split]:
        raise UserError(
            f"--submission: split {split} has {len(images)} images here, "
            f"the benchmark's has {official.counts[split]}"
        )
    height, width = official.size
    for path in images.values():
        with PillowImage.open(path) as image:
            if image.size != (width, height):
                raise UserError(
                    f"{path}: has {image.size[0]}x{image.size[1]} pixels, "
                    f"the benchmark's images have {width}x{height}"
                )
