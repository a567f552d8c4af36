"""The files of an analysis of attention."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from skseg.attention.observe import Observations
from skseg.attention.plots import (
    branch_names,
    plot_groups,
    plot_growth,
    plot_images,
    stage_weights,
)
from skseg.errors import UserError
from skseg.metrics.estimates import interval_words
from skseg.training.task import SegmentationTask

_RECORD = "attention.json"


def check_output(output: Path, overwrite: bool) -> None:
    """Raise UserError where results would replace others that the user wants to keep."""
    if (output / _RECORD).exists() and not overwrite:
        raise UserError(
            f"{output / _RECORD} exists already; choose another --output, or --overwrite"
        )
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: is a file")


def write_attention(
    output: Path,
    record: dict[str, Any],
    seen: Observations,
    task: SegmentationTask,
    pictures: int,
) -> None:
    """Write all results to a folder.

    `attention.json`; `images.csv`, the branches' weights in each stage and the preferred kernel of
    each image (first network); `growth.png`, `by_class.png`, `by_size.png` and `images.png`.

    Args:
        output: folder, made if missing.
        record: of `skseg.attention.claims.attention_record`, with what else to write.
        seen: what it comes from.
        task: the first network, for its classes and colours.
        pictures: how many images to draw, evenly spread.
    """
    output.mkdir(parents=True, exist_ok=True)
    kernels = branch_names(seen.units)
    with (output / "images.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "stage", "preferred", *kernels])
        for whole in seen.whole:
            for stage, weights in stage_weights(whole.weights, seen.units).items():
                preferred = kernels[int(np.argmax(weights))]
                writer.writerow([whole.sample.name, stage, preferred, *weights])
    what = "weight of the largest kernel, %, {} as they are (number)"
    figures = {
        "growth": plot_growth(record),
        "by_class": plot_groups(record, "by_class", what.format("objects of a class")),
        "by_size": plot_groups(record, "by_size", what.format("objects of a size")),
    }
    if pictures > 0:
        count = min(pictures, len(seen.whole))
        chosen = np.linspace(0, len(seen.whole) - 1, count).astype(int)
        figures["images"] = plot_images(
            [seen.whole[i] for i in chosen], seen.units, task.class_names, task.colors
        )
    for name, figure in figures.items():
        figure.savefig(output / f"{name}.png")
    text = json.dumps(record, indent=1, allow_nan=False)
    (output / _RECORD).write_text(text + "\n")  # last, as it stands for all of them


def growth_table(record: dict[str, Any]) -> Table:
    """Tabulate what growth does to each stage."""
    growth = record["growth"]
    table = Table(title=f"an object grows from 1x to {growth['factors'][-1]:g}x")
    table.add_column("stage")
    table.add_column("channels", justify="right")
    table.add_column("weight of the largest kernel, points", justify="right")
    table.add_column("channels that rise, %", justify="right")
    for stage, change in growth["by_stage"].items():
        rise, share = change["rise"], change["rising_channels"]
        table.add_row(
            stage,
            str(change["channels"]),
            f"{100 * rise['value']:+.2f}{interval_words(rise, 100, '+.2f')}",
            f"{100 * share['value']:.1f}{interval_words(share, 100, '.1f')}",
        )
    table.caption = f"{growth['objects']} objects on {growth['images']} images"
    return table


def selection_table(record: dict[str, Any]) -> Table:
    """Tabulate how far attention follows the image, and say what that is worth."""
    selection = record["selection"]
    table = Table(title="standard deviation of the largest kernel's weight, points")
    for column in ("stage", "of a channel, over images", "of channels"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage, found in selection["variation"].items():
        cells = [
            f"{100 * found[key]['value']:.2f}{interval_words(found[key], 100, '.2f')}"
            for key in ("over_images", "over_channels")
        ]
        table.add_row(stage, *cells)
    miou, fixed, difference = (selection[key] for key in ("miou", "miou_fixed", "difference"))
    table.caption = (
        f"{record['images']} whole images. mIoU {100 * miou['value']:.2f}, and with each unit's "
        f"mean attention instead {100 * fixed['value']:.2f}: following the image is worth "
        f"{100 * difference['value']:+.2f} points{interval_words(difference, 100, '+.2f')}"
    )
    return table
