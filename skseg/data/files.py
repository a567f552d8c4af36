"""Image and mask files to arrays, with errors that name the file."""

from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageOps
from PIL.PngImagePlugin import PngImageFile

from skseg.errors import UserError
from skseg.types import VOID, Image, Mask

_UNMAPPED = 254  # between the last possible class and void
_GRAY, _RGB = 0, 2  # a PNG's color types
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"  # the last chunk, which is the same in every PNG

# What Pillow raises for a file that it cannot read.
_PILLOW_ERRORS = (OSError, SyntaxError, ValueError, EOFError, PillowImage.DecompressionBombError)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
"""The suffixes of the image files that a directory is searched for, in lower case."""


def read_image(path: Path) -> Image:
    """Read an image as 8-bit RGB, turned as its EXIF orientation says.

    Gray becomes three equal channels, palette indices become their colors, and alpha is dropped.

    Args:
        path: An image file of any format that Pillow reads.

    Returns:
        uint8 [H, W, 3].

    Raises:
        UserError: The file is missing, is not an image, is damaged, or has more than 8 bits per
            channel in a mode without one obvious conversion to 8 bits (16-bit gray, 32-bit,
            float).

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "gray.png"
        >>> PillowImage.new("L", (4, 2), 7).save(path)
        >>> image = read_image(path)
        >>> image.shape, image[0, 0].tolist()
        ((2, 4, 3), [7, 7, 7])
    """
    image = _decode_png(path, _RGB)
    if image is not None:
        return image
    picture = _load(path)
    if picture.mode.startswith(("I", "F")):
        raise UserError(
            f"{path}: an image of mode {picture.mode} has more than 8 bits per channel; "
            "convert it to 8-bit RGB or gray"
        )
    return np.array(ImageOps.exif_transpose(picture).convert("RGB"))


def read_indices(path: Path) -> NDArray[np.uint8]:
    """Read the pixel values of a mask file unchanged; of a palette image, the indices.

    Args:
        path: An image file of one 8-bit channel.

    Returns:
        uint8 [H, W].

    Raises:
        UserError: The file is missing, is not an image, is damaged, or has more than one channel
            or more than 8 bits.
    """
    mask = _decode_png(path, _GRAY)
    if mask is not None:
        return mask
    picture = _load(path)
    if picture.mode not in ("L", "P"):
        raise UserError(
            f"{path}: a mask must be one channel of 8-bit class values (or a palette image), "
            f"not an image of mode {picture.mode}"
        )
    return np.array(picture)


def remap(mask: NDArray[np.uint8], classes: Mapping[int, int], path: Path) -> Mask:
    """Turn the values of a mask file into class indices.

    Args:
        mask: uint8 [H, W].
        classes: The class index, or `VOID`, of each value that may occur. 255 is void unless it
            has an entry.
        path: The mask file, for the error message.

    Returns:
        uint8 [H, W].

    Raises:
        UserError: A value has no entry in `classes`.

    Example:
        >>> remap(np.array([[7, 8, 255]], np.uint8), {7: 0, 8: 1}, Path("mask.png")).tolist()
        [[0, 1, 255]]
    """
    table = np.full(256, _UNMAPPED, np.uint8)
    table[VOID] = VOID
    table[list(classes)] = list(classes.values())
    indices = cv2.LUT(mask, table).astype(np.uint8, copy=False)
    if indices.max() >= _UNMAPPED and (unmapped := indices == _UNMAPPED).any():
        values = ", ".join(map(str, np.unique(mask[unmapped])[:10]))
        raise UserError(
            f"{path}: mask value(s) {values} stand for no class; "
            f"allowed are {_ranges(classes)}, and {VOID} for void"
        )
    return indices


def _ranges(values: Iterable[int]) -> str:
    """Write whole numbers as ranges: "0 to 10, 12"."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def files_by_name(files: Iterable[Path], name: Callable[[Path], str]) -> dict[str, Path]:
    """Index files by a name, without hidden files (such as the `._x.png` that macOS leaves).

    Args:
        files: The files.
        name: Returns the name of a file.

    Raises:
        UserError: Two files have the same name.

    Example:
        >>> files_by_name([Path("b.png"), Path("a.png"), Path("._a.png")], lambda f: f.stem)
        {'a': PosixPath('a.png'), 'b': PosixPath('b.png')}
    """
    named: dict[str, Path] = {}
    for file in sorted(files):
        if not file.name.startswith("."):
            key = name(file)
            if key in named:
                raise UserError(f"{named[key]} and {file} have the same name; keep one of them")
            named[key] = file
    return named


def _decode_png(path: Path, color_type: int) -> NDArray[np.uint8] | None:
    """Decode an intact, upright, 8-bit PNG by OpenCV; None leaves the file to Pillow.

    OpenCV decodes PNG a quarter faster than Pillow, to the same bytes, which matters where decoding
    limits training on large images. But OpenCV fills damaged parts of a file with gray.

    Args:
        path: The file.
        color_type: The PNG color type to decode, 0 for gray or 2 for RGB.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return None
    # After width and height, the header has the bit depth and the color type.
    if content[24:26] != bytes((8, color_type)) or b"eXIf" in content or not _is_intact(content):
        return None
    flag = cv2.IMREAD_COLOR_RGB if color_type == _RGB else cv2.IMREAD_GRAYSCALE
    image = cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    return None if image is None else image.astype(np.uint8, copy=False)


def _is_intact(png: bytes) -> bool:
    """Check the checksums of a PNG's chunks; Pillow checks those of all but the last chunk."""
    if not png.endswith(_PNG_END):
        return False
    try:
        # Not PillowImage.open, which refuses images of more than 179 megapixels.
        with PngImageFile(BytesIO(png)) as picture:
            picture.verify()
    except _PILLOW_ERRORS:
        return False
    return True


def _load(path: Path) -> PillowImage.Image:
    # Pillow and not cv2: cv2 expands palettes to colors, fills the lost half of a truncated file
    # with gray, and reports to stderr instead of raising.
    try:
        with PillowImage.open(path) as picture:
            picture.load()
            return picture
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except _PILLOW_ERRORS as error:
        reason = "it is a directory" if path.is_dir() else str(error).replace(str(path), "the file")
        raise UserError(f"{path}: cannot be read as an image: {reason}") from error
