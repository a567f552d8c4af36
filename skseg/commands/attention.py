"""`skseg attention`: what SK units attend to, in numbers and pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.text import Text

from skseg.attention.files import (
    check_output,
    growth_table,
    selection_table,
    write_attention,
)
from skseg.attention.observe import observe_attention
from skseg.attention.records import AttentionFile, ClaimRecord
from skseg.attention.summary import summarize_attention
from skseg.commands.flags import DataFlags
from skseg.commands.parser import run_command
from skseg.commands.runs import find_checkpoint, find_data, run_folder
from skseg.data import get_dataset
from skseg.errors import UserError
from skseg.training.task import load_model


def attention(
    ckpt_path: Sequence[Path],
    *,
    data: DataFlags,
    split: str | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    growth: Literal["redraw", "crop"] | None = None,
    window: int | None = None,
    scale: float = 1.0,
    max_images: int | None = None,
    pictures: int = 6,
    seed: int = 0,
) -> int:
    """Measure what SK units attend to, by class, by size of object, and as objects grow.

    Writes attention.json, images.csv, growth.png, by_class.png, by_size.png and images.png, and
    tests two claims: that a larger object gets more weight on the larger kernel in most channels,
    and that this holds in low and middle layers only. Several checkpoints must be repetitions
    (seeds) of one another: intervals are then over networks. With one checkpoint they are over
    images, at least 10.

    Examples:
        skseg attention runs/demo
        skseg attention runs/seed0 runs/seed1 runs/seed2 --split val --output out

    Args:
        ckpt_path: Folders of one or more runs, or checkpoints.
        data: The data set.
        split: Split to measure on; when unset, the one that the run was validated on, or val.
        output: Folder of the results; attention-SPLIT in the first run's folder when unset.
        overwrite: Replace results that exist.
        growth: How objects grow: drawn again, larger (the default for drawn scenes), or cropped
            and enlarged, as in the paper (the default for photographs).
        window: Side in pixels of the region around an object; half an image's shorter side when
            unset.
        scale: Factor on the sides of images, as the networks were trained for.
        max_images: Measure on at most N images, evenly spread.
        pictures: Number of images in images.png.
        seed: Seed of the bootstrap.
    """
    console = Console(markup=False, emoji=False)  # paths and names are only text
    checkpoints = [find_checkpoint(path) for path in ckpt_path]
    name, root, split = find_data(data, checkpoints, split)
    output = output or run_folder(checkpoints[0]) / f"attention-{split}"
    check_output(output, overwrite)
    _check_repetitions(checkpoints)
    tasks = [load_model(path) for path in checkpoints]
    spec = get_dataset(name, root)
    observations = observe_attention(tasks, spec, root, split, growth, window, max_images, scale)
    record: AttentionFile = {
        "data": name,
        "split": split,
        "scale": scale,
        "checkpoints": [str(path) for path in checkpoints],
        **summarize_attention(observations, tasks[0].class_names, seed),
    }
    write_attention(output, record, observations, tasks[0], pictures)
    console.print(selection_table(record))
    console.print(growth_table(record))
    for claim in record["claims"].values():
        console.print(Text.assemble(_verdict(claim), claim["claim"]), soft_wrap=True)
        console.print(f"  {claim['numbers']}", soft_wrap=True)
    if record["claims_beyond_blur"]:
        console.print("beyond the effect of blur, which enlarging adds:", soft_wrap=True)
        for claim in record["claims_beyond_blur"].values():
            line = Text.assemble("  ", _verdict(claim), claim["numbers"])
            console.print(line, soft_wrap=True)
    console.print(f"  ({record['interval']})", soft_wrap=True)
    console.print(f"results    {output / 'attention.json'}", soft_wrap=True)
    console.print(f"pictures   {output}/*.png", soft_wrap=True)
    return 0


def _verdict(claim: ClaimRecord) -> Text:
    return Text.assemble((claim["verdict"], "bold"), ": ")


def _check_repetitions(paths: Sequence[Path]) -> None:
    """Raise UserError where a run is given twice; it would count as two networks that agree."""
    own = {"last.ckpt", "best.ckpt"}  # two states of one run
    runs = [path.resolve().parent if path.name in own else path.resolve() for path in paths]
    for path, run in zip(paths, runs, strict=True):
        if runs.count(run) > 1:
            raise UserError(f"`ckpt_path` {path}: another is of the same run")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    return run_command(attention, args)
