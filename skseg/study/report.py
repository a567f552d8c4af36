"""The files of a study: its report with figures, and the index of all studies."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from skseg.errors import UserError
from skseg.metrics.estimates import interval_words
from skseg.study.matrix import Row, Study, check_rows, planned, read_rows, read_study
from skseg.study.plots import plot_arms, plot_differences
from skseg.study.statistics import holm
from skseg.study.summary import ARM_SCORES, FEWEST_PAIRS, compare_arms, summarize

_INDEX = "README.md"
_INDEX_TITLE = "# Results of the studies"


def write_reports(configs: Sequence[Path], results: Path) -> list[Path]:
    """Make the reports of all studies that have rows, and an index of them.

    All at once, because their primary tests are corrected for their number (Holm).

    Args:
        configs: the studies' YAML files; the primary comparisons of all count, done or not.
        results: folder with NAME/runs.csv for each, and NAME/attention/ARM where
            `scripts/attention.py` has put its results; gets NAME/report.md, NAME/summary.json,
            NAME/*.png and README.md.

    Returns:
        The reports' paths.

    Raises:
        UserError: there is no config, one is not a study's, no study has rows, or another README.md
            is in the way; and, once all other reports are made, where rows are of another version
            of a config.
    """
    studies = read_planned(configs, results)
    read = {name: read_rows(results / name / "runs.csv") for name in studies}
    if not any(read.values()):
        raise UserError(f"{results}: has no NAME/runs.csv of a study, of {', '.join(studies)}")
    stale = _stale(studies, read, results)
    rows = {name: planned(study, read[name]) for name, study in studies.items()}
    adjusted = _adjusted(studies, rows)
    lines = [_INDEX_TITLE, "", "Made by `scripts/study.py` from the `runs.csv` of each.", ""]
    written = []
    for name, study in studies.items():
        if name in stale or not rows[name]:
            continue
        folder = results / name
        p_values = {d: adjusted[name, d] for d in study.decoders if study.primary}
        summary = summarize(study, rows[name], p_values, len(adjusted))
        (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        plot_arms(study, rows[name]).savefig(folder / "arms.png")
        if any(record["classes"] for record in summary["decoders"].values()):
            plot_differences(study, rows[name]).savefig(folder / "differences.png")
        text = markdown(study, summary) + "\n".join(_attention(folder / "attention", study.arms))
        (folder / "report.md").write_text(text, encoding="utf-8")
        written.append(folder / "report.md")
        lines += [f"## [{study.question}]({name}/report.md)", ""]
        for record in summary["decoders"].values():
            lines += [record["conclusion"], ""]
    (results / _INDEX).write_text("\n".join(lines), encoding="utf-8")
    if stale:
        raise UserError("; ".join(stale.values()) + ". All other reports are made")
    return written


def read_planned(configs: Sequence[Path], results: Path) -> dict[str, Study]:
    """Read the studies that a report is of, by name; to ask before a long run too.

    Args:
        configs: as of `write_reports`.
        results: as of `write_reports`.

    Raises:
        UserError: there is no config, one is not a study's, or another README.md is in the way.
    """
    if not configs:
        raise UserError("no study's config, so nothing to report on")
    studies = {}
    for config in configs:
        try:
            studies[config.stem] = read_study(config)
        except UserError as error:
            raise UserError(f"{error} (all in {config.parent} is taken for studies)") from error
    index = results / _INDEX
    if index.is_file() and not index.read_text(encoding="utf-8").startswith(_INDEX_TITLE):
        raise UserError(f"{index}: is something else, and would be overwritten by the index")
    return studies


def _stale(
    studies: Mapping[str, Study], rows: Mapping[str, list[Row]], results: Path
) -> dict[str, str]:
    """Find the studies with rows of another version of the config, and what is wrong."""
    stale = {}
    for name, study in studies.items():
        try:
            check_rows(study, rows[name], results / name / "runs.csv")
        except UserError as error:
            stale[name] = str(error)
    return stale


def _adjusted(
    studies: Mapping[str, Study], rows: Mapping[str, list[Row]]
) -> dict[tuple[str, str], float | None]:
    """Correct the primary tests, by study and decoder, for the number of all that are planned.

    So a finding is not taken back when another test is made. None while pairs are missing.
    """
    found = {}
    for name, study in studies.items():
        for decoder in study.decoders if study.primary else ():
            comparison = compare_arms(rows[name], study.primary, decoder) if rows[name] else None
            done = comparison and comparison.pairs == study.primary_seeds
            found[name, decoder] = comparison.p_value if comparison and done else None
    p_values = holm([1.0 if p is None else p for p in found.values()])
    return {key: None if found[key] is None else p for key, p in zip(found, p_values, strict=True)}


def markdown(study: Study, summary: Mapping[str, Any]) -> str:
    """Write the report of a study."""
    at = f" at {', '.join(f'{s:g}' for s in study.scales)} of its size" * (study.scales != [1.0])
    lines = [f"# {study.question}", ""]
    lines += [
        f"{summary['runs']} of {len(study.runs())} planned runs are done; their times sum to "
        f"{summary['hours']} hours. All start from `{study.fit}` with the changes that the study "
        "names for all; arms differ by the settings it names for them; a seed is the same in all "
        "arms. Weights are the last epoch's; scores are of "
        f"{study.data['name']}'s {study.data['split']} split{at}, in percent. "
        "What is concluded holds for networks of this size, this schedule and these data.",
        "",
    ]
    for decoder, record in summary["decoders"].items():
        if len(summary["decoders"]) > 1:
            lines += [f"# {decoder}", ""]
        lines += ["## Conclusion", "", record["conclusion"], "", "![arms](arms.png)", ""]
        lines += ["## Arms", "", f"| arm | seeds | {' | '.join(ARM_SCORES.values())} |"]
        lines += ["|---|---:|" + "---:|" * len(ARM_SCORES)]
        for arm, values in record["arms"].items():
            if not values["seeds"]:
                continue
            cells = [_number(values[key]) for key in ARM_SCORES]
            if values["deviation"] is not None:
                cells[0] += f" ± {values['deviation']:.2f}"
            lines.append(f"| {arm} | {values['seeds']} | {' | '.join(cells)} |")
        lines += ["", "± is the standard deviation over seeds.", ""]
        if missing := [arm for arm, values in record["arms"].items() if not values["seeds"]]:
            lines += [f"Without runs so far: {', '.join(missing)}.", ""]
        lines += _others(record["others"])
        if not record["classes"]:
            continue
        first, second = study.pair
        lines += [
            f"## {first} - {second} in detail",
            "",
            "Exploratory: each interval covers with 95 % by itself, so of 20 one misses by chance.",
            "",
            "![differences](differences.png)",
            "",
            *_difference_table(record["classes"], "class, IoU"),
            *_difference_table(record["sizes"], "size of object, mIoU"),
            *_difference_table(
                {ARM_SCORES[key]: found for key, found in record["boundaries"].items()},
                "boundaries, mean over classes",
            ),
        ]
    lines += ["Made by `scripts/study.py` from `runs.csv`.", ""]
    return "\n".join(lines)


def _attention(folder: Path, arms: Iterable[str]) -> list[str]:
    """Sum up what `scripts/attention.py` found in the networks of each arm, where it was run."""
    lines = []
    for arm in arms:
        path = folder / arm / "attention.json"
        if path.is_file():
            record = json.loads(path.read_text(encoding="utf-8"))
            lines += _attention_of_arm(arm, record)
    words = "Exploratory: looked at, not planned as a test."
    return ["", "## Attention", "", words, "", *lines] if lines else []


def _attention_of_arm(arm: str, record: Mapping[str, Any]) -> list[str]:
    worth = record["selection"]["difference"]
    lines = [
        f"Of {record['networks']} networks of {arm} on {record['images']} images "
        f"({record['interval']}), by `python scripts/attention.py`; more in "
        f"[attention/{arm}](attention/{arm}).",
        "",
        "- What following the image is worth, mIoU as it is over mIoU with each unit's attention "
        f"held at its mean: {100 * worth['value']:+.2f} points"
        f"{interval_words(worth, 100, '+.2f')}.",
    ]
    for claim in record["claims"].values():
        lines.append(f'- "{claim["claim"]}": {claim["verdict"]}; {claim["numbers"]}.')
    for claim in (record["claims_beyond_blur"] or {}).values():
        lines.append(
            f'- "{claim["claim"]}", beyond what blur alone does: {claim["verdict"]}; '
            f"{claim['numbers']}."
        )
    return [*lines, "", f"![growth](attention/{arm}/growth.png)", ""]


def _others(found: Sequence[Mapping[str, Any]]) -> list[str]:
    if not any(row["pairs"] for row in found):
        return []
    level = 100 * found[0]["confidence"]
    lines = ["## Other comparisons", ""]
    lines += [
        f"With few seeds, so with intervals alone: of {level:.1f} % each, so that all "
        f"{len(found)} cover with 95 %. Pairs made alike are of runs whose rows agree "
        "on code, torch and kind of CPU; others may differ by more than their arms.",
        "",
        "| comparison | pairs | made alike | difference, points | interval |",
        "|---|---:|---:|---:|---|",
    ]
    for row in found:
        if row["pairs"]:
            name = " - ".join(row["pair"])
            lines.append(f"| {name} | {row['pairs']} | {row['alike']} | {_difference(row)} |")
    return [*lines, ""]


def _difference_table(found: Mapping[str, Mapping[str, Any]], title: str) -> list[str]:
    if not found:
        return []
    lines = [f"| {title} | pairs | difference, points | interval |", "|---|---:|---:|---|"]
    lines += [f"| {name} | {row['pairs']} | {_difference(row)} |" for name, row in found.items()]
    return [*lines, ""]


def _difference(row: Mapping[str, Any]) -> str:
    interval = "-"
    if row["pairs"] >= FEWEST_PAIRS:
        interval = "{:+.2f} to {:+.2f}".format(*row["interval"])
    value = "-" if row["difference"] is None else f"{row['difference']:+.2f}"
    return f"{value} | {interval}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
