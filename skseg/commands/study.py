"""Run a study: what is missing of its runs, and the report on those that are done."""

import argparse
import os
from pathlib import Path

import yaml
from rich.console import Console

from skseg.errors import UserError, exits_on_mistakes
from skseg.study.matrix import read_study
from skseg.study.runner import Runner, Stopped


@exits_on_mistakes
def main(args: list[str] | None = None) -> int:
    """Run the command; return its exit code, 1 if runs failed, 130 if it was stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, type=Path, help="configs/studies/NAME.yaml")
    parser.add_argument("--data.root", dest="root", type=Path, help="directory of the data")
    parser.add_argument("--output", type=Path, help="of the results; docs/results/NAME")
    parser.add_argument("--runs", type=Path, help="of the run folders; runs/studies/NAME")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side")
    parser.add_argument("--limit", type=int, help="number of runs after which to stop")
    parser.add_argument(
        *("--set", "-s"),
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a value of all runs, as --KEY VALUE of fit does; makes another study of it",
    )
    flags = parser.parse_args(args)
    study = read_study(flags.config, dict(_key_value(text) for text in flags.set))
    name = flags.config.stem
    output = flags.output or Path("docs/results") / name
    console = Console(soft_wrap=True)
    runner = Runner(
        study, output / "runs.csv", flags.runs or Path("runs/studies") / name, flags.root
    )
    try:
        failed = runner.run(max(1, flags.jobs), console, flags.limit)
    except Stopped:
        console.print("stopped; the same command goes on")
        return 130
    return 1 if failed else 0


def _key_value(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set {text}: must be KEY=VALUE")
    return key, yaml.safe_load(value)
