"""Segmentation of a user's own pictures."""

from pathlib import Path

import cv2
import numpy as np
import torch
from rich.progress import track

from skseg.data import IMAGE_SUFFIXES, eval_transform, read_image
from skseg.errors import UserError
from skseg.evaluation import best_device
from skseg.report import Image, overlay
from skseg.task import SegmentationTask


@torch.inference_mode()
def predict_files(task: SegmentationTask, source: Path, output: Path) -> int:
    """Write `NAME.png`, class indices, and `NAME_overlay.png` for every picture.

    Args:
        task: a trained model, see `skseg.load_model`.
        source: a picture, or a folder whose pictures are taken, below it too.
        output: folder of the results, which keeps the source's structure.

    Returns:
        The number of pictures.

    Raises:
        UserError: there is no picture, one cannot be read, or a result exists already.
    """
    pictures = _find_pictures(source)
    base = source if source.is_dir() else source.parent
    targets = [output / path.relative_to(base).with_suffix("") for path in pictures]
    _refuse_to_overwrite(pictures, targets)
    device = best_device()
    task = task.to(device).eval()
    transform = eval_transform(task.mean, task.std)
    for path, target in track(
        list(zip(pictures, targets, strict=True)), "predicting", transient=True
    ):
        image = read_image(path)
        batch = transform(image=image)["image"][None].to(device)
        indices = task(batch)[0].argmax(0).cpu().numpy().astype(np.uint8)
        target.parent.mkdir(parents=True, exist_ok=True)
        painted = overlay(image, indices, task.colors)
        _write(target.with_name(f"{target.name}.png"), indices)
        _write(target.with_name(f"{target.name}_overlay.png"), painted[..., ::-1])
    return len(pictures)


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


def _write(path: Path, pixels: Image) -> None:
    if not cv2.imwrite(str(path), pixels):
        raise UserError(f"{path}: cannot be written")
