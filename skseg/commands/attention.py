"""What SK units attend to, by class, by size of object and when objects grow: numbers, pictures.

Writes attention.json, images.csv, growth.png, by_class.png, by_size.png and images.png, and says
what they say of two claims: that a larger target gets more weight on the larger kernel in most
channels, and that this is so in low and middle layers only. Several checkpoints must be repetitions
(seeds) of one another; intervals are over networks then, else over images, of which that takes 10.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from skseg.attention.files import (
    check_output,
    growth_table,
    selection_table,
    write_attention,
)
from skseg.attention.observe import observe_attention
from skseg.attention.records import AttentionFile
from skseg.attention.summary import summarize_attention
from skseg.data import default_root, get_dataset
from skseg.errors import UserError, exits_on_mistakes
from skseg.training.task import load_model


def parse(args: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--ckpt_path", required=True, type=Path, nargs="+", help="checkpoints of one or more runs"
    )
    parser.add_argument("--data.name", dest="name", required=True, help="data set")
    parser.add_argument("--data.root", dest="root", type=Path, help="its folder; data/NAME")
    parser.add_argument("--split", default="val", help="split to look at (default: val)")
    parser.add_argument(
        "--output", type=Path, help="folder of the results; attention-SPLIT in the first run's"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace results that exist")
    parser.add_argument(
        "--growth",
        choices=["redraw", "crop"],
        help="how objects grow: drawn again, larger (drawn scenes, their default), or cropped and "
        "enlarged, as in the paper (photographs)",
    )
    parser.add_argument(
        "--window",
        type=int,
        help="side in pixels of what is shown around an object; half an image's shorter side",
    )
    parser.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="factor on the sides of images, as the networks were trained for (default: 1)",
    )
    parser.add_argument("--max_images", type=int, help="look at so many, evenly spread")
    parser.add_argument("--pictures", type=int, default=6, help="images in images.png (default: 6)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    return parser.parse_args(args)


def run(args: argparse.Namespace, console: Console) -> None:
    """Analyse, write the results and print what they say."""
    output = args.output or args.ckpt_path[0].parent.parent / f"attention-{args.split}"
    check_output(output, args.overwrite)
    _check_repetitions(args.ckpt_path)
    tasks = [load_model(path) for path in args.ckpt_path]
    spec = get_dataset(args.name, args.root)
    root = args.root or default_root(args.name)
    observations = observe_attention(
        tasks, spec, root, args.split, args.growth, args.window, args.max_images, args.scale
    )
    record: AttentionFile = {
        "data": args.name,
        "split": args.split,
        "scale": args.scale,
        "checkpoints": [str(path) for path in args.ckpt_path],
        **summarize_attention(observations, tasks[0].class_names, args.seed),
    }
    write_attention(output, record, observations, tasks[0], args.pictures)
    console.print(selection_table(record))
    console.print(growth_table(record))
    for claim in record["claims"].values():
        console.print(f"[bold]{claim['verdict']}[/]: {claim['claim']}", soft_wrap=True)
        console.print(f"  {claim['numbers']}", soft_wrap=True)
    if record["claims_beyond_blur"]:
        console.print("beyond what blurring alone does, as enlarging blurs:", soft_wrap=True)
        for claim in record["claims_beyond_blur"].values():
            console.print(f"  [bold]{claim['verdict']}[/]: {claim['numbers']}", soft_wrap=True)
    console.print(f"  ({record['interval']})", soft_wrap=True)
    console.print(f"results    {output / 'attention.json'}", soft_wrap=True)
    console.print(f"pictures   {output}/*.png", soft_wrap=True)


def _check_repetitions(paths: Sequence[Path]) -> None:
    """Refuse a run that is given twice, which would count as two networks that agree."""
    own = {"last.ckpt", "best.ckpt"}  # two states of one run
    runs = [path.resolve().parent if path.name in own else path.resolve() for path in paths]
    for path, run in zip(paths, runs, strict=True):
        if runs.count(run) > 1:
            raise UserError(f"--ckpt_path {path}: another is of the same run")


@exits_on_mistakes
def main(args: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    run(parse(args), Console())
    return 0
