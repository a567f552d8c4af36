"""Evaluation of a trained model on a whole split: every number, in one pass."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from skseg.data import DatasetSpec, Pair, get_dataset, read_pair
from skseg.errors import UserError
from skseg.inference import InferenceSettings, best_device, predict
from skseg.metrics import (
    ComparisonRecord,
    Counts,
    EvaluationRecord,
    compare_miou,
    count_image,
    full_record,
    miou,
    miou_interval,
)
from skseg.training.task import SegmentationTask
from skseg.types import Image, Mask
from skseg.viz import Example, shrink

_EXTREMES = 3
_PACKAGES = (
    "skseg",
    "torch",
    "numpy",
    "segmentation-models-pytorch",
    "timm",
    "opencv-python-headless",
)

T = TypeVar("T")


class Ranked(NamedTuple):
    """An image and its own mIoU, over the classes in its truth or prediction."""

    miou: float
    sample: Example


@dataclass(frozen=True)
class Evaluation:
    """What is known of a model on a split.

    Attributes:
        record: of `evaluation.json`.
        names: of the N images.
        counts: [N, K, 3] hits, pixels of truth and of prediction, by image and class.
        samples: a few predictions, evenly spread over the split.
        best: the images with the highest mIoU, the highest first.
        worst: those with the lowest, the lowest first.
    """

    record: EvaluationRecord
    names: list[str]
    counts: NDArray[np.int64]
    samples: list[Example]
    best: list[Ranked]
    worst: list[Ranked]


class _Pictures(Dataset[tuple[Image, Mask]]):
    """Images and masks as they are in their files."""

    def __init__(self, spec: DatasetSpec, pairs: Sequence[Pair]) -> None:
        self.spec = spec
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Image, Mask]:
        return read_pair(self.spec, self.pairs[index])


class Stopwatch:
    """Adds up the time of each part of a loop, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, part: str, work: Callable[[], T]) -> T:
        """Do some work and book its time."""
        start = time.perf_counter()
        result = work()
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start
        return result


def evaluate(
    task: SegmentationTask,
    data_name: str,
    root: str | Path,
    split: str,
    settings: InferenceSettings = InferenceSettings(),  # noqa: B008  frozen
    num_workers: int = 1,
    seed: int = 0,
    samples: int = 4,
    on_prediction: Callable[[str, Mask], None] | None = None,
) -> Evaluation:
    """Score a model on the images of a split, one by one at their own size.

    Args:
        task: a trained model, see `skseg.load_model`.
        data_name: name of the data set, a key of `skseg.data.DATASETS`.
        root: its directory.
        split: one of its splits.
        settings: how images go through the network.
        num_workers: processes that read images while the network works.
        seed: of the bootstrap that estimates the interval of mIoU.
        samples: number of predictions to keep, evenly spread over the split.
        on_prediction: called with each image's name and class indices [H, W].

    Raises:
        UserError: no such data, or its classes are not the model's.
    """
    spec = get_dataset(data_name, root)
    check_classes(task, spec)
    pairs = spec.pairs(Path(root), split)
    kept = set(np.linspace(0, len(pairs) - 1, samples).astype(int).tolist())
    device = best_device()
    task = task.to(device).eval()
    loader = iter(DataLoader(_Pictures(spec, pairs), batch_size=None, num_workers=num_workers))
    watch = Stopwatch()
    total: Counts | None = None
    by_image, shown, best, worst = [], [], list[Ranked](), list[Ranked]()
    for i, pair in enumerate(track(pairs, f"{data_name} {split}", transient=True)):
        image, truth = map(np.asarray, watch("loading", lambda: next(loader)))
        predicted = watch("network", lambda: predict(task, image, settings))  # noqa: B023  at once
        counts = watch(
            "metrics",
            lambda: count_image(truth, *predicted, len(spec.classes)),  # noqa: B023
        )
        total = counts if total is None else total + counts
        by_image.append(counts.by_class())
        if on_prediction is not None:
            on_prediction(pair.name, predicted.indices)
        sample = shrink(Example(pair.name, image, truth, predicted.indices))
        if i in kept:
            shown.append(sample)
        own = float(miou(by_image[-1]))
        if not np.isnan(own):
            best = sorted([*best, Ranked(own, sample)], key=lambda r: -r.miou)[:_EXTREMES]
            worst = sorted([*worst, Ranked(own, sample)], key=lambda r: r.miou)[:_EXTREMES]
    assert total is not None, "a split is never empty"
    record = {
        "data": data_name,
        "split": split,
        "images": len(pairs),
        **full_record(total, task.class_names, spec.classes.categories),
        "miou_interval": miou_interval(np.stack(by_image), seed),
        "inference": asdict(settings),
        "seconds": watch.seconds,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "versions": {name: version(name) for name in _PACKAGES},
    }
    names = [pair.name for pair in pairs]
    return Evaluation(cast(EvaluationRecord, record), names, np.stack(by_image), shown, best, worst)


def check_classes(task: SegmentationTask, spec: DatasetSpec) -> None:
    """Raise UserError where a model's classes are not the data set's."""
    if list(spec.classes.names) != task.class_names:
        raise UserError(
            f"the checkpoint's classes are {', '.join(task.class_names)}; "
            f"{spec.name} has {', '.join(spec.classes.names)}"
        )


def compare(first: Evaluation, second: Evaluation, seed: int = 0) -> ComparisonRecord:
    """Compare two models on the same images: the record of `comparison.json`.

    Args:
        first: one model's evaluation.
        second: the other's, of the same split.
        seed: of the resamples.

    Returns:
        `miou` of both, their `difference` (second minus first) with its 95 % `interval` and
        two-sided `p_value` of a paired bootstrap over images, and `iou` of both by class; fractions
        from 0 to 1, None where undefined.
    """
    assert first.names == second.names, "the same images"
    found = compare_miou(first.counts, second.counts, seed)
    a, b = first.record, second.record
    return {
        "miou": (a["miou"], b["miou"]),
        "difference": found and found.value,
        "interval": found and found.interval,
        "p_value": found and found.p_value,
        "iou": {name: (a["iou"][name], b["iou"][name]) for name in a["iou"]},
    }
