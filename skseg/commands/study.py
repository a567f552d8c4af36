"""Run a study: what is missing of its runs, and the report on those that are done."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import yaml
from rich.console import Console

from skseg.errors import UserError, exits_on_mistakes
from skseg.study.matrix import read_study
from skseg.study.report import read_studies, write_reports
from skseg.study.runner import Runner

_OURS = Path("configs/studies")


@exits_on_mistakes
def main(args: list[str] | None = None) -> int:
    """Run the command; return its exit code, 1 if runs failed, 130 if it was stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, help="configs/studies/NAME.yaml")
    parser.add_argument("--data.root", dest="root", type=Path, help="directory of the data")
    parser.add_argument(
        "--output",
        type=Path,
        help="folder of all studies' results; docs/results for those of configs/studies, else "
        "results/ beside the config",
    )
    parser.add_argument("--runs", type=Path, help="folder of all studies' runs; runs/studies")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side")
    parser.add_argument("--arms", nargs="+", help="only runs of these arms")
    parser.add_argument("--seeds", type=int, help="only so many seeds of each arm")
    parser.add_argument("--limit", type=int, help="number of runs after which to stop")
    parser.add_argument(
        *("--set", "-s"),
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set a value of all runs, as --KEY VALUE of fit does; makes another study of it",
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="only make the reports again, of all studies beside --config (configs/studies)",
    )
    flags = parser.parse_args(args)
    console = Console(soft_wrap=True)
    if flags.config is None and not flags.report:
        parser.error("give a --config to run, or --report")
    configs = flags.config.parent if flags.config else _OURS
    is_ours = configs.resolve() == _OURS.resolve()
    results = flags.output or (Path("docs/results") if is_ours else configs / "results")
    studies = sorted({*configs.glob("*.yaml"), *[flags.config] * bool(flags.config)})
    if flags.report:
        if flags.root or flags.runs or flags.arms or flags.seeds or flags.limit or flags.set:
            parser.error("--report runs nothing: it takes --config and --output alone")
        _report(studies, results, console)
        return 0
    if flags.set and not (flags.output and flags.runs):
        parser.error("--set makes another study of it: give it an --output and --runs of its own")
    study = read_study(flags.config, dict(_key_value(text) for text in flags.set))
    # With --set it is a study of its own, without a config to make its report from.
    if not flags.set:
        read_studies(studies, results)  # its mistakes would else show after hours
    name = flags.config.stem
    folder = (flags.runs or Path("runs/studies")) / name
    runner = Runner(study, results / name / "runs.csv", folder, flags.root)
    try:
        failed = runner.run(max(1, flags.jobs), console, flags.limit, flags.arms, flags.seeds)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on")
        return 130
    if not flags.set and runner.table.is_file():
        _report(studies, results, console)
    return 1 if failed else 0


def _report(studies: Sequence[Path], results: Path, console: Console) -> None:
    for path in write_reports(studies, results):
        console.print(f"report {path}", highlight=False)


def _key_value(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set {text}: must be KEY=VALUE")
    return key, yaml.safe_load(value)
