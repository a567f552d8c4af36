"""`skseg study`: run a study."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import yaml
from rich.console import Console

from skseg.commands.parser import Repeated, run_command
from skseg.errors import UserError, check_values
from skseg.study.matrix import read_study
from skseg.study.report import read_studies, write_reports
from skseg.study.runner import Runner

_OURS = Path("configs/studies")


@dataclass(frozen=True)
class StudyDataFlags:
    """The data of a study, whose config names the data set.

    Args:
        root: Folder of the data set; the study's when unset.
    """

    flag_prefix: ClassVar[str] = "data."

    root: Path | None = None


def study(
    *,
    config: Path | None = None,
    data: StudyDataFlags,
    output: Path | None = None,
    runs: Path | None = None,
    jobs: int = os.cpu_count() or 1,
    arms: Sequence[str] | None = None,
    seeds: int | None = None,
    limit: int | None = None,
    set_: Annotated[Sequence[str], Repeated("-s")] = (),
    report: bool = False,
) -> int:
    """Run a study: train its missing runs and report on all runs that are done.

    The same command continues a study that was stopped. Exits with code 1 if runs failed, and 130
    if it was stopped.

    Examples:
        skseg study --config configs/studies/streets.yaml --jobs 2
        skseg study --report

    Args:
        config: Study to run: configs/studies/NAME.yaml.
        data: The data.
        output: Folder of all studies' results; when unset, docs/results for those in
            configs/studies, else results/ beside the config.
        runs: Folder of all studies' runs; runs/studies when unset.
        jobs: Number of runs in parallel.
        arms: Run only these arms.
        seeds: Run only the first N seeds of each arm.
        limit: Run at most N runs.
        set_: KEY=VALUE: set a value in all runs, as --KEY VALUE does for fit. This makes another
            study, which needs an --output and --runs of its own.
        report: Only write the reports again, of all studies beside --config (configs/studies).
    """
    console = Console(soft_wrap=True, markup=False, emoji=False)  # names are only text
    rules = {
        "limit": (limit is None or limit >= 1, "at least 1"),
        "jobs": (jobs >= 1, "at least 1"),
    }
    check_values({"limit": limit, "jobs": jobs}, rules)
    if config is None and not report:
        raise UserError("give a `config` to run, or `report`")
    configs = config.parent if config else _OURS
    is_ours = configs.resolve() == _OURS.resolve()
    results = output or (Path("docs/results") if is_ours else configs / "results")
    studies = sorted({*configs.glob("*.yaml"), *([config] if config else [])})
    if report:
        if data.root or runs or arms or seeds or limit or set_:
            raise UserError("`report` runs nothing: only `config` and `output` go with it")
        _report(studies, results, console)
        return 0
    assert config is not None
    if set_ and not (output and runs):
        raise UserError("`set` makes another study: give it an `output` and `runs` of its own")
    planned = read_study(config, dict(_key_value(text) for text in set_))
    # A study with `set` has no config to make a report from.
    if not set_:
        read_studies(studies, results)  # finds mistakes now instead of after hours of training
    folder = (runs or Path("runs/studies")) / config.stem
    runner = Runner(planned, results / config.stem / "runs.csv", folder, data.root)
    try:
        failed = runner.run(jobs, console, limit, arms, seeds)
    except KeyboardInterrupt:
        console.print("stopped; the same command continues")
        return 130
    if not set_ and runner.table.is_file():
        _report(studies, results, console)
    return 1 if failed else 0


def _report(studies: Sequence[Path], results: Path, console: Console) -> None:
    for path in write_reports(studies, results):
        console.print(f"report {path}", highlight=False)


def _key_value(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"`set` {text}: must be KEY=VALUE")
    return key, yaml.safe_load(value)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code, 1 if runs failed, 130 if it was stopped."""
    return run_command(study, args)
