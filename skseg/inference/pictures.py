"""Segmentation of a user's own image files."""

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image as PillowImage

from skseg.data import IMAGE_SUFFIXES, read_image
from skseg.errors import UserError, check_values
from skseg.files import whole_file
from skseg.inference.image import predict, predict_probabilities
from skseg.inference.logits import Network
from skseg.inference.settings import InferenceSettings, best_device
from skseg.progress import track
from skseg.viz import overlay, write_png

MAX_PIXELS = 2**28
"""Pixels of the largest image that is decoded, unless a caller allows more: 16384x16384."""

_OPENCV_LIMIT = 2**30  # OpenCV decodes no larger image


class PictureResult(NamedTuple):
    """The outcome for one image file.

    Attributes:
        picture: The file.
        error: The error; None if the results are there.
        is_new: Whether this call wrote the results; with `resume` they may have been there.
    """

    picture: Path
    error: UserError | None
    is_new: bool = True


def predict_files(
    network: Network,
    source: str,
    output: Path,
    settings: InferenceSettings = InferenceSettings(),  # noqa: B008  frozen
    probabilities: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[PictureResult]:
    """Segment image files one by one; a file that fails does not stop the others.

    For each file NAME, write class indices to `NAME.png` and an overlay to `NAME_overlay.png`; with
    `probabilities` also `NAME.npz`, whose `probabilities` are float16 [K, H, W]. All have the size
    of the image. Each file appears whole or not at all.

    Args:
        network: A trained model, see `skseg.load_model`.
        source: A file, a folder that is searched with its subfolders, or a glob pattern.
        output: Folder of the results. It keeps the structure below the source's folder, or below
            the last folder of a pattern before its first wildcard.
        settings: How images go through the network.
        probabilities: Whether to write probabilities.
        overwrite: Whether to replace existing results.
        resume: Whether to skip images all of whose results exist, whichever model wrote them.
        max_pixels: Pixels of the largest image that is decoded. The headers of larger ones decide,
            so that a small file cannot fill the memory.

    Yields:
        The outcome for each file, when it is done.

    Raises:
        UserError: Before the first image: there is none, two would have the same results, a
            result already exists, or a value is out of range.
    """
    is_valid = 1 <= max_pixels <= _OPENCV_LIMIT
    check_values({"max_pixels": max_pixels}, {"max_pixels": (is_valid, "from 1 to 2^30")})
    if overwrite and resume:
        raise UserError("`overwrite` and `resume` contradict each other; choose one")
    base, pictures = find_pictures(source)
    if base.resolve() in output.resolve().parents:  # do not segment the results of earlier calls
        pictures = [path for path in pictures if output.resolve() not in path.resolve().parents]
        if not pictures:
            raise UserError(f"{source}: all its images are in the `output` {output}")
    suffixes = [".png", "_overlay.png", *([".npz"] if probabilities else [])]
    results = [
        [output / f"{path.relative_to(base).with_suffix('')}{suffix}" for suffix in suffixes]
        for path in pictures
    ]
    _check_results(pictures, results, may_exist=overwrite or resume)
    network = network.to(best_device()).eval()
    for path, files in track([*zip(pictures, results, strict=True)], "predicting"):
        if resume and all(file.is_file() for file in files):
            yield PictureResult(path, None, is_new=False)
            continue
        try:
            _predict_file(network, path, files, settings, max_pixels)
        except UserError as error:
            yield PictureResult(path, error)
        else:
            yield PictureResult(path, None)


def find_pictures(source: str) -> tuple[Path, list[Path]]:
    """Find the image files of a path, a folder or a glob pattern.

    Args:
        source: A file, a folder that is searched with its subfolders, or a glob pattern.

    Returns:
        The folder whose structure results keep, and the files, sorted.

    Raises:
        UserError: There is no image file.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("b.jpg", "a.png", "notes.txt"):
        ...     (folder / name).touch()
        >>> _, found = find_pictures(str(folder))
        >>> [path.name for path in found]
        ['a.png', 'b.jpg']
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
        raise UserError(f"{source}: no such file or folder")
    found = sorted(p for p in candidates if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not found:
        raise UserError(f"{source}: no image file ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return base, found


def _predict_file(
    network: Network, path: Path, files: list[Path], settings: InferenceSettings, max_pixels: int
) -> None:
    width, height = _size(path)
    if width * height > max_pixels:
        raise UserError(
            f"{path}: {width}x{height} pixels are more than `max_pixels` allows, {max_pixels}; "
            "raise it if the file can be trusted"
        )
    try:
        with _without_pillows_limit():
            image = read_image(path)
        label_map, painted, *probabilities = files
        if probabilities:
            indices, bands = predict_probabilities(network, image, settings)
        else:
            indices = predict(network, image, settings).indices
    except (MemoryError, RuntimeError, cv2.error) as error:
        if not _is_out_of_memory(error):
            raise
        raise UserError(
            f"{path}: {width}x{height} pixels take more memory than there is; try `window`"
        ) from error
    try:
        for file in probabilities:
            # Opened here, because numpy appends .npz to other names.
            with whole_file(file) as part, part.open("wb") as stream:
                np.savez_compressed(stream, probabilities=bands)
        write_png(painted, overlay(image, indices, network.colors))
        write_png(label_map, indices)
    except OSError as error:
        raise UserError(f"{label_map}: cannot be written ({error.strerror})") from error


def _size(path: Path) -> tuple[int, int]:
    """Return an image's width and height by its header, without decoding it."""
    try:
        with _without_pillows_limit(), PillowImage.open(path) as picture:
            return picture.size
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # Pillow raises many kinds of errors on arbitrary bytes
        reason = str(error).replace(str(path), "the file") or type(error).__name__
        raise UserError(f"{path}: cannot be read as an image: {reason}") from error


@contextmanager
def _without_pillows_limit() -> Iterator[None]:
    """Let Pillow open images of any size; `max_pixels` is the limit here."""
    limit = PillowImage.MAX_IMAGE_PIXELS
    PillowImage.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        PillowImage.MAX_IMAGE_PIXELS = limit


def _is_out_of_memory(error: Exception) -> bool:
    """Whether numpy, torch or OpenCV could not allocate memory."""
    kinds = (MemoryError, torch.OutOfMemoryError)  # the latter on GPUs only
    return isinstance(error, kinds) or "allocate" in str(error)


def _check_results(pictures: list[Path], results: list[list[Path]], may_exist: bool) -> None:
    sources = {path.resolve() for path in pictures}
    claimed: dict[Path, Path] = {}
    for path, files in zip(pictures, results, strict=True):
        for file in files:
            if file.resolve() in sources:
                raise UserError(f"{file} is one of the input images; choose another `output`")
            if file in claimed:
                raise UserError(f"{path} and {claimed[file]} would both be written to {file}")
            if file.exists() and not may_exist:
                raise UserError(
                    f"{file} already exists; choose another `output`, set `resume` to skip what is "
                    "done, or `overwrite`"
                )
            claimed[file] = path
