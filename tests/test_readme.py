"""What the README says of the studies is what their results say."""

import json
import re

import pytest
from running import REPOSITORY

# The arms by their names in the README's table.
ARMS = {
    "SK": "sk",
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
        link = re.search(r"docs/results/(\w+)/report.md", place)
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


def test_all_studies_with_a_primary_comparison_are_in_the_table() -> None:
    results = (REPOSITORY / "docs" / "results").glob("*/summary.json")
    records = {p.parent.name: json.loads(p.read_text())["decoders"]["fpn"] for p in results}
    planned = {name for name, record in records.items() if record["primary"]}
    assert {study for study, *_, p_value in rows() if p_value} == planned != set()
    assert {name for _, pair, *_ in rows() for name in pair.split(" - ")} == ARMS.keys()
