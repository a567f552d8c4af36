"""Image and mask files to arrays, with errors that name the file."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageOps
from PIL.ExifTags import Base as ExifTag
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from skseg.data.finding import is_regular
from skseg.errors import UserError
from skseg.progress import say_once
from skseg.types import Image

_GRAY, _RGB = 0, 2  # a PNG's color types
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"  # the last chunk, which is the same in every PNG

MAX_PIXELS = 500_000_000
"""The most pixels of a file that is read; the variable SKSEG_MAX_PIXELS sets another number.

A few kilobytes can claim more pixels than the memory holds. Pillow warns from 89 million on.
"""

ALPHA_IS_DROPPED = "images have an alpha channel, which is not used"
"""What `skseg.progress.say_once` says of them."""

_ALPHA_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
# Of a TIFF: the bands of a color by its photometric interpretation, 3 if it has no entry, and the
# values of ExtraSamples that say that the one band more is alpha.
_TIFF_BANDS = {0: 1, 1: 1, 3: 1, 5: 4}
_BITS, _PHOTOMETRIC, _BANDS, _EXTRA_BANDS = 258, 262, 277, 338
_TIFF_ALPHA = ((1,), (2,))

# Pillow warns from its limit on and raises at twice that; here the limit is one.
warnings.simplefilter("ignore", PillowImage.DecompressionBombWarning)

Color = tuple[int, int, int]
"""An RGB color, 0 to 255."""


class Header(NamedTuple):
    """What a picture's file says before its pixels.

    Attributes:
        size: Height and width, once turned as its EXIF orientation says.
        has_alpha: Whether it has an alpha channel, which is not read.
        palette: RGB colors by index, where it has a palette.
    """

    size: tuple[int, int]
    has_alpha: bool
    palette: tuple[Color, ...] | None


def read_image(path: Path, max_pixels: int | None = None) -> Image:
    """Read an image as 8-bit RGB, turned as its EXIF orientation says.

    Gray becomes three equal channels, palette indices become their colors, and alpha is dropped,
    which a message says once.

    Args:
        path: An image file of any format that Pillow reads.
        max_pixels: The most pixels of a file that is read; `MAX_PIXELS` when None.

    Returns:
        uint8 [H, W, 3].

    Raises:
        UserError: The file is missing, is not an image, is damaged, has more than `MAX_PIXELS`
            pixels or more than 8 bits per channel, or has bands that are neither color nor alpha.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "gray.png"
        >>> PillowImage.new("L", (4, 2), 7).save(path)
        >>> image = read_image(path)
        >>> image.shape, image[0, 0].tolist()
        ((2, 4, 3), [7, 7, 7])
    """
    image = _decode_png(path, _RGB, max_pixels)
    if image is not None:
        return image
    with _open(path, max_pixels) as picture:
        if _has_alpha(picture):
            say_once(ALPHA_IS_DROPPED)
        picture.load()  # turns a TIFF already
        return np.array(ImageOps.exif_transpose(picture).convert("RGB"))


def read_header(path: Path) -> Header:
    """Read what a picture's file says before its pixels.

    Args:
        path: A file of an image or a mask.

    Raises:
        UserError: As `read_image`, except for damage behind the header.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.png"
        >>> PillowImage.new("RGBA", (4, 2)).save(path)
        >>> read_header(path)
        Header(size=(2, 4), has_alpha=True, palette=None)
    """
    with _open(path) as picture:
        width, height = picture.size
        if _is_turned(picture):
            width, height = height, width
        palette = _palette(picture) if picture.mode == "P" else None
        return Header((height, width), _has_alpha(picture), palette)


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
    with _open(path) as picture:
        _check_is_exact(picture, path)
        if picture.mode not in ("L", "P"):
            raise UserError(
                f"{path}: a mask must be one channel of 8-bit class values (or a palette image), "
                f"not an image of mode {picture.mode}"
            )
        return np.array(picture)


def read_colors(path: Path) -> NDArray[np.uint8]:
    """Read the colors of a mask file, or the values of one without colors.

    Args:
        path: A palette image, or 8-bit RGB(A); or an image of one 8-bit channel.

    Returns:
        uint8 [H, W, 3] colors, or [H, W] values.

    Raises:
        UserError: As `read_indices`, or pixels are transparent.
    """
    mask = _decode_png(path, _RGB)
    if mask is None:
        mask = _decode_png(path, _GRAY)
    if mask is not None:
        return mask
    with _open(path) as picture:
        _check_is_exact(picture, path)
        if picture.mode == "RGBA":
            transparent = int((np.array(picture.getchannel("A")) < 255).sum())
            if transparent:
                raise UserError(
                    f"{path}: {transparent} pixels of the mask are transparent, so their class is "
                    "not certain; paint them in a color and remove the alpha channel"
                )
        elif picture.mode not in ("L", "P", "RGB"):
            raise UserError(
                f"{path}: a mask must be a palette image, 8-bit RGB, or one channel of 8-bit "
                f"class values, not an image of mode {picture.mode}"
            )
        if picture.mode == "P":
            colors = np.zeros((256, 3), np.uint8)
            listed = _palette(picture)
            colors[: len(listed)] = listed
            return np.asarray(colors[np.array(picture)])
        return np.array(picture if picture.mode == "L" else picture.convert("RGB"))


def _decode_png(
    path: Path, color_type: int, max_pixels: int | None = None
) -> NDArray[np.uint8] | None:
    """Decode an intact, upright, 8-bit PNG by OpenCV; None leaves the file to Pillow.

    OpenCV decodes PNG a quarter faster than Pillow, to the same bytes, which matters where decoding
    limits training on large images. But OpenCV fills damaged parts of a file with gray.

    Args:
        path: The file.
        color_type: The PNG color type to decode, 0 for gray or 2 for RGB.
        max_pixels: The most pixels of a file that is decoded here.
    """
    try:
        content = path.read_bytes() if path.is_file() else b""
    except OSError:
        return None
    # The header has width, height, bit depth and color type.
    if content[24:26] != bytes((8, color_type)) or b"eXIf" in content:
        return None
    pixels = int.from_bytes(content[16:20]) * int.from_bytes(content[20:24])
    if pixels > (max_pixels or pixel_limit()) or not _is_intact(content):
        return None
    flag = cv2.IMREAD_COLOR_RGB if color_type == _RGB else cv2.IMREAD_GRAYSCALE
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    except cv2.error:  # such as too little memory
        return None
    return None if image is None else image.astype(np.uint8, copy=False)


def _is_intact(png: bytes) -> bool:
    """Check the checksums of a PNG's chunks; Pillow checks those of all but the last chunk."""
    if not png.endswith(_PNG_END):
        return False
    try:
        # Not PillowImage.open, which refuses images of more than 179 megapixels.
        with PngImageFile(BytesIO(png)) as picture:
            picture.verify()
    except Exception:  # a damaged file may raise any error
        return False
    return True


@contextmanager
def _open(path: Path, max_pixels: int | None = None) -> Iterator[PillowImage.Image]:
    """Open a picture by Pillow, and turn each error into one that names the file.

    Pillow and not cv2: cv2 expands palettes to colors, fills the lost half of a truncated file with
    gray, and reports to stderr instead of raising.
    """
    limit = max_pixels or pixel_limit()
    # What to raise: a caller that has a limit of its own has it as a parameter.
    setting = "`max_pixels`" if max_pixels else "the environment variable SKSEG_MAX_PIXELS"
    # Pillow's own limit must not be below this one.
    PillowImage.MAX_IMAGE_PIXELS = max(PillowImage.MAX_IMAGE_PIXELS or limit, limit)
    try:
        if not is_regular(path):
            raise UserError(f"{path}: is not a regular file")
        with PillowImage.open(path) as picture:
            _check_header(picture, path, limit, setting)
            yield picture
    except UserError:
        raise
    except FileNotFoundError:
        what = "a link to a file that does not exist" if path.is_symlink() else "no such file"
        raise UserError(f"{path}: {what}") from None
    except PillowImage.DecompressionBombError:
        raise UserError(f"{path}: its pixels {_too_large(limit, setting)}") from None
    except Exception as error:  # a damaged file may raise any error
        reason = "it is a directory" if path.is_dir() else str(error).replace(str(path), "the file")
        what = " ".join(reason.split()) or type(error).__name__
        raise UserError(f"{path}: cannot be read as an image: {what}") from error


def _check_header(picture: PillowImage.Image, path: Path, limit: int, setting: str) -> None:
    """Raise UserError on a picture that is too large, or of which a part would be dropped."""
    width, height = picture.size
    if width * height > limit:
        raise UserError(f"{path}: {width}x{height} pixels {_too_large(limit, setting)}")
    if _bits(picture) > 8 or picture.mode.startswith(("I", "F")):
        raise UserError(
            f"{path}: has more than 8 bits per channel, of which the lower ones would be lost; "
            "convert it to 8 bits, scaled to the range from 0 to 255"
        )
    if isinstance(picture, TiffImageFile):
        tags = picture.tag_v2
        bands, color_bands = tags.get(_BANDS, 1), _TIFF_BANDS.get(tags.get(_PHOTOMETRIC, 2), 3)
        if bands > color_bands and tuple(tags.get(_EXTRA_BANDS, ())) not in _TIFF_ALPHA:
            raise UserError(
                f"{path}: has {bands} bands, of which only {color_bands} would be read, and the "
                "others are no alpha channel; save an image with the one or three bands that the "
                "network should use"
            )
        if (pages := _equal_pages(picture)) > 1:
            raise UserError(
                f"{path}: has {pages} pages of one size, of which only the first would be read; "
                "save each as an image of its own"
            )


def _equal_pages(picture: TiffImageFile) -> int:
    """Count the pages that have the size of the first; previews and pyramids have other sizes."""
    if picture.n_frames == 1:
        return 1
    sizes = [picture.size]
    for page in range(1, picture.n_frames):
        picture.seek(page)
        sizes.append(picture.size)
    picture.seek(0)
    return sizes.count(sizes[0])


def _bits(picture: PillowImage.Image) -> int:
    """Return the bits per channel that the file has, which may be more than Pillow reads."""
    if isinstance(picture, TiffImageFile):
        return int(max(picture.tag_v2.get(_BITS, (1,))))
    is_deep = isinstance(picture, PngImageFile) and ";16" in str(picture.tile[0].args)
    return 16 if is_deep else 8


def _check_is_exact(picture: PillowImage.Image, path: Path) -> None:
    if picture.format in ("JPEG", "MPO"):
        raise UserError(
            f"{path}: a mask must not be a JPEG, which changes values; save it as a PNG"
        )


def _has_alpha(picture: PillowImage.Image) -> bool:
    return picture.mode in _ALPHA_MODES or "transparency" in picture.info


def _is_turned(picture: PillowImage.Image) -> bool:
    """Return whether the EXIF orientation swaps the sides that Pillow tells before the pixels."""
    # Of a PNG without the key, `getexif` would decode all pixels; of a TIFF the sides are swapped.
    return "exif" in picture.info and picture.getexif().get(ExifTag.Orientation, 1) >= 5


def _palette(picture: PillowImage.Image) -> tuple[Color, ...]:
    values = picture.getpalette("RGB") or []
    return tuple(zip(values[::3], values[1::3], values[2::3], strict=True))


def pixel_limit() -> int:
    """Return the most pixels of a file that is read: `MAX_PIXELS`, or the variable's number.

    Raises:
        UserError: The variable is no such number.

    Example:
        >>> pixel_limit()
        500000000
    """
    text = os.environ.get("SKSEG_MAX_PIXELS", "")
    if not text:
        return MAX_PIXELS
    if not text.isdecimal() or int(text) < 1:
        raise UserError(
            f"the variable SKSEG_MAX_PIXELS must be a whole number above 0, got {text!r}"
        )
    return int(text)


def _too_large(limit: int, setting: str) -> str:
    return f"are more than the limit of {limit:,}; to raise it, set {setting}"
