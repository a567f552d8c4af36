"""Drawn scenes as files in the layout of Cityscapes."""

import json
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from skseg.errors import UserError
from skseg.progress import track
from skseg.streets.placement import Growth
from skseg.streets.scene import Scene, draw_scene

_RECORD = "streets.json"
_MIN_SIDE = 32


def draw_dataset(
    root: str | Path,
    train: int = 240,
    val: int = 60,
    height: int = 256,
    width: int = 512,
    seed: int = 0,
    workers: int = 2,
) -> None:
    """Draw a training and a validation split; the files do not depend on `workers`.

    The directory appears when all of it is drawn. A complete one is left unchanged, so the call may
    be repeated.

    Args:
        root: The directory to make.
        train: Number of scenes in the training split.
        val: Number of scenes in the validation split.
        height: Height of the images, in pixels.
        width: Width of the images, in pixels.
        seed: Seed that determines all scenes.
        workers: Number of processes that draw; 0 draws in this process.

    Raises:
        UserError: `root` holds something else, or a number is out of range.

    Example:
        >>> root = Path(tempfile.mkdtemp()) / "streets"
        >>> draw_dataset(root, train=1, val=1, height=32, width=64, workers=0)
        >>> len(list(root.glob("leftImg8bit/*/drawn/*.png")))
        2
    """
    root = Path(root).resolve()
    record = {"train": train, "val": val, "height": height, "width": width, "seed": seed}
    if min(train, val) < 1 or min(height, width) < _MIN_SIDE or min(seed, workers) < 0:
        raise UserError(
            f"cannot draw {record} with {workers} workers: train and val must be at least 1, "
            f"height and width at least {_MIN_SIDE}, seed and workers at least 0"
        )
    if _is_complete(root, record):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    # Drawn beside the root and moved there at the end: an interrupted drawing leaves no root.
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as scratch:
        folder = Path(scratch) / root.name
        jobs = [
            (folder, split, number, height, width, seed)
            for split, count in (("train", train), ("val", val))
            for number in range(count)
        ]
        for split in ("train", "val"):
            (folder / "leftImg8bit" / split / "drawn").mkdir(parents=True)
            (folder / "gtFine" / split / "drawn").mkdir(parents=True)
        if workers == 0:
            for job in track(jobs, "drawing"):
                _draw(*job)
        else:
            with ProcessPoolExecutor(workers, initializer=_use_one_thread) as pool:
                futures = [pool.submit(_draw, *job) for job in jobs]
                for future in track(as_completed(futures), "drawing", len(jobs)):
                    future.result()
        (folder / _RECORD).write_text(json.dumps(record) + "\n", encoding="utf-8")
        folder.replace(root)


def _is_complete(root: Path, record: dict[str, int]) -> bool:
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    found = root / _RECORD
    if found.is_file():
        there = found.read_text(encoding="utf-8").strip()
        if there == json.dumps(record):
            return True
        raise UserError(
            f"{root} already holds scenes drawn with {there}, not {json.dumps(record)}; "
            "remove it or choose another root"
        )
    raise UserError(f"{root} already holds something else; choose another root")


def _draw(folder: Path, split: str, number: int, height: int, width: int, seed: int) -> None:
    scene = draw_scene(_scene_seed(seed, split, number), height, width)
    # City, sequence and frame, as in the names of Cityscapes.
    stem = f"drawn_{number:06d}_000019"
    annotation = folder / "gtFine" / split / "drawn"
    pictures: dict[Path, NDArray[np.uint8] | NDArray[np.uint16]] = {
        folder / "leftImg8bit" / split / "drawn" / f"{stem}_leftImg8bit.png": scene.image,
        annotation / f"{stem}_gtFine_labelIds.png": scene.label_ids,
        annotation / f"{stem}_gtFine_instanceIds.png": scene.instance_ids,
    }
    for path, picture in pictures.items():
        PillowImage.fromarray(picture).save(path, compress_level=4)


def redraw(root: str | Path, split: str, name: str, growth: Growth | None = None) -> Scene:
    """Draw a scene of a drawn data set again, optionally with one of its things grown.

    Args:
        root: The directory that `draw_dataset` made.
        split: The split of the scene.
        name: The name of the scene, as in `DatasetSpec.pairs`.
        growth: A thing to draw larger; by default the scene is the one in the files.

    Raises:
        UserError: `root` was not made by `draw_dataset`.
    """
    record = Path(root) / _RECORD
    if not record.is_file():
        raise UserError(f"{root} has no {_RECORD}: only scenes drawn here can be drawn again")
    drawn = json.loads(record.read_text(encoding="utf-8"))
    seed = _scene_seed(drawn["seed"], split, int(name.split("_")[-2]))
    return draw_scene(seed, drawn["height"], drawn["width"], growth)


def _scene_seed(seed: int, split: str, number: int) -> int:
    entropy = np.random.SeedSequence((seed, ("train", "val").index(split), number))
    return int(entropy.generate_state(1)[0])


def _use_one_thread() -> None:
    cv2.setNumThreads(0)
