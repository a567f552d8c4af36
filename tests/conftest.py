"""Small data sets as real files, drawn once a session."""

import os
import shutil
from pathlib import Path

# Before torch starts its threads: tests run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")

import cv2
import numpy as np
import pytest
from running import run_script

from skseg.streets import draw_dataset

# Programs that tests start, and not modules with examples.
collect_ignore = ["fork_server.py", "training/validating.py"]


@pytest.fixture(scope="session")
def streets_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four training and three validation scenes of 64x128 in the Cityscapes layout."""
    root = tmp_path_factory.mktemp("streets") / "streets"
    draw_dataset(root, train=4, val=3, height=64, width=128, seed=0, workers=0)
    return root


@pytest.fixture(scope="session")
def camvid_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four training and three validation pictures of 72x96 in CamVid's layout, of blocks."""
    root = tmp_path_factory.mktemp("camvid")
    generator = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 3)):
        (root / split / "images").mkdir(parents=True)
        (root / split / "masks").mkdir(parents=True)
        for i in range(count):
            blocks = generator.integers(0, 12, (6, 8), dtype=np.uint8)
            mask = np.kron(blocks, np.ones((12, 12), np.uint8))
            image = np.stack([mask * 20, 255 - mask * 20, mask * 10], axis=-1)
            cv2.imwrite(str(root / split / "images" / f"{split}{i}.jpg"), image)
            cv2.imwrite(str(root / split / "masks" / f"{split}{i}.png"), mask)
    return root


@pytest.fixture(scope="session")
def folder_root(camvid_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures in the layout of the data set `folder`."""
    root = tmp_path_factory.mktemp("folder") / "own"
    shutil.copytree(camvid_root, root)
    (root / "classes.yaml").write_text(f"names: [{', '.join(f'class {i}' for i in range(12))}]")
    return root


@pytest.fixture(scope="session")
def run_dir(streets_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run of configs/streets.yaml through the real script."""
    directory = tmp_path_factory.mktemp("runs") / "streets"
    arguments = ["--data.root", streets_root, "--data.batch_size", 2, "--data.crop_size", "[64,64]"]
    arguments += ["--trainer.max_epochs", 2, "--trainer.check_val_every_n_epoch", 1]
    arguments += ["--trainer.log_every_n_steps", 1]
    done = run_script("fit", "--config", "configs/streets.yaml", "--run_dir", directory, *arguments)
    assert done.returncode == 0, done.stderr
    (directory / "stdout.txt").write_text(done.stdout)
    (directory / "stderr.txt").write_text(done.stderr)
    return directory
