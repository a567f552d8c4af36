"""Evaluation of a trained model on a whole split, and what it leaves behind."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch.utils.data import DataLoader

from skseg.data import SegmentationDataset, eval_transform, get_dataset
from skseg.errors import UserError
from skseg.metrics import confusion_matrix, evaluation_record
from skseg.report import Sample, plot_samples, to_picture
from skseg.task import SegmentationTask


def best_device() -> torch.device:
    """Return a CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.inference_mode()
def evaluate(
    task: SegmentationTask,
    data_name: str,
    root: str | Path,
    split: str,
    num_workers: int = 1,
    samples: int = 4,
) -> tuple[dict[str, Any], list[Sample]]:
    """Score a model on whole images of a split, one by one.

    Args:
        task: a trained model, see `skseg.load_model`.
        data_name: name of the data set, a key of `skseg.data.DATASETS`.
        root: its directory.
        split: one of its splits.
        num_workers: processes that read images.
        samples: number of predictions to keep, evenly spread over the split.

    Returns:
        The record of `evaluation.json`, see `skseg.metrics.evaluation_record`, and the samples.

    Raises:
        UserError: no such data, or its classes are not the model's.
    """
    spec = get_dataset(data_name, root)
    if list(spec.classes.names) != task.class_names:
        raise UserError(
            f"the checkpoint's classes are {', '.join(task.class_names)}; "
            f"{data_name} has {', '.join(spec.classes.names)}"
        )
    transform = eval_transform(task.mean, task.std)
    dataset = SegmentationDataset(spec, root, split, transform)
    kept = set(np.linspace(0, len(dataset) - 1, samples).astype(int).tolist())
    device = best_device()
    task = task.to(device).eval()
    confusion = confusion_matrix(len(task.class_names)).to(device)
    shown = []
    loader = DataLoader(dataset, num_workers=num_workers)
    for i, batch in enumerate(track(loader, f"{data_name} {split}", transient=True)):
        predicted = task(batch["image"].to(device)).argmax(1)
        confusion.update(predicted, batch["mask"].to(device))
        if i in kept:
            shown.append(
                Sample(
                    batch["name"][0],
                    to_picture(batch["image"][0], task.mean, task.std),
                    batch["mask"][0].numpy().astype(np.uint8),
                    predicted[0].cpu().numpy().astype(np.uint8),
                )
            )
    record = {
        "data": data_name,
        "split": split,
        "images": len(dataset),
        **evaluation_record(confusion.compute(), task.class_names),
    }
    return record, shown


def write_evaluation(
    output: Path, record: dict[str, Any], samples: list[Sample], task: SegmentationTask
) -> Path:
    """Write `evaluation.json`, `evaluation.csv` and `predictions.png`; return the picture's path.

    Args:
        output: folder, made if missing.
        record: what `evaluate` returned.
        samples: likewise.
        task: the model, for its classes and colours.
    """
    output.mkdir(parents=True, exist_ok=True)
    (output / "evaluation.json").write_text(json.dumps(record, indent=1) + "\n")
    with (output / "evaluation.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "iou", "accuracy"])
        for name, iou in record["iou"].items():
            writer.writerow([name, iou, record["accuracy"][name]])
    picture = output / "predictions.png"
    plot_samples(samples, task.class_names, task.colors).savefig(picture)
    return picture
