"""Label maps for the Cityscapes benchmark server and for its evaluation scripts."""

from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from skseg.data import LABEL_IDS, OFFICIAL, DatasetSpec, OfficialImages, read_image
from skseg.errors import UserError
from skseg.evaluation.reading import read_ahead
from skseg.inference import InferenceSettings, best_device, predict
from skseg.progress import track
from skseg.training.task import SegmentationTask
from skseg.types import Mask
from skseg.viz import write_png

_SUFFIX = "_pred_labelIds.png"


class Submission:
    """A folder of label-id PNGs, `CITY_SEQUENCE_FRAME_pred_labelIds.png`, one for each image.

    The benchmark accepts any name that starts with the image's city, sequence and frame and ends in
    `.png` (`getPrediction` of cityscapesScripts).

    Args:
        spec: cityscapes, or a data set with its classes and names.
        root: The data set's directory.
        split: val or test; only its images are needed.
        folder: The folder to write to; new or empty.

    Attributes:
        images: The split's images by name, `CITY/CITY_SEQUENCE_FRAME`.
        has_truth: Whether the split has masks, so that it can be scored as well.

    Raises:
        UserError: The classes are not those of Cityscapes, the split is not one that is submitted,
            the folder is in use, or (for `cityscapes` itself) the number or a size of images is
            not the benchmark's.
    """

    def __init__(self, spec: DatasetSpec, root: Path, split: str, folder: Path) -> None:
        if list(spec.classes.names) != list(LABEL_IDS):
            raise UserError(
                f"a submission must have the Cityscapes classes; {spec.name} has others"
            )
        if split not in OFFICIAL.counts:
            raise UserError(f"`split` must be {' or '.join(OFFICIAL.counts)}, got {split}")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"folder {folder}: exists and is not an empty folder")
        images, masks = (found.by_name for found in spec.find(root, split))
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
            UserError: The indices do not have the image's size.
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
        pictures = read_ahead(read_image, [*self.images.values()], workers)
        for name in track(self.images, "predicting"):
            self.write(name, predict(task, next(pictures), settings).indices)


def _check_official(images: dict[str, Path], split: str, official: OfficialImages) -> None:
    if len(images) != official.counts[split]:
        raise UserError(
            f"split {split} has {len(images)} images, the benchmark's has {official.counts[split]}"
        )
    height, width = official.size
    for path in images.values():
        with PillowImage.open(path) as image:
            if image.size != (width, height):
                raise UserError(
                    f"{path}: has {image.size[0]}x{image.size[1]} pixels, "
                    f"the benchmark's images have {width}x{height}"
                )
