import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from skseg.data.files import VOID, files_by_name, read_image, read_indices, remap
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
    with pytest.raises(UserError, match=r"deep\.png.*one channel of 8-bit"):
        read_indices(path)


def test_16_bit_rgb_is_scaled_to_8_bits(tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / "a.png"), RGB[..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), RGB)


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


@pytest.mark.parametrize("read", [read_image, read_indices])
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


def test_remap_maps_values_and_keeps_void():
    mask = np.array([[3, 4, 5, 255]], np.uint8)
    assert remap(mask, {3: 0, 4: 1, 5: VOID}, Path("m.png")).tolist() == [[0, 1, 255, 255]]


def test_remap_names_file_and_values_that_stand_for_no_class():
    mask = np.array([[0, 1, 9, 77]], np.uint8)
    with pytest.raises(UserError, match=r"m\.png: mask value\(s\) 9, 77 .* 0 to 1.*255"):
        remap(mask, {0: 0, 1: 1}, Path("m.png"))


def test_by_name_leaves_hidden_files_out():
    files = [Path("b.png"), Path("a.png"), Path("._a.png")]
    assert files_by_name(files, lambda file: file.stem) == {"a": Path("a.png"), "b": Path("b.png")}


def test_by_name_refuses_two_files_of_one_name():
    with pytest.raises(UserError, match=r"a\.jpg and a\.png"):
        files_by_name([Path("a.png"), Path("a.jpg")], lambda file: file.stem)
