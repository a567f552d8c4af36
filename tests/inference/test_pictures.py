"""A user's own pictures, good and bad; `test_scripts.py` runs the script itself."""

import os
import resource
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from running import run_script

from skseg import load_model
from skseg.errors import UserError
from skseg.inference.pictures import find_pictures, predict_files
from skseg.training.task import SegmentationTask


@pytest.fixture(scope="module")
def task(run_dir: Path) -> SegmentationTask:
    return load_model(run_dir / "checkpoints" / "last.ckpt")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Grey, RGBA, CMYK, palette and RGB; one of 16 bits; one empty."""
    root = tmp_path / "in"
    (root / "below").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8))
    for mode, name in (("RGB", "rgb.png"), ("L", "grey.png"), ("P", "palette.png"),
                       ("RGBA", "below/alpha.png"), ("CMYK", "below/cmyk.jpg")):  # fmt: skip
        rgb.convert(mode).save(root / name)
    Image.fromarray(np.full((9, 9), 3000, np.uint16)).save(root / "deep.png")
    (root / "empty.jpg").touch()
    return root


def test_a_failing_picture_is_reported_and_the_rest_goes_on(
    task: SegmentationTask, pictures: Path, tmp_path: Path
) -> None:
    done = list(predict_files(task, str(pictures), tmp_path / "out", probabilities=True))
    errors = {result.picture.name: str(result.error) for result in done if result.error}
    assert errors.keys() == {"deep.png", "empty.jpg"}
    assert "more than 8 bits" in errors["deep.png"]
    assert "cannot be read as an image" in errors["empty.jpg"]
    assert {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")} == {
        f"{name}{suffix}"
        for name in ("rgb", "grey", "palette", "below/alpha", "below/cmyk")
        for suffix in (".png", "_overlay.png", ".npz")
    }
    labels = cv2.imread(str(tmp_path / "out" / "rgb.png"), cv2.IMREAD_UNCHANGED)
    with np.load(tmp_path / "out" / "rgb.npz") as file:
        probabilities = file["probabilities"].astype(np.float32)
    assert probabilities.shape == (19, 40, 50)
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=0.01)
    chosen = np.take_along_axis(probabilities, labels[None].astype(int), 0)[0]
    assert (chosen >= probabilities.max(0) - 1e-3).all()
    alpha, rgb = (
        torch.from_numpy(cv2.imread(str(tmp_path / "out" / n), cv2.IMREAD_UNCHANGED))
        for n in ("below/alpha.png", "rgb.png")
    )
    assert torch.equal(alpha, rgb)


def test_the_exit_code_tells(run_dir: Path, pictures: Path, tmp_path: Path) -> None:
    checkpoint = run_dir / "checkpoints" / "last.ckpt"
    arguments = ["--ckpt_path", checkpoint, "--output", tmp_path / "out"]
    some = run_script("predict", *arguments, "--input", pictures)
    assert some.returncode == 1
    assert "of 5 images" in some.stdout
    assert "2 of 7" in some.stderr
    again = run_script("predict", *arguments, "--input", pictures, "--resume")
    assert again.returncode == 1
    assert "of 0 images" in again.stdout
    assert "skipped 5 images" in again.stdout
    small = run_script("predict", *arguments, "--input", pictures, "--max_pixels", 100)
    assert small.returncode == 2
    assert "--resume" in small.stderr
    assert "Traceback" not in some.stderr
    good = run_script("predict", *arguments, "--input", pictures / "b*" / "*", "--overwrite")
    assert good.returncode == 0, good.stderr
    assert (tmp_path / "out" / "below" / "cmyk.png").exists()


def test_a_pattern_keeps_the_structure_below_its_first_wildcard(pictures: Path) -> None:
    base, found = find_pictures(str(pictures / "**" / "*.jpg"))
    assert base == pictures
    assert [p.relative_to(base).as_posix() for p in found] == ["below/cmyk.jpg", "empty.jpg"]
    assert find_pictures(str(pictures / "rgb.png")) == (pictures, [pictures / "rgb.png"])


def test_nothing_is_overwritten_unasked(
    task: SegmentationTask, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "rgb.png").write_text("precious")
    source = str(pictures / "rgb.png")
    with pytest.raises(UserError, match=r"rgb\.png already exists; .*overwrite"):
        next(predict_files(task, source, out))
    assert (out / "rgb.png").read_text() == "precious"
    assert next(predict_files(task, source, out, overwrite=True)).error is None
    with pytest.raises(UserError, match="is one of the input images"):
        next(predict_files(task, source, pictures, overwrite=True))


def test_an_output_that_cannot_be_written_is_named(
    task: SegmentationTask, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("a file")
    (done,) = predict_files(task, str(pictures / "rgb.png"), tmp_path / "out")
    assert "out/rgb.png: cannot be written" in str(done.error)


def test_the_rule_of_data_sets_decides_which_pictures_belong(pictures: Path) -> None:
    (pictures / "._rgb.png").touch()
    (pictures / "__MACOSX").mkdir()
    (pictures / "__MACOSX" / "rgb.png").touch()
    (pictures / "loop").symlink_to(pictures)
    (pictures / "linked").symlink_to(pictures / "below")
    os.mkfifo(pictures / "pipe.png")
    for source in (pictures, pictures / "**" / "*"):
        found = {p.relative_to(pictures).as_posix() for p in find_pictures(str(source))[1]}
        assert found == {
            *("rgb.png", "grey.png", "palette.png", "deep.png", "empty.jpg"),
            *("below/alpha.png", "below/cmyk.jpg", "linked/alpha.png", "linked/cmyk.jpg"),
        }
    with pytest.raises(UserError, match=r"pipe\.png: is not a regular file"):
        find_pictures(str(pictures / "pipe.png"))


@pytest.mark.parametrize("name", ["nothing", "*.gif", "empty folder"])
def test_no_pictures(task: SegmentationTask, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty folder").mkdir()
    with pytest.raises(UserError, match=r"no (such|image) file"):
        next(predict_files(task, str(tmp_path / name), tmp_path / "out"))


def test_two_pictures_of_one_name(task: SegmentationTask, pictures: Path, tmp_path: Path) -> None:
    (pictures / "rgb.jpg").write_bytes((pictures / "below" / "cmyk.jpg").read_bytes())
    with pytest.raises(UserError, match=r"would both be written to .*rgb\.png"):
        next(predict_files(task, str(pictures), tmp_path / "out"))


def empty_png(width: int, height: int) -> bytes:
    """A valid PNG of zeros in a few bytes, of any size; one bit a pixel."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    rows = zlib.compressobj(9)
    row = bytes(1 + -(-width // 8))
    packed = b"".join(rows.compress(row) for _ in range(height)) + rows.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def test_one_picture_never_costs_the_others(
    task: SegmentationTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Truncated, not an image, a bomb, a vanished one, a folder called like an image; thin ones."""
    root = tmp_path / "in"
    (root / "folder.png").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in {
        "a_good": (40, 50),
        "thin": (50, 1),
        "flat": (1, 70),
        "z_good": (9, 9),
    }.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(root / f"{name}.png")
    whole = (root / "a_good.png").read_bytes()
    (root / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "text.jpg").write_text("hello")
    (root / "bomb.png").write_bytes(empty_png(30000, 30000))
    (root / "vanishes.png").write_bytes(whole)
    results = []
    for result in predict_files(task, str(root), tmp_path / "out"):
        (root / "vanishes.png").unlink(missing_ok=True)
        results.append(result)
    errors = {result.picture.name: str(result.error) for result in results if result.error}
    assert errors.keys() == {"cut.png", "text.jpg", "bomb.png", "vanishes.png"}
    for name, error in errors.items():
        assert str(root / name) in error
        assert len(error.splitlines()) == 1
    assert "30000x30000" in errors["bomb.png"]
    assert "`max_pixels`" in errors["bomb.png"]
    for name, shape in {"a_good": (40, 50), "thin": (50, 1), "flat": (1, 70)}.items():
        assert cv2.imread(str(tmp_path / "out" / f"{name}.png"), 0).shape == shape
    assert (tmp_path / "out" / "z_good.png").is_file()


def test_the_limit_of_pixels_can_be_moved(task: SegmentationTask, tmp_path: Path) -> None:
    Image.new("RGB", (50, 40)).save(tmp_path / "small.jpg")
    source, out = str(tmp_path / "small.jpg"), tmp_path / "out"
    (refused,) = predict_files(task, source, out, max_pixels=1999)
    assert "small.jpg: 50x40" in str(refused.error)
    assert "`max_pixels`" in str(refused.error)
    (done,) = predict_files(task, source, out, max_pixels=2000)
    assert done.error is None
    with pytest.raises(UserError, match="`max_pixels` must be at least 1, got 0"):
        next(predict_files(task, source, out, max_pixels=0))


def test_a_full_disk_leaves_nothing_broken(
    task: SegmentationTask, pictures: Path, tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    source, out = str(pictures / "rgb.png"), tmp_path / "out"
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # bytes of a file
    try:
        (done,) = predict_files(task, source, out, probabilities=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "rgb.png: cannot be written" in str(done.error)
    assert not list(out.iterdir())
    (done,) = predict_files(task, source, out, probabilities=True, resume=True)
    assert done == (pictures / "rgb.png", None, True)


def test_resuming_skips_what_is_whole(
    task: SegmentationTask, pictures: Path, tmp_path: Path
) -> None:
    source, out = str(pictures / "*.png"), pictures / "out"  # the next call finds the results too
    first = [result.picture.name for result in predict_files(task, source, out)]
    assert first == ["deep.png", "grey.png", "palette.png", "rgb.png"]
    (out / "grey_overlay.png").unlink()
    (out / "rgb.png").write_text("precious")
    again = list(predict_files(task, str(pictures), out, resume=True))
    assert {(r.picture.name, r.is_new) for r in again if r.error is None} == {
        ("alpha.png", True),
        ("cmyk.jpg", True),
        ("grey.png", True),
        ("palette.png", False),
        ("rgb.png", False),
    }
    assert (out / "rgb.png").read_text() == "precious"
    assert (out / "grey_overlay.png").is_file()
    with pytest.raises(UserError, match="`overwrite` and `resume`"):
        next(predict_files(task, source, out, overwrite=True, resume=True))
    with pytest.raises(UserError, match="all its images are in the `output`"):
        next(predict_files(task, str(pictures / "out" / ".." / "o*" / "*.png"), out))


def test_probabilities_need_no_second_pass(
    task: SegmentationTask, pictures: Path, tmp_path: Path
) -> None:
    """And give the same label map."""
    seen: list[tuple[int, ...]] = []
    hook = task.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    source = str(pictures / "rgb.png")
    for name, probabilities in (("without", False), ("with", True)):
        (done,) = predict_files(task, source, tmp_path / name, probabilities=probabilities)
        assert done.error is None
    hook.remove()
    assert len(seen) == 2
    maps = [(tmp_path / name / "rgb.png").read_bytes() for name in ("without", "with")]
    assert maps[0] == maps[1]
