"""Evaluation of a trained model on a whole split: every number, in one pass."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from skseg.data import DatasetSpec, read_pair
from skseg.data.headers import checked_pairs
from skseg.errors import UserError
from skseg.evaluation.reading import read_ahead
from skseg.evaluation.timing import Stopwatch
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
from skseg.metrics.records import WeightsRecord
from skseg.progress import track
from skseg.training.checkpoints import WeightsSource
from skseg.training.task import SegmentationTask
from skseg.types import Mask
from skseg.viz import Example, shrink

_EXTREMES = 3
"""How many of the best and of the worst images to keep."""

# Packages that decide the numbers.
_PACKAGES = (
    "skseg",
    "torch",
    "numpy",
    "segmentation-models-pytorch",
    "timm",
    "opencv-python-headless",
)


class Ranked(NamedTuple):
    """An image and its own mIoU, over the classes in its truth or prediction."""

    miou: float
    sample: Example


@dataclass(frozen=True)
class Evaluation:
    """The results of a model on a split.

    Attributes:
        record: The content of `evaluation.json`.
        names: Names of the N images.
        counts: [N, K, 3] hits, pixels of truth and pixels of prediction, by image and class.
        samples: A few predictions, evenly spread over the split.
        best: The images with the highest mIoU, the highest first.
        worst: The images with the lowest mIoU, the lowest first.
        source: Which weights the model has, if it was loaded from a checkpoint.
    """

    record: EvaluationRecord
    names: list[str]
    counts: NDArray[np.int64]
    samples: list[Example]
    best: list[Ranked]
    worst: list[Ranked]
    source: WeightsSource | None = None


def evaluate(
    task: SegmentationTask,
    spec: DatasetSpec,
    root: str | Path,
    split: str,
    settings: InferenceSettings = InferenceSettings(),  # noqa: B008  frozen
    num_workers: int = 1,
    seed: int = 0,
    samples: int = 4,
    on_prediction: Callable[[str, Mask], None] | None = None,
    checkpoint: str | Path | None = None,
) -> Evaluation:
    """Score a model on the images of a split, one by one at their own size.

    Args:
        task: A trained model, see `skseg.load_model`.
        spec: The data set, see `skseg.data.get_dataset`.
        root: Its directory.
        split: One of its splits.
        settings: How images go through the network.
        num_workers: Number of processes that read images while the network works.
        seed: Seed of the bootstrap that estimates the interval of mIoU.
        samples: Number of predictions to keep, evenly spread over the split.
        on_prediction: Called with each image's name and class indices [H, W].
        checkpoint: File that the model was loaded from, for the record; left out when None.

    Raises:
        UserError: There is no such data, or its classes are not the model's.

    Example:
        >>> import tempfile
        >>> from skseg.data import get_dataset
        >>> from skseg.streets import draw_dataset
        >>> root = Path(tempfile.mkdtemp())
        >>> draw_dataset(root, train=1, val=2, height=64, width=128, seed=0, workers=0)
        >>> streets = get_dataset("streets")
        >>> task = SegmentationTask(
        ...     streets.classes.names, streets.classes.colors, (0.5,) * 3, (0.25,) * 3,
        ...     encoder_name="sknet_tiny",
        ... )
        >>> evaluation = evaluate(task, streets, root, "val", num_workers=0)
        >>> evaluation.record["images"], evaluation.counts.shape
        (2, (2, 19, 3))
    """
    check_classes(task, spec)
    pairs = checked_pairs(spec, Path(root), split)
    device = best_device()
    task = task.to(device).eval()
    watch, ranking = Stopwatch(), _Ranking(_EXTREMES)
    total: Counts | None = None
    by_image: list[NDArray[np.int64]] = []
    kept: list[Example] = []
    places = set(np.linspace(0, len(pairs) - 1, samples).astype(int).tolist())
    files = read_ahead(partial(read_pair, spec), pairs, num_workers)
    for i, pair in enumerate(track(pairs, f"{spec.name} {split}")):
        with watch.time("loading"):
            image, truth = next(files)
        with watch.time("network"):
            predicted = predict(task, image, settings)
        with watch.time("metrics"):
            counts = count_image(truth, *predicted, len(spec.classes))
        if on_prediction is not None:
            on_prediction(pair.name, predicted.indices)
        sample = shrink(Example(pair.name, image, truth, predicted.indices))
        if i in places:
            kept.append(sample)
        total = counts if total is None else total + counts
        by_image.append(counts.by_class())
        ranking.add(Ranked(float(miou(by_image[-1])), sample))
    assert total is not None, "a split is never empty"
    counts_by_class = np.stack(by_image)
    record = {
        "data": spec.name,
        "split": split,
        "images": len(pairs),
        **full_record(total, task.class_names, spec.classes.categories),
        "miou_interval": miou_interval(counts_by_class, seed),
        "inference": asdict(settings),
        "seconds": watch.seconds,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "versions": {name: version(name) for name in _PACKAGES},
        **({} if checkpoint is None else {"checkpoint": str(checkpoint)}),
        "root": str(Path(root).resolve()),
        **({} if task.source is None else _weights(task.source)),
    }
    return Evaluation(
        cast(EvaluationRecord, record),
        [pair.name for pair in pairs],
        counts_by_class,
        kept,
        ranking.best,
        ranking.worst,
        task.source,
    )


def _weights(source: WeightsSource) -> WeightsRecord:
    return {"weights": source.weights, "epoch": source.epoch, "step": source.step}


class _Ranking:
    """Keeps the best and the worst images; an image without any class has no rank."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.best: list[Ranked] = []
        self.worst: list[Ranked] = []

    def add(self, ranked: Ranked) -> None:
        """Keep an image if it belongs to either; of equal ones the first."""
        if np.isnan(ranked.miou):
            return
        self.best = sorted([*self.best, ranked], key=lambda r: -r.miou)[: self.size]
        self.worst = sorted([*self.worst, ranked], key=lambda r: r.miou)[: self.size]


def check_classes(task: SegmentationTask, spec: DatasetSpec) -> None:
    """Raise UserError if a model's classes are not those of the data set."""
    if list(spec.classes.names) != task.class_names:
        raise UserError(
            f"the checkpoint's classes are {', '.join(task.class_names)}; "
            f"{spec.name} has {', '.join(spec.classes.names)}"
        )


def compare(first: Evaluation, second: Evaluation, seed: int = 0) -> ComparisonRecord:
    """Compare two models on the same images: the record of `comparison.json`.

    Args:
        first: The evaluation of one model.
        second: The evaluation of another model on the same split.
        seed: Seed of the resamples.

    Returns:
        `names` and `weights` of both checkpoints if the evaluations have them, `miou` of both,
        their `difference` (second minus first) with its 95 % `interval` and two-sided `p_value` of
        a paired bootstrap over images, and `iou` of both by class; fractions from 0 to 1, None
        where undefined.
    """
    assert first.names == second.names, "the same images"
    found = compare_miou(first.counts, second.counts, seed)
    a, b = first.record, second.record
    record: ComparisonRecord = {
        "miou": (a["miou"], b["miou"]),
        "difference": found and found.value,
        "interval": found and found.interval,
        "p_value": found and found.p_value,
        "iou": {name: (a["iou"][name], b["iou"][name]) for name in a["iou"]},
    }
    if "checkpoint" in a and "checkpoint" in b:
        record = {"names": (a["checkpoint"], b["checkpoint"]), **record}
    if first.source is not None and second.source is not None:
        record["weights"] = (_weights(first.source), _weights(second.source))
    return record
