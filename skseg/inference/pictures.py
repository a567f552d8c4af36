"""Segmentation of a user's own image files."""

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from skseg.data import IMAGE_SUFFIXES, read_image
from skseg.data.files import pixel_limit
from skseg.data.finding import describe_left_out, list_files, match_files
from skseg.errors import UserError, check_values
from skseg.files import whole_file
from skseg.inference.image import predict, predict_probabilities
from skseg.inference.logits import Network
from skseg.inference.settings import InferenceSettings, best_device
from skseg.progress import say_once, track
from skseg.viz import overlay, write_png


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
    max_pixels: int | None = None,
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
        max_pixels: Pixels of the largest image that is decoded. An image's header decides, so that
            a small file cannot fill the memory. `skseg.data.files.pixel_limit` when None.

    Yields:
        The outcome for each file, when it is done.

    Raises:
        UserError: Before the first image: there is none, two would have the same results, a
            result already exists, or a value is out of range.
    """
    limit = pixel_limit() if max_pixels is None else max_pixels
    check_values({"max_pixels": limit}, {"max_pixels": (limit >= 1, "at least 1")})
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
            _predict_file(network, path, files, settings, limit)
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


def _predict_file(
    network: Network,
    path: Path,
    files: list[Path],
    settings: InferenceSettings,
    max_pixels: int,
) -> None:
    label_map, painted, *probabilities = files
    try:
        image = read_image(path, max_pixels)
        if probabilities:
            indices, bands = predict_probabilities(network, image, settings)
        else:
            indices = predict(network, image, settings).indices
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise UserError(f"{path}: takes more memory than there is; try `window`") from error
    try:
        for file in probabilities:
            # Opened here, because numpy appends .npz to other names.
            with whole_file(file) as part, part.open("wb") as stream:
                np.savez_compressed(stream, probabilities=bands)
        write_png(painted, overlay(image, indices, network.colors))
        write_png(label_map, indices)
    except OSError as error:
        raise UserError(f"{label_map}: cannot be written ({error.strerror})") from error


def _is_out_of_memory(error: Exception) -> bool:
    """Whether numpy or torch could not allocate memory."""
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
