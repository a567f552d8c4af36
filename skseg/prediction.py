"""Segmentation of pictures without truth."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from skseg.data import IMAGE_SUFFIXES, read_image
from skseg.errors import UserError
from skseg.evaluation import best_device
from skseg.inference import InferenceSettings, predict
from skseg.report import Image, overlay
from skseg.task import SegmentationTask


class _Files(Dataset[Image]):
    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image:
        return read_image(self.paths[index])


def segment(
    task: SegmentationTask,
    paths: Sequence[Path],
    settings: InferenceSettings,
    num_workers: int = 1,
) -> Iterator[tuple[Image, Image]]:
    """Yield each picture, [H, W, 3] uint8 RGB, and its class indices, [H, W] uint8.

    Args:
        task: a trained model, see `skseg.load_model`.
        paths: of the pictures.
        settings: how they go through the network.
        num_workers: processes that read pictures while the network works.

    Raises:
        UserError: a picture cannot be read.
    """
    task = task.to(best_device()).eval()
    loader = DataLoader(_Files(paths), batch_size=None, num_workers=num_workers)
    for picture in track(loader, "predicting", total=len(paths), transient=True):
        image = np.asarray(picture)
        yield image, predict(task, image, settings).indices


def predict_files(
    task: SegmentationTask,
    source: Path,
    output: Path,
    settings: InferenceSettings = InferenceSettings(),  # noqa: B008  frozen
    num_workers: int = 1,
) -> int:
    """Write `NAME.png`, class indices, and `NAME_overlay.png` for every picture.

    Args:
        task: a trained model, see `skseg.load_model`.
        source: a picture, or a folder whose pictures are taken, below it too.
        output: folder of the results, which keeps the source's structure.
        settings: how pictures go through the network.
        num_workers: processes that read pictures while the network works.

    Returns:
        The number of pictures.

    Raises:
        UserError: there is no picture, one cannot be read, or a result exists already.
    """
    pictures = _find_pictures(source)
    base = source if source.is_dir() else source.parent
    targets = [output / path.relative_to(base).with_suffix("") for path in pictures]
    _refuse_to_overwrite(pictures, targets)
    segmented = segment(task, pictures, settings, num_workers)
    for target, (image, indices) in zip(targets, segmented, strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_png(target.with_name(f"{target.name}.png"), indices)
        painted = overlay(image, indices, task.colors)
        write_png(target.with_name(f"{target.name}_overlay.png"), painted[..., ::-1])
    return len(pictures)


def write_png(path: Path, pixels: Image) -> None:
    """Write grey [H, W] or BGR [H, W, 3] uint8.

    Raises:
        UserError: the file cannot be written.
    """
    if not cv2.imwrite(str(path), pixels):
        raise UserError(f"{path}: cannot be written")


def _find_pictures(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise UserError(f"--input {source}: no such file or folder")
    found = sorted(p for p in source.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise UserError(f"--input {source}: no picture ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return found


def _refuse_to_overwrite(pictures: list[Path], targets: list[Path]) -> None:
    claimed: dict[Path, Path] = {}
    for path, target in zip(pictures, targets, strict=True):
        for suffix in (".png", "_overlay.png"):
            result = target.with_name(target.name + suffix)
            if result in claimed:
                raise UserError(f"{path} and {claimed[result]} would both be written to {result}")
            if result.exists():
                raise UserError(f"{result} exists already; choose another --output")
            claimed[result] = path
