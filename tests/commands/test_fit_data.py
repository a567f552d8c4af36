"""What is wrong with a user's own data stops fit before a network is built or a folder made."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skseg.commands.fit import main as fit


@pytest.fixture(autouse=True)
def _own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["fit.py"])


def write_pair(root: Path, split: str, name: bytes, size: tuple[int, int] = (40, 48)) -> None:
    """Write noise of two classes, under a name of any bytes."""
    rng = np.random.default_rng(len(name))
    parts = {
        b"images": rng.integers(0, 256, (*size, 3), np.uint8),
        b"masks": (np.arange(size[0] * size[1]).reshape(size) % 2).astype(np.uint8),
    }
    for kind, pixels in parts.items():
        folder = os.path.join(os.fsencode(root), split.encode(), kind)
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, name + b".png"), "wb") as file:
            Image.fromarray(pixels).save(file, "PNG")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for name in (b"a", b"b"):
            write_pair(tmp_path / "own", split, name)
    (tmp_path / "own" / "classes.yaml").write_text("names: [ground, disc]")
    return tmp_path / "own"


def arguments(root: Path, *more: str) -> list[str]:
    return [
        *("--config", "configs/folder.yaml", "--data.root", str(root)),
        *("--run_dir", str(root.parent / "run"), "--wandb.enabled", "false"),
        *("--data.batch_size", "2", "--data.crop_size", "[32,32]", "--data.num_workers", "0"),
        *("--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1"),
        *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", *more),
    ]


def spoil(root: Path, kind: str) -> None:
    train = root / "train"
    if kind == "void swallows a class":
        for path in (train / "masks").iterdir():
            Image.fromarray(np.array(Image.open(path)) * 255).save(path)
    elif kind == "mostly void":
        for path in (train / "masks").iterdir():
            mask = np.array(Image.open(path))
            mask[:30] = 255
            Image.fromarray(mask).save(path)
    elif kind == "a missing class":
        (root / "classes.yaml").write_text("names: [ground, disc, cat]")
    elif kind == "16 bits":
        Image.fromarray(np.zeros((40, 48), np.uint16)).save(train / "images" / "b.png")
    elif kind == "validation":
        (root / "val" / "images" / "b.png").write_bytes(b"")
    elif kind == "palettes":
        for i, name in enumerate(("a.png", "b.png")):
            picture = Image.fromarray(np.array(Image.open(train / "masks" / name))).convert("P")
            picture.putpalette([255 * i, 0, 0, 255 - 255 * i, 0, 0])
            picture.save(train / "masks" / name)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("void swallows a class", ("'disc'", "`values: [0, 255]`", "`sparse: true`")),
        ("mostly void", ("75.0 %", "`sparse: true`")),
        ("a missing class", ("'cat'", "`sparse: true`")),
        ("16 bits", ("train/images/b.png", "8 bits")),
        ("validation", ("val/images/b.png", "cannot be read")),
        ("palettes", ("a.png", "b.png", "`colors:`")),
    ],
)
def test_data_that_would_train_wrongly_are_refused(
    root: Path, capsys: pytest.CaptureFixture, kind: str, words: tuple[str, ...]
) -> None:
    spoil(root, kind)
    # No encoder of this name can be built, so the error shows what is checked first.
    assert fit(arguments(root, "--model.encoder_name", "nothing")) == 2
    (error,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error"))
    assert [word for word in words if word not in error] == [], error
    assert not (root.parent / "run").exists()


def test_sparse_labels_train_if_they_are_meant(root: Path) -> None:
    spoil(root, "mostly void")
    (root / "classes.yaml").write_text("names: [ground, disc, cat]\nsparse: true")
    assert fit(arguments(root)) == 0


def test_any_name_and_any_size_trains(root: Path, capsys: pytest.CaptureFixture) -> None:
    names = [b"US$10_and_$20", b"x [a]", "\U0001f600".encode(), b"new\nline", b"caf\xe9", b"truth"]
    for split in ("train", "val"):
        for name in names:
            write_pair(root, split, name)
        write_pair(root, split, b"thin", (300, 1))
        write_pair(root, split, b"dot", (2, 1))
        os.mkfifo(root / split / "images" / "pipe.png")
        (root / split / "images" / "._a.png").touch()
    (root / "classes.yaml").write_text(json.dumps({"names": ["$x^$", "\U0001f600"]}))
    assert fit(arguments(root)) == 0
    assert "Glyph" not in capsys.readouterr().err
    (picture,) = (root.parent / "run" / "pictures").iterdir()
    assert Image.open(picture).size[1] < 6000
