"""Picture files to arrays, with errors that name the file."""

import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from skseg.errors import UserError
from skseg.types import VOID

_UNKNOWN = 254  # between the last possible class and void
_GREY, _RGB = 0, 2  # a PNG's colour types

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
"""The picture files that a directory is searched for, in lower case."""

ImageArray = NDArray[np.uint8]
IndexMask = NDArray[np.uint8]


def read_image(path: Path) -> ImageArray:
    """Reads a picture as 8-bit RGB, upright as its EXIF orientation says.

    Grey becomes three equal channels, a palette its colours, and alpha is dropped.

    Returns:
        uint8 `[H, W, 3]`.

    Raises:
        UserError: The file is missing, no picture, damaged, or of more than 8 bits a channel
            in a way that has no one conversion to 8 bits (16-bit grey, 32-bit, float).
    """
    image = _decode_png(path, _RGB)
    if image is not None:
        return image
    picture = _load(path)
    if picture.mode.startswith(("I", "F")):
        raise UserError(
            f"{path}: a picture of mode {picture.mode} has more than 8 bits a channel; "
            "convert it to 8-bit RGB or grey"
        )
    return np.array(ImageOps.exif_transpose(picture).convert("RGB"))


def read_indices(path: Path) -> IndexMask:
    """Reads a mask's pixel values as they stand; of a palette picture, the indices.

    Returns:
        uint8 `[H, W]`.

    Raises:
        UserError: The file is missing, no picture, damaged, or not 8-bit of one channel.
    """
    mask = _decode_png(path, _GREY)
    if mask is not None:
        return mask
    picture = _load(path)
    if picture.mode not in ("L", "P"):
        raise UserError(
            f"{path}: a mask must be one channel of 8-bit class values (or a palette picture), "
            f"not a picture of mode {picture.mode}"
        )
    return np.array(picture)


def remap(mask: IndexMask, classes: Mapping[int, int], path: Path) -> IndexMask:
    """Turns the values of a mask file into class indices.

    Args:
        mask: uint8 `[H, W]`.
        classes: The class index, or `VOID`, for each value that may occur. 255 is void if it has
            none.
        path: The mask's file, for the error message.

    Returns:
        uint8 `[H, W]`.

    Raises:
        UserError: A value has no entry in `classes`.
    """
    table = np.full(256, _UNKNOWN, np.uint8)
    table[VOID] = VOID
    table[list(classes)] = list(classes.values())
    indices = cv2.LUT(mask, table).astype(np.uint8, copy=False)
    if indices.max() >= _UNKNOWN and (unknown := indices == _UNKNOWN).any():
        values = ", ".join(map(str, np.unique(mask[unknown])[:10]))
        raise UserError(
            f"{path}: mask value(s) {values} stand for no class; "
            f"allowed are {_ranges(classes)}, and {VOID} for void"
        )
    return indices


def _ranges(values: Iterable[int]) -> str:
    """Say which whole numbers there are: "0 to 10, 12"."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def by_name(files: Iterable[Path], name: Callable[[Path], str]) -> dict[str, Path]:
    """Gives the files by name, without hidden ones (such as the `._x.png` macOS leaves).

    Raises:
        UserError: Two files have the same name.
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
    """Decode an intact, upright, 8-bit PNG by OpenCV; None is for Pillow to decode or refuse.

    Where training on large pictures is limited by their decoding, OpenCV's is a quarter faster and
    the bytes are the same. But of a damaged file it makes a picture with grey in it.

    Args:
        path: The file.
        color_type: The PNG's, 0 for grey and 2 for RGB; others are not decoded.
    """
    try:
        content = path.read_bytes()
    except OSError:
        return None
    header = bytes((8, color_type))  # after width and height: the bit depth and the colour type
    chunks = _png_chunks(content) if content[24:26] == header else set()
    if b"IEND" not in chunks or b"eXIf" in chunks:
        return None
    flag = cv2.IMREAD_COLOR_RGB if color_type == _RGB else cv2.IMREAD_GRAYSCALE
    image = cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    return None if image is None else image.astype(np.uint8, copy=False)


def _png_chunks(content: bytes) -> set[bytes]:
    """Return the types of a PNG's chunks; nothing if a checksum is wrong or the end is missing.

    W3C, "Portable Network Graphics Specification", section 5.3.
    """
    found: set[bytes] = set()
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        view, at = memoryview(content), 8
        while at + 12 <= len(content):
            end = at + 8 + int.from_bytes(view[at : at + 4])
            if zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4]):
                break
            found.add(content[at + 4 : at + 8])
            if b"IEND" in found:
                return found
            at = end + 4
    return set()


def _load(path: Path) -> Image.Image:
    # Pillow and not cv2: cv2 expands palettes to colours, fills the lost half of a truncated file
    # with grey, and reports to stderr instead of raising.
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        reason = "it is a directory" if path.is_dir() else str(error).replace(str(path), "the file")
        raise UserError(f"{path}: cannot be read as a picture: {reason}") from error
