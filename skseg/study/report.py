"""The files of a study: its report with figures, and the index of all studies."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from skseg.errors import UserError
from skseg.metrics.estimates import interval_words
from skseg.metrics.tables import markdown_text
from skseg.study.matrix import Row, Study, check_rows, planned_rows, read_rows, read_study
from skseg.study.plots import plot_arms, plot_differences
from skseg.study.records import (
    ArmRecord,
    AttentionFindings,
    DecoderRecord,
    DifferenceRecord,
    PairRecord,
    StudySummary,
)
from skseg.study.statistics import holm
from skseg.study.summary import ARM_SCORES, FEWEST_PAIRS, compare_arms, summarize

_INDEX = "README.md"
_INDEX_TITLE = "# Results of the studies"
_INDEX_MARK = "<!-- Below this line the page is made by scripts/study.py from each runs.csv. -->"

_VERDICTS = {
    "supported": "supported",
    "contradicted": "contradicted",
    "neither": "neither supported nor contradicted",
}


def write_reports(configs: Sequence[Path], results: Path) -> list[Path]:
    """Write the reports of all studies that have rows, and an index of them.

    They are written together because the planned tests are corrected for their number (Holm).

    Args:
        configs: The studies' YAML files. The planned tests of all of them count, done or not.
        results: Folder with NAME/runs.csv for each study, and NAME/attention/ARM where
            `scripts/attention.py` wrote its results. NAME/report.md, NAME/summary.json,
            NAME/*.png and README.md are written there. An existing README.md keeps everything
            above its marker line.

    Returns:
        The paths of the reports.

    Raises:
        UserError: There is no config, one is invalid, no study has rows, or README.md is not an
            index. Also, once all other reports are written, if a study's rows have other settings
            than its config.
    """
    studies = read_studies(configs, results)
    read = {name: read_rows(results / name / "runs.csv") for name in studies}
    if not any(read.values()):
        raise UserError(f"{results} has no NAME/runs.csv of any study ({', '.join(studies)})")
    stale = _stale(studies, read, results)
    rows = {name: planned_rows(study, read[name]) for name, study in studies.items()}
    adjusted = _adjusted(studies, rows)
    lines = [_INDEX_MARK, ""]
    written = []
    for name, study in studies.items():
        if name in stale or not rows[name]:
            continue
        folder = results / name
        p_values = {d: adjusted[name, d] for d in study.decoders if study.primary}
        summary = summarize(study, rows[name], p_values, len(adjusted))
        (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
        plot_arms(study, rows[name]).savefig(folder / "arms.png")
        if any(record["classes"] for record in summary["decoders"].values()):
            plot_differences(study, rows[name]).savefig(folder / "differences.png")
        report = [*_report(study, summary), *_attention(folder / "attention", study.arms)]
        (folder / "report.md").write_text("\n".join([*report, ""]), encoding="utf-8")
        written.append(folder / "report.md")
        lines += [f"## [{study.question}]({name}/report.md)", ""]
        for record in summary["decoders"].values():
            lines += [record["conclusion"], ""]
    lead = _index_lead(results / _INDEX)
    (results / _INDEX).write_text(lead + "\n".join(lines), encoding="utf-8")
    if stale:
        raise UserError("; ".join(stale.values()) + ". All other reports were written")
    return written


def read_studies(configs: Sequence[Path], results: Path) -> dict[str, Study]:
    """Read the studies of a report, by name. Call it before a long run to find mistakes early.

    Args:
        configs: As in `write_reports`.
        results: As in `write_reports`.

    Raises:
        UserError: There is no config, one is invalid, or README.md is not an index.
    """
    if not configs:
        raise UserError("there are no study configs to report on")
    studies = {}
    for config in configs:
        try:
            studies[config.stem] = read_study(config)
        except UserError as error:
            raise UserError(
                f"{error} (every .yaml file in {config.parent} must be a study)"
            ) from error
    _index_lead(results / _INDEX)
    return studies


def _index_lead(index: Path) -> str:
    """Return the part of the index above the marker line, which is written by hand."""
    if not index.is_file():
        return f"{_INDEX_TITLE}\n\n"
    text = index.read_text(encoding="utf-8")
    lead, mark, _ = text.partition(_INDEX_MARK)
    if mark:
        return lead
    if text.startswith(_INDEX_TITLE):  # an index without the marker, as early versions wrote it
        return f"{_INDEX_TITLE}\n\n"
    raise UserError(f"{index} is not an index of studies and would be overwritten")


def _stale(
    studies: Mapping[str, Study], rows: Mapping[str, list[Row]], results: Path
) -> dict[str, str]:
    """Return, by study, why its rows do not belong to its config."""
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
    """Correct the planned tests, by study and decoder, for the number of all of them.

    Tests that are not done yet count too, so that no result is revised when another study ends.
    They are None in the result.
    """
    found = {}
    for name, study in studies.items():
        for decoder in study.decoders if study.primary else ():
            comparison = compare_arms(rows[name], study.primary, decoder) if rows[name] else None
            done = comparison and comparison.pairs == study.primary_seeds
            found[name, decoder] = comparison.p_value if comparison and done else None
    p_values = holm([1.0 if p is None else p for p in found.values()])
    return {key: None if found[key] is None else p for key, p in zip(found, p_values, strict=True)}


def _report(study: Study, summary: StudySummary) -> list[str]:
    """Return the lines of a study's report, without its section on attention."""
    scale = f" at {', '.join(f'{s:g}' for s in study.scales)} of its size"
    lines = [
        f"# {study.question}",
        "",
        f"{summary['runs']} of {len(study.runs())} planned runs are done; together they took "
        f"{summary['hours']} hours. Every run starts from `{study.fit}` and the study's common "
        "settings; arms differ by their own settings only. Runs with the same seed are compared in "
        "pairs. Weights are those of the last epoch. Scores are on the "
        f"{study.data['split']} split of {study.data['name']}{scale * (study.scales != [1.0])}, in "
        "percent. The conclusions hold for networks of this size, this schedule and these data.",
        "",
    ]
    for decoder, record in summary["decoders"].items():
        if len(summary["decoders"]) > 1:
            lines += [f"# {decoder}", ""]
        lines += ["## Conclusion", "", record["conclusion"], "", "![arms](arms.png)", ""]
        lines += _arms(record["arms"])
        lines += _others(record["others"])
        lines += _detail(study, record)
    return [*lines, "Made by `scripts/study.py` from `runs.csv`."]


def _arms(arms: Mapping[str, ArmRecord]) -> list[str]:
    lines = [
        "## Arms",
        "",
        f"| arm | seeds | {' | '.join(ARM_SCORES.values())} |",
        "|---|---:|" + "---:|" * len(ARM_SCORES),
    ]
    for arm, record in arms.items():
        if not record["seeds"]:
            continue
        cells = ["-" if (v := record[key]) is None else f"{v:.2f}" for key in ARM_SCORES]
        if record["deviation"] is not None:
            cells[0] += f" ± {record['deviation']:.2f}"
        lines.append(f"| {arm} | {record['seeds']} | {' | '.join(cells)} |")
    lines += ["", "± is the standard deviation over seeds.", ""]
    if missing := [arm for arm, record in arms.items() if not record["seeds"]]:
        lines += [f"Arms without runs so far: {', '.join(missing)}.", ""]
    return lines


def _others(others: Sequence[PairRecord]) -> list[str]:
    if not any(row["pairs"] for row in others):
        return []
    level = 100 * others[0]["confidence"]
    lines = [
        "## Other comparisons",
        "",
        "Exploratory: these comparisons have few seeds, so they get intervals and no test. The "
        f"intervals are Bonferroni-corrected: each covers its true difference with {level:.1f} %, "
        f"all {len(others)} together with 95 %. Matched pairs are those whose rows agree on "
        "commit, torch version and CPU type; other pairs may differ by more than their arms.",
        "",
        "| comparison | pairs | matched | difference, points | interval |",
        "|---|---:|---:|---:|---|",
    ]
    for row in others:
        if row["pairs"]:
            name = " - ".join(row["pair"])
            lines.append(f"| {name} | {row['pairs']} | {row['alike']} | {_difference(row)} |")
    return [*lines, ""]


def _detail(study: Study, record: DecoderRecord) -> list[str]:
    if not record["classes"]:
        return []
    boundaries = {ARM_SCORES[key]: found for key, found in record["boundaries"].items()}
    return [
        f"## {' - '.join(study.pair)} in detail",
        "",
        "Exploratory: these 95 % intervals are not corrected for their number, so about 1 in 20 "
        "misses its true difference by chance.",
        "",
        "![differences](differences.png)",
        "",
        *_difference_table(record["classes"], "class, IoU"),
        *_difference_table(record["sizes"], "size of object, mIoU"),
        *_difference_table(boundaries, "boundaries, mean over classes"),
    ]


def _difference_table(found: Mapping[str, DifferenceRecord], title: str) -> list[str]:
    if not found:
        return []
    lines = [f"| {title} | pairs | difference, points | interval |", "|---|---:|---:|---|"]
    for name, row in found.items():
        lines.append(f"| {markdown_text(name)} | {row['pairs']} | {_difference(row)} |")
    return [*lines, ""]


def _difference(row: DifferenceRecord) -> str:
    interval = "-"
    if row["interval"] and row["pairs"] >= FEWEST_PAIRS:
        interval = "{:+.2f} to {:+.2f}".format(*row["interval"])
    value = "-" if row["difference"] is None else f"{row['difference']:+.2f}"
    return f"{value} | {interval}"


def _attention(folder: Path, arms: Iterable[str]) -> list[str]:
    """Summarize what `scripts/attention.py` found in each arm's networks, if it was run."""
    lines = []
    for arm in arms:
        path = folder / arm / "attention.json"
        if path.is_file():
            lines += _attention_of_arm(arm, json.loads(path.read_text(encoding="utf-8")))
    return ["", "## Attention", "", "Exploratory: not planned as a test.", *lines] if lines else []


def _attention_of_arm(arm: str, found: AttentionFindings) -> list[str]:
    effect = found["selection"]["difference"]
    lines = [
        "",
        f"{found['networks']} networks of {arm} on {found['images']} images "
        f"({found['interval']}). Made by `python scripts/attention.py`; details are in "
        f"[attention/{arm}](attention/{arm}).",
        "",
        "- Attention that follows the image changes mIoU by "
        f"{100 * effect['value']:+.2f} points{interval_words(effect, 100, '+.2f')}, compared with "
        "each unit's attention fixed at its mean over the images.",
    ]
    for claim in found["claims"].values():
        verdict = _VERDICTS[claim["verdict"]]
        lines.append(f'- Claim "{claim["claim"]}": {verdict}. {claim["numbers"]}.')
    for claim in (found["claims_beyond_blur"] or {}).values():
        verdict = _VERDICTS[claim["verdict"]]
        lines.append(
            f'- Claim "{claim["claim"]}", beyond the effect of blur alone: {verdict}. '
            f"{claim['numbers']}."
        )
    return [*lines, "", f"![growth](attention/{arm}/growth.png)"]
