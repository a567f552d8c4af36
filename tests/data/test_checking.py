import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from running import REPOSITORY, run_script

from skseg.data import get_dataset
from skseg.data.checking import check_split, contact_sheet
from skseg.data.class_weights import inverse_log_weights


@pytest.fixture
def root(camvid_root: Path, tmp_path: Path) -> Path:
    """Good pictures as a folder of one's own with twelve classes."""
    shutil.copytree(camvid_root, tmp_path / "own")
    names = ", ".join(f"class {i}" for i in range(12))
    (tmp_path / "own" / "classes.yaml").write_text(f"names: [{names}]")
    return tmp_path / "own"


def test_a_good_set(root: Path, tmp_path: Path) -> None:
    done = run_script(
        "check_data",
        *("--data.name", "folder", "--data.root", root, "--sheet", tmp_path / "sheet.png"),
    )
    assert done.returncode == 0, done.stderr
    assert "train: 4 images (4 of 96x72)" in done.stdout
    assert "val: 3 images" in done.stdout
    assert "no problems" in done.stdout
    masks = [cv2.imread(str(p), cv2.IMREAD_UNCHANGED) for p in (root / "train").glob("masks/*")]
    counts = np.bincount(np.concatenate(masks).ravel(), minlength=12)
    report = check_split(get_dataset("folder", root), root, "train")
    assert report.counts.tolist() == counts.tolist()
    share = f"{100 * counts[3] / counts.sum():.3f}"
    assert re.search(rf"class 3 .* {share} ", done.stdout)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape == (4 * 240, 4 * 320, 3)  # seven samples, each twice
    assert sheet[:200, :300].std() > 10


def test_every_problem_is_named_and_the_rest_counted(root: Path) -> None:
    images, masks = root / "train" / "images", root / "train" / "masks"
    (images / "train0.jpg").write_bytes((images / "train0.jpg").read_bytes()[:100])
    cv2.imwrite(str(masks / "train1.png"), np.full((72, 96), 77, np.uint8))
    cv2.imwrite(str(masks / "train2.png"), np.zeros((5, 6), np.uint8))
    (root / "val" / "masks" / "val0.png").unlink()
    done = run_script("check_data", "--data.name", "folder", "--data.root", root)
    assert done.returncode == 1
    assert re.search(r"train0\.jpg: cannot be read", done.stderr)
    assert re.search(r"train1\.png: mask value\(s\) 77 stand for no class", done.stderr)
    assert re.search(r"train2\.png: the mask has 6x5 pixels", done.stderr)
    assert re.search(r"1 image\(s\) without a mask: .*val0\.jpg", done.stderr)
    assert "train: 1 images" in done.stdout
    assert "val: 2 images" in done.stdout  # those that have masks are checked all the same
    assert "4 problems" in done.stdout
    assert "Traceback" not in done.stderr


def test_no_data_at_all(tmp_path: Path) -> None:
    done = run_script("check_data", "--data.name", "folder", "--data.root", tmp_path / "nowhere")
    assert done.returncode == 2
    assert "classes.yaml: cannot be read" in done.stderr


def test_a_sheet_of_one_small_picture(root: Path) -> None:
    spec = get_dataset("folder", root)
    (pair, *_) = spec.pairs(root, "val")
    sheet = contact_sheet(spec, [pair])
    assert sheet.shape == (480, 320, 3)
    assert not np.array_equal(sheet[:240], sheet[240:])  # the mask is painted over the second


def test_the_suggested_weights_are_those_of_the_loss(root: Path) -> None:
    import torch

    report = check_split(get_dataset("folder", root), root, "train")
    weights = inverse_log_weights(torch.from_numpy(report.counts))
    done = run_script("check_data", "--data.name", "folder", "--data.root", root)
    assert re.search(rf"class 5 .* {weights[5]:.2f} ", done.stdout)


def test_labels_that_stop_training_are_problems(root: Path) -> None:
    names = ", ".join(f"class {i}" for i in range(13))
    (root / "classes.yaml").write_text(f"names: [{names}]")
    arguments = ("--data.name", "folder", "--data.root", root)
    done = run_script("check_data", *arguments)
    assert done.returncode == 1
    assert re.search("no training mask has a pixel of class 'class 12'", done.stderr)
    assert "1 problem" in done.stdout
    (root / "classes.yaml").write_text(f"names: [{names}]\nsparse: true")
    assert run_script("check_data", *arguments).returncode == 0


def test_what_is_left_out_is_said(root: Path) -> None:
    (root / "val" / "images" / "._val0.jpg").touch()
    os.mkfifo(root / "val" / "images" / "pipe.jpg")
    done = run_script("check_data", "--data.name", "folder", "--data.root", root)
    assert done.returncode == 0, done.stderr
    expected = "val: left out: hidden files or folders (1), pipes, sockets or devices (1)"
    assert expected in done.stdout
    assert "train: left out" not in done.stdout


def test_class_names_are_text(root: Path) -> None:
    names = ["[/]", "[red]x", "$x^$", "😀", *(f"class {i}" for i in range(8))]
    (root / "classes.yaml").write_text(json.dumps({"names": names}))
    done = run_script("check_data", "--data.name", "folder", "--data.root", root)
    assert done.returncode == 0, done.stderr
    for name in names:
        assert f"│ {name} " in done.stdout


def test_text_is_utf_8_whatever_the_system_says(root: Path) -> None:
    names = ["стена", "😀", *(f"class {i}" for i in range(10))]
    text = f"names: [{', '.join(names)}]"
    (root / "classes.yaml").write_text(text, encoding="utf-8")
    command = [sys.executable, "-X", "utf8=0", "scripts/check_data.py"]
    done = subprocess.run(
        [*command, "--data.name", "folder", "--data.root", str(root)],
        cwd=REPOSITORY,
        env={**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        encoding="ascii",
    )
    assert done.returncode == 0, done.stderr
    assert "\\u0441\\u0442" in done.stdout  # what ASCII cannot show is escaped
