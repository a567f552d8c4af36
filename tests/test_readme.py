"""The figures in README.md, docs/results/README.md and docs/attention.md are those of the studies.

Numbers and structure are tested; sentences may change.
"""

import json
import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from running import REPOSITORY, STUDIES

from skseg.attention.claims import judge_claims
from skseg.study.report import write_reports

RESULTS = REPOSITORY / "docs" / "results"
# The arms by their names in the table of docs/results/README.md.
ARMS = {
    "SK": "sk",
    "SK with batch norm in Fuse": "fuse_batch",
    "plain of equal size": "wide",
    "plain of SK's size": "wide",
    "added branches": "sum",
    "SE": "se",
    "converted to SK": "sk",
    "the same with attention fixed at one half": "mean",
    "unconverted": "plain",
}
ROW = re.compile(
    r"^\| ?([^|]*?) ?\| ([^|]+) \| (\S+ \(\S+ to \S+\)) \| (\d+) \| ?([^|]*?) ?\|$", re.MULTILINE
)
NUMBER = r"[+-]?\d+\.\d+"
WITH_INTERVAL = re.compile(rf"({NUMBER})(?: points)? \((?:95 % interval )?({NUMBER}) to ({NUMBER})")


@cache
def summaries() -> dict[str, dict]:
    """The results of each study under FPN, by its folder in docs/results."""
    return {
        str(path.parent.relative_to(RESULTS)): json.loads(path.read_text())["decoders"]["fpn"]
        for path in sorted(RESULTS.glob("**/summary.json"))
    }


def comparisons(summary: dict) -> Iterator[dict]:
    """All of a study, by arms, classes, sizes and boundaries."""
    yield from filter(None, [summary["primary"], *summary["others"]])
    for part in ("classes", "sizes", "boundaries"):
        yield from summary[part].values()


def intervals() -> set[tuple[str, str, str]]:
    """Every difference with its interval, to two decimals."""
    return {
        tuple(f"{value:+.2f}" for value in (found["difference"], *found["interval"]))
        for summary in summaries().values()
        for found in comparisons(summary)
        if found["interval"]
    }


def results_lead() -> str:
    """What is written by hand in docs/results/README.md."""
    return (RESULTS / "README.md").read_text().partition("<!--")[0]


def rows() -> list[tuple[str, ...]]:
    found = []
    study = ""
    for place, compared, numbers, pairs, p_value in ROW.findall(results_lead()):
        link = re.search(r"\(([\w/]+)/report\.md\)", place)
        study = link[1] if link else study
        found.append((study, compared, numbers, pairs, p_value))
    return found


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row[0]}: {row[1]}")
def test_a_row_has_the_numbers_of_the_study(row: tuple[str, ...]) -> None:
    study, compared, numbers, pairs, p_value = row
    summary = summaries()[study]
    found = {tuple(c["pair"]): c for c in [summary["primary"], *summary["others"]]}[
        tuple(ARMS[name] for name in compared.split(" - "))
    ]
    low, high = found["interval"]
    assert numbers == f"{found['difference']:+.2f} ({low:+.2f} to {high:+.2f})"
    assert pairs == str(found["pairs"])
    assert p_value == (f"{found['p_holm']:.2g}" if "p_holm" in found else "")


def test_all_planned_comparisons_are_in_the_table() -> None:
    planned = {study for study, summary in summaries().items() if summary["primary"]}
    assert {study for study, *_, p_value in rows() if p_value} == planned != set()
    assert {name for _, pair, *_ in rows() for name in pair.split(" - ")} == ARMS.keys()


@pytest.mark.parametrize("page", ["README.md", "docs/results/README.md", "docs/attention.md"])
def test_differences_with_intervals_are_those_of_the_studies(page: str) -> None:
    """In paragraphs on the studies; tables are tested row by row."""
    text = (REPOSITORY / page).read_text().partition("<!--")[0]
    prose = re.sub(r"^\|[^\n]*$|```.*?```", "", text, flags=re.MULTILINE | re.DOTALL)
    paragraphs = prose.split("\n\n")
    if page == "README.md":
        paragraphs = [p for p in paragraphs if "docs/results" in p]
    found = [match for p in paragraphs for match in WITH_INTERVAL.findall(" ".join(p.split()))]
    known = intervals()
    for numbers in found:
        assert tuple(f"{float(n):+.2f}" for n in numbers) in known, numbers
    assert found


def test_the_lead_has_the_differences_of_classes() -> None:
    classes = summaries()["streets"]["classes"]
    found = re.findall(r"(\w+) ([+-]\d+\.\d\d)(?! \()", results_lead())
    found = [(name, number) for name, number in found if name in classes]
    assert len(found) >= 2
    for name, number in found:
        assert number == f"{classes[name]['difference']:+.2f}", name


def test_the_lead_answers_at_once() -> None:
    """What SK brings, for what and when, is on the first ten lines."""
    lines = "\n".join(results_lead().splitlines()[:10])
    primary = {study: summary["primary"] for study, summary in summaries().items()}
    for study in ("streets", "streets_fresh", "camvid", "again/camvid"):
        assert f"{primary[study]['difference']:+.2f} (" in lines
    for study in ("streets", "streets_fresh"):
        assert f"p = {primary[study]['p_holm']:.2g}" in lines


def test_the_readme_has_the_planned_comparison_of_drawn_scenes() -> None:
    """Its sentence on the evidence, at whatever precision it gives the numbers."""
    text = " ".join((REPOSITORY / "README.md").read_text().split())
    (paragraph,) = re.findall(r"\*\*Does it help\?\*\*.*?docs/results/README\.md", text)
    streets = summaries()["streets"]
    points = re.search(r"by (\d+\.\d+) mIoU points \((\d+) seeds, p = (0\.\d+)", paragraph)
    assert points, paragraph
    assert points[1] == f"{streets['primary']['difference']:.2f}"
    assert points[2] == str(streets["primary"]["pairs"])
    assert float(points[3]) == float(f"{streets['primary']['p_holm']:.1g}")
    for plural, name in (("trucks", "truck"), ("buses", "bus")):
        for number in re.findall(rf"{plural} ([+-]\d+\.\d)", paragraph):
            assert number == f"{streets['classes'][name]['difference']:+.1f}"


@pytest.mark.parametrize("place", [".", "again"])
def test_reports_are_of_the_rows_and_configs_as_they_are(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The committed files have the numbers that the code computes from the rows.

    Their words may be of another version. One config more corrects all tests once more, so all
    reports change with it.
    """
    monkeypatch.chdir(REPOSITORY)
    committed = RESULTS / place
    shutil.copytree(committed, tmp_path / "results", ignore=shutil.ignore_patterns("*.png"))
    reports = write_reports(STUDIES, tmp_path / "results")
    assert {r.parent.name for r in reports} == {p.parent.name for p in committed.glob("*/runs.csv")}
    for report in reports:
        old = committed / report.parent.name
        assert _numbers(report.with_name("summary.json")) == _numbers(old / "summary.json")
        made, kept = report.read_text(), (old / "report.md").read_text()
        assert _rows(made) == _rows(kept), report
        assert _figures(made) == _figures(kept), report
    index, kept = ((d / "README.md").read_text() for d in (tmp_path / "results", committed))
    assert _figures(index) == _figures(kept)
    assert re.findall(r"\]\((\S+)\)", index) == re.findall(r"\]\((\S+)\)", kept)


def _numbers(summary: Path) -> dict:
    """A summary without the words of its conclusions."""
    record = json.loads(summary.read_text())
    for of_decoder in record["decoders"].values():
        del of_decoder["conclusion"]
    return record


def _rows(text: str) -> list[str]:
    """The rows of numbers in all tables."""
    return [line for line in text.splitlines() if re.match(r"\|.*\d", line)]


def _figures(text: str) -> list[str]:
    """All numbers with decimals, in any order."""
    return sorted(re.findall(NUMBER, text))


@pytest.mark.parametrize(
    "path", sorted(RESULTS.glob("**/attention.json")), ids=lambda p: "/".join(p.parts[-4:-1])
)
def test_the_claims_follow_from_the_numbers_of_the_networks(path: Path) -> None:
    record = json.loads(path.read_text())
    judged = judge_claims(record["growth"])
    assert judged.keys() == record["claims"].keys()
    for key, claim in record["claims"].items():
        assert claim["verdict"] == judged[key]["verdict"]
        assert _figures(claim["numbers"]) == _figures(judged[key]["numbers"])


def attention_rows() -> list[tuple[str, str, list[str]]]:
    """Folder of a study's arm, the file that is linked to, and the cells after the link."""
    text = (REPOSITORY / "docs" / "attention.md").read_text()
    found = re.findall(r"^\| \[[^]]*\]\((results/\S+)/(\S+)\) \| (.*) \|$", text, re.MULTILINE)
    return [(folder, file, cells.split(" | ")) for folder, file, cells in found]


@pytest.mark.parametrize("row", attention_rows(), ids=lambda row: f"{row[0]}/{row[1]}")
def test_a_row_has_the_numbers_of_the_networks(row: tuple[str, str, list[str]]) -> None:
    folder, file, cells = row
    record = json.loads((REPOSITORY / "docs" / folder / "attention.json").read_text())
    expected = _selection(record) if file == "attention.json" else _claims(record)
    assert cells == expected


def test_all_analyzed_networks_are_on_the_page() -> None:
    analyzed = {str(p.parent) for p in (REPOSITORY / "docs").glob("results/*/attention/*/*.json")}
    for name in ("attention.json", "growth.png"):
        listed = {str(REPOSITORY / "docs" / f) for f, file, _ in attention_rows() if file == name}
        assert listed == analyzed


def _selection(record: dict) -> list[str]:
    selection = record["selection"]
    stages = selection["variation"].values()
    channels = [100 * stage["over_channels"]["value"] for stage in stages]
    return [
        str(record["networks"]),
        *(f"{100 * stage['over_images']['value']:.2f}" for stage in stages),
        f"{min(channels):.0f} to {max(channels):.0f}",
        f"{100 * selection['miou']['value']:.2f}",
        f"{100 * selection['miou_fixed']['value']:.2f}",
        _interval(selection["difference"], "+.2f"),
    ]


def _claims(record: dict) -> list[str]:
    growth = record["growth"]
    return [
        *(
            _interval(growth["groups"][stages][key], form)
            for stages in ("low and middle", "high")
            for key, form in (("rise", "+.2f"), ("rising_channels", ".1f"))
        ),
        _interval(growth["contrast"], "+.2f"),
        *(claim["verdict"] for claim in record["claims"].values()),
    ]


def _interval(found: dict, form: str) -> str:
    value, low, high = (f"{100 * found[key]:{form}}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
