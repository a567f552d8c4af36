"""A user's own pictures, good and bad; `test_scripts.py` runs the script itself."""

import os
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
    assert "5 label maps" in some.stdout
    assert "2 of 7" in some.stderr
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
