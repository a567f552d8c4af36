"""Segmentation of a user's own pictures."""

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from rich.progress import track

from skseg.data import IMAGE_SUFFIXES, read_image
from skseg.errors import UserError
from skseg.inference.image import predict, predict_bands
from skseg.inference.logits import Network
from skseg.inference.settings import InferenceSettings, best_device
from skseg.viz import Image, overlay


class Prediction(NamedTuple):
    """What became of one picture.

    Attributes:
        picture: its file.
        error: what went wrong; None if its results are written.
    """

    picture: Path
    error: UserError | None


def predict_files(
    task: Network,
    source: str,
    output: Path,
    settings: InferenceSettings = InferenceSettings(),  # noqa: B008  frozen
    probabilities: bool = False,
    overwrite: bool = False,
) -> Iterator[Prediction]:
    """Segment pictures one by one; a picture that fails does not keep the others.

    Writes `NAME.png`, class indices, and `NAME_overlay.png`; with `probabilities` also
    `NAME.npz`, whose `probabilities` are float16 [K, H, W]. All are of the picture's own size.

    Args:
        task: a trained model, see `skseg.load_model`.
        source: a picture, a folder whose pictures are taken, below it too, or a glob pattern.
        output: folder of the results, which keeps the structure below the source's folder, or
            below the folder of a pattern before its first wildcard.
        settings: how pictures go through the network.
        probabilities: whether to write those.
        overwrite: whether to replace results that exist.

    Yields:
        What became of each picture, when it is done.

    Raises:
        UserError: before the first picture: there is none, two have the same results, or a result
            exists already.
    """
    base, pictures = find_pictures(source)
    suffixes = [".png", "_overlay.png", *([".npz"] if probabilities else [])]
    results = [
        [output / f"{path.relative_to(base).with_suffix('')}{suffix}" for suffix in suffixes]
        for path in pictures
    ]
    _check_results(pictures, results, overwrite)
    task = task.to(best_device()).eval()
    for path, files in track(
        list(zip(pictures, results, strict=True)), "predicting", transient=True
    ):
        try:
            _predict_file(task, path, files, settings)
        except UserError as error:
            yield Prediction(path, error)
        else:
            yield Prediction(path, None)


def find_pictures(source: str) -> tuple[Path, list[Path]]:
    """Find the pictures of a file's name, a folder or a glob pattern.

    Returns:
        The folder whose structure results keep, and the pictures, sorted.

    Raises:
        UserError: there is no picture.
    """
    path = Path(source)
    if path.is_file():
        return path.parent, [path]
    if path.is_dir():
        base, candidates = path, list(path.rglob("*"))
    elif glob.has_magic(source):
        first = next(i for i, part in enumerate(path.parts) if glob.has_magic(part))
        base = Path(*path.parts[:first])
        candidates = [Path(found) for found in glob.glob(source, recursive=True)]
    else:
        raise UserError(f"--input {source}: no such file or folder")
    found = sorted(p for p in candidates if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not found:
        raise UserError(f"--input {source}: no picture ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return base, found


@torch.inference_mode()
def _predict_file(
    task: Network, path: Path, files: list[Path], settings: InferenceSettings
) -> None:
    image = read_image(path)
    indices = predict(task, image, settings).indices
    try:
        files[0].parent.mkdir(parents=True, exist_ok=True)
        write_png(files[0], indices)
        write_png(files[1], overlay(image, indices, task.colors))
        for file in files[2:]:
            bands = [p.half().cpu().numpy() for _, p in predict_bands(task, image, settings)]
            np.savez_compressed(file, probabilities=np.concatenate(bands, axis=1))
    except OSError as error:
        raise UserError(f"{files[0]}: cannot be written ({error.strerror})") from error


def write_png(path: Path, pixels: Image) -> None:
    """Write class indices [H, W] or an RGB picture [H, W, 3], both uint8.

    Raises:
        OSError: the file cannot be written.
    """
    in_file_order = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    path.write_bytes(bytes(cv2.imencode(".png", in_file_order)[1]))


def _check_results(pictures: list[Path], results: list[list[Path]], overwrite: bool) -> None:
    sources = {path.resolve() for path in pictures}
    claimed: dict[Path, Path] = {}
    for path, files in zip(pictures, results, strict=True):
        for file in files:
            if file.resolve() in sources:
                raise UserError(f"{file} is one of the pictures; choose another --output")
            if file in claimed:
                raise UserError(f"{path} and {claimed[file]} would both be written to {file}")
            if file.exists() and not overwrite:
                raise UserError(f"{file} exists already; choose another --output, or --overwrite")
            claimed[file] = path
