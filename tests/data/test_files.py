import os
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from skseg.data.files import (
    read_colors,
    read_header,
    read_image,
    read_indices,
)
from skseg.errors import UserError

RGB = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
GREY = RGB[..., 0]


def test_rgb_is_read_as_rgb(tmp_path, save):
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", RGB)), RGB)


@pytest.mark.parametrize("side", [1, 7, 130])
def test_a_png_is_decoded_to_pillows_bytes(tmp_path, side):
    """Whichever decoder takes it: with a palette, colour profile or gamma too."""
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    picture = Image.fromarray(noise)
    picture.save(tmp_path / "plain.png")
    picture.save(tmp_path / "profile.png", icc_profile=ImageCms.ImageCmsProfile(
        ImageCms.createProfile("sRGB")
    ).tobytes())  # fmt: skip
    picture.save(tmp_path / "transparent.png", transparency=(1, 2, 3))
    content = (tmp_path / "plain.png").read_bytes()
    gamma = b"gAMA" + (20_000).to_bytes(4)
    chunk = (4).to_bytes(4) + gamma + zlib.crc32(gamma).to_bytes(4)
    (tmp_path / "gamma.png").write_bytes(content[:33] + chunk + content[33:])
    for path in tmp_path.glob("*.png"):
        np.testing.assert_array_equal(read_image(path), noise)


def test_grey_becomes_three_equal_channels(tmp_path, save):
    image = read_image(save(tmp_path / "a.png", GREY))
    np.testing.assert_array_equal(image, np.stack([GREY] * 3, 2))


def test_alpha_is_dropped(tmp_path, save):
    alpha = np.full((4, 6, 1), 7, np.uint8)
    image = read_image(save(tmp_path / "a.png", np.concatenate([RGB, alpha], 2)))
    np.testing.assert_array_equal(image, RGB)


def test_a_palette_image_becomes_its_colors(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putdata([0, 1])
    picture.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_exif_orientation_is_followed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rot90(RGB, -1))


def test_a_palette_mask_keeps_its_indices(tmp_path):
    picture = Image.new("P", (3, 1))
    picture.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    picture.putdata([2, 0, 1])
    picture.save(tmp_path / "a.png")
    assert read_indices(tmp_path / "a.png").tolist() == [[2, 0, 1]]


def test_16_bit_grey_is_refused_as_image_and_as_mask(tmp_path):
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((4, 6), 3000, np.uint16)).save(path)
    with pytest.raises(UserError, match=r"deep\.png.*8 bits"):
        read_image(path)
    with pytest.raises(UserError, match=r"deep\.png.*8 bits"):
        read_indices(path)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_16_bits_are_not_read_as_8(tmp_path, suffix, channels):
    path = tmp_path / f"deep.{suffix}"
    cv2.imwrite(str(path), np.full((4, 6, channels), 3000, np.uint16))
    for read in (read_image, read_header, read_colors):
        with pytest.raises(UserError, match=rf"deep\.{suffix}: .*8 bits"):
            read(path)


def save_bands(path: Path, bands: int, extra: tuple[int, ...], photometric: int = 2) -> Path:
    """Write a TIFF with any number of bands and no pixels, byte by byte."""
    tags = ImageFileDirectory_v2()
    tags[256], tags[257] = 6, 4  # width and height
    tags[258] = (8,) * bands
    tags[259], tags[262], tags[277], tags[278] = 1, photometric, bands, 4
    tags[279] = 24 * bands
    tags[273] = 8  # of the pixels
    if extra:
        tags[338] = extra
    for kind in (256, 257, 258, 259, 262, 273, 277, 278, 279, 338):
        tags.tagtype[kind] = 3  # 16-bit numbers
    path.write_bytes(b"II*\0\x08\0\0\0" + tags.tobytes(8))
    return path


@pytest.mark.parametrize(
    ("bands", "extra"), [(4, (0,)), (4, ()), (5, (0, 0)), (5, (2, 0)), (6, (1, 0, 0))]
)
def test_bands_that_would_be_dropped_are_refused(tmp_path, bands, extra):
    path = save_bands(tmp_path / "nir.tif", bands, extra)
    for read in (read_image, read_header):
        with pytest.raises(UserError, match=rf"nir\.tif: has {bands} bands"):
            read(path)


def test_a_second_band_of_a_gray_mask_is_refused(tmp_path):
    path = save_bands(tmp_path / "two.tif", 2, (0,), photometric=1)
    for read in (read_image, read_indices, read_colors):
        with pytest.raises(UserError, match=r"two\.tif: has 2 bands, of which only 1 "):
            read(path)


def test_a_real_alpha_channel_of_a_tiff_is_dropped(tmp_path, save):
    path = save(tmp_path / "a.tif", np.dstack([RGB, np.full((4, 6), 7, np.uint8)]))
    np.testing.assert_array_equal(read_image(path), RGB)
    assert read_header(path).has_alpha


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_a_header_has_the_size_of_the_pixels(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(RGB).save(path, exif=exif)
    assert read_header(path).size == read_image(path).shape[:2]


@pytest.mark.parametrize("channels", [3, 4])
def test_a_colour_mask_is_refused(tmp_path, save, channels):
    path = save(tmp_path / "colours.png", (4, 6, channels))
    with pytest.raises(UserError, match=r"colours\.png.*one channel"):
        read_indices(path)


def damage(path: Path, kind: str) -> None:
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    elif kind == "text":
        path.write_text("not a picture")
    else:
        path.unlink()
        if kind == "directory":
            path.mkdir()


@pytest.mark.parametrize("read", [read_image, read_indices, read_colors])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("kind", ["empty", "truncated", "text", "missing", "directory"])
def test_an_unreadable_file_is_named(tmp_path, save, capfd, read, suffix, kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    path = save(tmp_path / f"bad.{suffix}", noise)
    damage(path, kind)
    with pytest.raises(UserError, match=rf"^\S*bad\.{suffix}: ") as error:
        read(path)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_damage_anywhere_is_an_error_or_a_picture(tmp_path, save, capfd):
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    content = save(tmp_path / "a.png", noise).read_bytes()
    refused = 0
    for at in range(0, len(content), 3):
        broken = bytearray(content)
        broken[at] ^= 0xFF
        (tmp_path / "a.png").write_bytes(broken)
        try:
            assert read_image(tmp_path / "a.png").dtype == np.uint8
        except UserError:
            refused += 1
    assert refused > 10
    assert capfd.readouterr().err == ""


def test_transparent_pixels_of_a_mask_are_refused(tmp_path, save):
    path = save(tmp_path / "a.png", np.zeros((2, 3, 4), np.uint8))
    with pytest.raises(UserError, match=r"a\.png: 6 pixels .*transparent"):
        read_colors(path)


def test_a_mask_without_colors_keeps_its_values(tmp_path, save):
    path = save(tmp_path / "a.png", GREY)
    np.testing.assert_array_equal(read_colors(path), GREY)


@pytest.mark.parametrize("read", [read_indices, read_colors])
def test_a_jpeg_mask_is_refused(tmp_path, save, read):
    with pytest.raises(UserError, match=r"a\.jpg: .*JPEG"):
        read(save(tmp_path / "a.jpg", (16, 16), 1))


def png_of(width: int, height: int, color_type: int = 2) -> bytes:
    """A PNG whose header claims a size, and whose data are a few bytes."""
    parts = [
        (b"IHDR", width.to_bytes(4) + height.to_bytes(4) + bytes((8, color_type, 0, 0, 0))),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    ]
    chunks = [
        len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)
        for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("read", [read_image, read_header, read_indices, read_colors])
@pytest.mark.parametrize("color_type", [0, 2])
@pytest.mark.parametrize("side", [23_000, 30_000, 2**31 - 1])
def test_an_absurd_size_is_refused_by_the_header(tmp_path, read, color_type, side):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of(side, side, color_type))
    with pytest.raises(UserError, match=r"bomb\.png: .*more than the limit of 500,000,000"):
        read(path)


@pytest.mark.filterwarnings("error")
def test_the_limit_can_be_set(tmp_path, save, monkeypatch):
    path = save(tmp_path / "a.tif", RGB)
    monkeypatch.setenv("SKSEG_MAX_PIXELS", "24")
    assert read_image(path).shape == (4, 6, 3)
    monkeypatch.setenv("SKSEG_MAX_PIXELS", "23")
    with pytest.raises(UserError, match=r"a\.tif: 6x4 pixels .* 23;"):
        read_image(path)
    monkeypatch.setenv("SKSEG_MAX_PIXELS", "many")
    with pytest.raises(UserError, match=r"SKSEG_MAX_PIXELS .*'many'"):
        read_image(path)


@pytest.mark.parametrize("read", [read_image, read_header, read_indices, read_colors])
def test_nothing_waits_for_a_pipe(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UserError, match=r"pipe\.png: is not a regular file"):
        read(tmp_path / "pipe.png")


def test_a_link_to_nothing_is_called_so(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "b.png")
    with pytest.raises(UserError, match=r"a\.png: a link"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize(("second", "is_read"), [((6, 4), False), ((3, 2), True)])
def test_pages_of_one_size_are_refused_and_previews_ignored(
    second: tuple[int, int], is_read: bool, tmp_path: Path
) -> None:
    pages = [Image.new("RGB", (6, 4), "red"), Image.new("RGB", second, "blue")]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    if is_read:
        assert read_image(tmp_path / "a.tif").tolist() == [[[255, 0, 0]] * 6] * 4
        return
    with pytest.raises(UserError, match=r"a\.tif: has 2 pages"):
        read_image(tmp_path / "a.tif")
