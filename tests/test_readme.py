"""What the README and docs/attention.md say of the studies is what their results say."""

import json
import re
import shutil
from pathlib import Path

import pytest
from running import REPOSITORY, STUDIES

from skseg.study.report import write_reports

# The arms by their names in the README's table.
ARMS = {
    "SK": "sk",
    "SK with the paper's norm": "fuse_batch",
    "a plain trunk of its size": "wide",
    "a plain trunk of SK's size": "wide",
    "branches merely added": "sum",
    "squeeze-and-excitation": "se",
    "attention fixed at one half": "mean",
    "the unconverted network": "plain",
}
ROW = re.compile(
    r"^\| ?([^|]*?) ?\| ([^|]+) \| (\S+ \(\S+ to \S+\)) \| (\d+) \| ?([^|]*?) ?\|$", re.MULTILINE
)


def rows() -> list[tuple[str, ...]]:
    found = []
    study = ""
    for place, compared, numbers, pairs, p_value in ROW.findall(
        (REPOSITORY / "README.md").read_text()
    ):
        link = re.search(r"docs/results/([\w/]+)/report.md", place)
        study = link[1] if link else study
        found.append((study, compared, numbers, pairs, p_value))
    return found


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row[0]}: {row[1]}")
def test_a_row_has_the_numbers_of_the_study(row: tuple[str, ...]) -> None:
    study, compared, numbers, pairs, p_value = row
    summary = json.loads((REPOSITORY / "docs/results" / study / "summary.json").read_text())
    record = summary["decoders"]["fpn"]
    comparisons = {tuple(c["pair"]): c for c in [record["primary"], *record["others"]]}
    found = comparisons[tuple(ARMS[name] for name in compared.split(" - "))]
    low, high = found["interval"]
    assert numbers == f"{found['difference']:+.2f} ({low:+.2f} to {high:+.2f})"
    assert pairs == str(found["pairs"])
    assert p_value == (f"{found['p_holm']:.2g}" if "p_holm" in found else "")


@pytest.mark.parametrize("place", [".", "again"])
def test_reports_are_of_the_rows_and_configs_as_they_are(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A config more corrects all tests once more, so all reports change with it."""
    monkeypatch.chdir(REPOSITORY)
    committed = REPOSITORY / "docs" / "results" / place
    shutil.copytree(committed, tmp_path / "results", ignore=shutil.ignore_patterns("*.png"))
    for report in write_reports(STUDIES, tmp_path / "results"):
        made = report.relative_to(tmp_path / "results")
        assert report.read_text() == (committed / made).read_text(), made
    assert (tmp_path / "results" / "README.md").read_text() == (committed / "README.md").read_text()


def test_all_studies_with_a_primary_comparison_are_in_the_table() -> None:
    results = REPOSITORY / "docs" / "results"
    records = {p.parent: json.loads(p.read_text()) for p in results.glob("**/summary.json")}
    planned = {
        str(folder.relative_to(results))
        for folder, record in records.items()
        if record["decoders"]["fpn"]["primary"]
    }
    assert {study for study, *_, p_value in rows() if p_value} == planned != set()
    assert {name for _, pair, *_ in rows() for name in pair.split(" - ")} == ARMS.keys()


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


def test_all_networks_that_were_looked_at_are_on_the_page() -> None:
    looked_at = {str(p.parent) for p in (REPOSITORY / "docs").glob("results/*/attention/*/*.json")}
    for name in ("attention.json", "growth.png"):
        listed = {str(REPOSITORY / "docs" / f) for f, file, _ in attention_rows() if file == name}
        assert listed == looked_at


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
