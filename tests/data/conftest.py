from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Save = Callable[..., Path]


@pytest.fixture
def save() -> Save:
    """Writes an array, or a size filled with a value, as a picture."""

    def save(path: Path, pixels: np.ndarray | tuple[int, ...], value: int = 0) -> Path:
        if isinstance(pixels, tuple):
            pixels = np.full(pixels, value, np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        return path

    return save


@pytest.fixture
def noise_root(tmp_path: Path, save: Save) -> Path:
    """Nine training and five validation pairs of noise in CamVid's layout, new for each test."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 9), ("val", 5)):
        for i in range(count):
            image = rng.integers(0, 256, (40, 56, 3), np.uint8)
            save(tmp_path / "camvid" / split / "images" / f"{i}.png", image)
            mask = rng.integers(0, 12, (40, 56), np.uint8)
            save(tmp_path / "camvid" / split / "masks" / f"{i}.png", mask)
    return tmp_path / "camvid"
