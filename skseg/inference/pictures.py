"""Segmentation of a user's own image files."""

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from skseg.data import IMAGE_SUFFIXES, read_image
from skseg.data.finding import describe_left_out, list_files, match_files
from skseg.errors import UserError
from skseg.files import whole_file
from skseg.inference.image import predict, predict_bands
from skseg.inference.logits import Network
from skseg.inference.settings import InferenceSettings, best_device
from skseg.progress import say_once, track
from skseg.viz import overlay, write_png


class PictureResult(NamedTuple):
    """The outcome for one image file.

    Attributes:
        picture: The file.
        error: The error; None if the results are written.
    """

    picture: Path
    error: UserError | None


def predict_files(
    network: Network,
    source: str,
    output: Path,
    settings: InferenceSettings = InferenceSettings(),  # noqa: B008  frozen
    probabilities: bool = False,
    overwrite: bool = False,
) -> Iterator[PictureResult]:
    """Segment image files one by one; a file that fails does not stop the others.

    For each file NAME, write class indices to `NAME.png` and an overlay to `NAME_overlay.png`; with
    `probabilities` also `NAME.npz`, whose `probabilities` are float16 [K, H, W]. All have the size
    of the image.

    Args:
        network: A trained model, see `skseg.load_model`.
        source: A file, a folder that is searched with its subfolders, or a glob pattern.
        output: Folder of the results. It keeps the structure below the source's folder, or below
            the last folder of a pattern before its first wildcard.
        settings: How images go through the network.
        probabilities: Whether to write probabilities.
        overwrite: Whether to replace existing results.

    Yields:
        The outcome for each file, when it is done.

    Raises:
        UserError: Before the first image: there is none, two would have the same results, or a
            result already exists.
    """
    base, pictures = find_pictures(source)
    suffixes = [".png", "_overlay.png", *([".npz"] if probabilities else [])]
    results = [
        [output / f"{path.relative_to(base).with_suffix('')}{suffix}" for suffix in suffixes]
        for path in pictures
    ]
    _check_results(pictures, results, overwrite)
    network = network.to(best_device()).eval()
    for path, files in track([*zip(pictures, results, strict=True)], "predicting"):
        try:
            _predict_file(network, path, files, settings)
        except UserError as error:
            yield PictureResult(path, error)
        else:
            yield PictureResult(path, None)


def find_pictures(source: str) -> tuple[Path, list[Path]]:
    """Find the image files of a path, a folder or a glob pattern.

    `skseg.data.finding` has the rule for which files of a folder or pattern belong; a message says
    what is left out.

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
        base, (found, left_out) = path, list_files(path)
    elif path.exists():
        raise UserError(f"{source}: is not a regular file")
    elif glob.has_magic(source):
        base, (found, left_out) = match_files(source)
    else:
        raise UserError(f"{source}: no such file or folder")
    said = describe_left_out(left_out)
    if not found:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UserError(f"{source}: no image file ({suffixes}){'; ' * bool(said)}{said}")
    if said:
        say_once(f"{source}: {said}")
    return base, found


@torch.inference_mode()
def _predict_file(
    network: Network, path: Path, files: list[Path], settings: InferenceSettings
) -> None:
    image = read_image(path)
    indices = predict(network, image, settings).indices
    try:
        write_png(files[0], indices)
        write_png(files[1], overlay(image, indices, network.colors))
        for file in files[2:]:
            bands = [p.half().cpu().numpy() for _, p in predict_bands(network, image, settings)]
            # Opened here, because numpy appends .npz to other names.
            with whole_file(file) as part, part.open("wb") as stream:
                np.savez_compressed(stream, probabilities=np.concatenate(bands, axis=1))
    except OSError as error:
        raise UserError(f"{files[0]}: cannot be written ({error.strerror})") from error


def _check_results(pictures: list[Path], results: list[list[Path]], overwrite: bool) -> None:
    sources = {path.resolve() for path in pictures}
    claimed: dict[Path, Path] = {}
    for path, files in zip(pictures, results, strict=True):
        for file in files:
            if file.resolve() in sources:
                raise UserError(f"{file} is one of the input images; choose another `output`")
            if file in claimed:
                raise UserError(f"{path} and {claimed[file]} would both be written to {file}")
            if file.exists() and not overwrite:
                raise UserError(
                    f"{file} already exists; choose another `output`, or set `overwrite`"
                )
            claimed[file] = path
