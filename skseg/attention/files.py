"""The files of an analysis of attention."""

import csv
import json
from pathlib import Path

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
from skseg.attention.records import AttentionFile, AttentionRecord
from skseg.errors import UserError
from skseg.files import whole_file
from skseg.metrics.estimates import interval_words
from skseg.training.task import SegmentationTask
from skseg.viz import save_figure

_RECORD = "attention.json"


def check_output(output: Path, overwrite: bool) -> None:
    """Check that results can be written to a folder.

    Raises:
        UserError: The folder has results and `overwrite` is false, or it is a file.
    """
    if (output / _RECORD).exists() and not overwrite:
        raise UserError(
            f"{output / _RECORD} already exists; choose another `output`, or `overwrite`"
        )
    if output.exists() and not output.is_dir():
        raise UserError(f"`output` {output} is a file")


def write_attention(
    output: Path,
    record: AttentionFile,
    observations: Observations,
    task: SegmentationTask,
    pictures: int,
) -> None:
    """Write all results to a folder.

    These are `attention.json`; `images.csv`, with the branches' weights in each stage and the
    preferred kernel of each image (first network); `growth.png`, `by_class.png`, `by_size.png` and
    `images.png`.

    Args:
        output: The folder, created if missing.
        record: The content of `attention.json`.
        observations: The observations that it was computed from.
        task: The first network, for its classes and colors.
        pictures: Number of images in `images.png`, evenly spread; 0 for none.
    """
    output.mkdir(parents=True, exist_ok=True)
    kernels = branch_names(observations.units)
    with (output / "images.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "stage", "preferred", *kernels])
        for whole in observations.whole:
            for stage, weights in stage_weights(whole.weights, observations.units).items():
                preferred = kernels[int(np.argmax(weights))]
                writer.writerow([whole.sample.name, stage, preferred, *weights])
    title = "weight of the largest kernel in %, objects at original size, by {} (number of objects)"
    figures = {
        "growth": plot_growth(record),
        "by_class": plot_groups(record, "by_class", title.format("class")),
        "by_size": plot_groups(record, "by_size", title.format("size")),
    }
    if pictures > 0:
        count = min(pictures, len(observations.whole))
        chosen = np.linspace(0, len(observations.whole) - 1, count).astype(int)
        figures["images"] = plot_images(
            [observations.whole[i] for i in chosen],
            observations.units,
            task.class_names,
            task.colors,
        )
    for name, figure in figures.items():
        save_figure(figure, output / f"{name}.png")
    # Last, as its presence marks the results as complete.
    with whole_file(output / _RECORD) as part:
        part.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def growth_table(record: AttentionRecord) -> Table:
    """Return a table of how each stage changes when objects grow."""
    growth = record["growth"]
    table = Table(title=f"objects grow from 1x to {growth['factors'][-1]:g}x")
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


def selection_table(record: AttentionRecord) -> Table:
    """Return a table of how much attention depends on the image, and what that is worth."""
    selection = record["selection"]
    table = Table(title="standard deviation of the largest kernel's weight, points")
    for column in ("stage", "of a channel over images", "over channels"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage, variation in selection["variation"].items():
        cells = [
            f"{100 * found['value']:.2f}{interval_words(found, 100, '.2f')}"
            for found in (variation["over_images"], variation["over_channels"])
        ]
        table.add_row(stage, *cells)
    difference = selection["difference"]
    table.caption = (
        f"{record['images']} whole images. mIoU is {100 * selection['miou']['value']:.2f}, and "
        f"{100 * selection['miou_fixed']['value']:.2f} with each unit's attention fixed at its "
        f"mean. Following the image is worth {100 * difference['value']:+.2f} points"
        f"{interval_words(difference, 100, '+.2f')}"
    )
    return table
