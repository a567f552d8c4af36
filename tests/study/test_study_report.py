"""The report of a study follows from its rows. Its facts are tested, not its sentences."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from running import REPOSITORY, run_script

from skseg.errors import UserError
from skseg.study.matrix import Study, add_row, read_rows, read_study
from skseg.study.report import write_reports
from skseg.study.summary import scores_by_seed


def write_study(folder: Path, name: str, seeds: int = 6, **changes: object) -> tuple[Path, Study]:
    config = folder / f"{name}.yaml"
    content = {
        "question": f"Does it help on {name}?",
        "fit": str(REPOSITORY / "configs" / "streets.yaml"),
        "data": {"name": "streets", "split": "val", "prepare": name},
        "arms": {arm: {"model.encoder_name": arm} for arm in ("sk", "wide", "plain")},
        "primary": ["sk", "wide"],
        "primary_seeds": seeds,
        "seeds": 2,
        "others": [["sk", "plain"], ["wide", "plain"]],
    }
    config.write_text(yaml.safe_dump(content | changes))
    return config, read_study(config)


def write_rows(study: Study, table: Path, gain: float, seeds: int = 6) -> None:
    """Differences between sk and wide of exactly `gain` points on average, 1.0 apart by seed."""
    noise = np.random.default_rng(0).normal(0, 1, 99)
    noise -= noise[:seeds].mean()
    noise /= noise[:seeds].std(ddof=1)
    for run in study.runs():
        if run.seed < seeds:
            miou = 0.4 + (run.arm == "sk") * (gain + noise[run.seed]) / 100
            row = {
                **{"arm": run.arm, "encoder": run.arm, "decoder": run.decoder},
                **{"seed": str(run.seed), "miou": str(miou), "pixel_accuracy": "0.8"},
                **{"boundary_miou": "0.3", "boundary_mean_f": "", "seconds": "3600"},
                **{"digest": run.digest, "iou/road": str(miou), "iou/train": ""},
                **{"size/below 16²": str(miou / 2)},
            }
            add_row(table, row)


def read_record(report: Path, decoder: str = "fpn") -> dict:
    return json.loads((report.parent / "summary.json").read_text())["decoders"][decoder]


def verdict(conclusion: str) -> str:
    """What a conclusion says: the winner, or that there is none."""
    if won := re.search(r"(\w+) is significantly better than", conclusion):
        return won[1]
    if lost := re.search(r"\w+ is significantly worse than (\w+)", conclusion):
        return lost[1]
    return "corrected away" if "after Holm" in conclusion else "no difference"


@pytest.mark.parametrize(("gain", "winner"), [(2.0, "sk"), (-2.0, "wide"), (0.5, "no difference")])
def test_the_conclusion_follows_from_the_numbers(tmp_path: Path, gain: float, winner: str) -> None:
    config, study = write_study(tmp_path, "streets")
    write_rows(study, tmp_path / "results" / "streets" / "runs.csv", gain)
    (report,) = write_reports([config], tmp_path / "results")
    text = report.read_text()
    summary = json.loads((report.parent / "summary.json").read_text())
    record = summary["decoders"]["fpn"]
    conclusion = record["conclusion"]
    assert conclusion in text
    assert verdict(conclusion) == winner
    # Student's interval at 6 pairs of deviation 1: 2.570582 / sqrt(6)
    assert f"{gain:+.2f} points" in conclusion
    assert f"{gain - 1.0494:+.2f} to {gain + 1.0494:+.2f}; 6 pairs" in conclusion
    assert "1 point requires 10 pairs" in conclusion
    assert (summary["runs"], summary["hours"]) == (14, 14.0)
    assert "14 of 14 planned runs" in text
    assert record["arms"]["plain"]["miou"] == pytest.approx(40)
    assert record["classes"]["road"]["difference"] == pytest.approx(gain)
    assert "train" not in record["classes"]
    assert record["sizes"]["below 16²"]["difference"] == pytest.approx(gain / 2)
    assert [other["confidence"] for other in record["others"]] == [0.975] * 2
    for name in ("arms.png", "differences.png"):
        assert (report.parent / name).read_bytes().startswith(b"\x89PNG")


def test_the_report_includes_the_attention_of_its_networks(tmp_path: Path) -> None:
    config, study = write_study(tmp_path, "streets")
    folder = tmp_path / "results" / "streets"
    write_rows(study, folder / "runs.csv", 2.0)
    (report,) = write_reports([config], tmp_path / "results")
    assert "Attention" not in report.read_text()
    claim = {"claim": "larger for larger", "verdict": "neither", "numbers": "Up in 50 %"}
    worth = {"difference": {"value": 0.01, "low": -0.005, "high": 0.025}}
    record = {"networks": 6, "images": 9, "interval": "95 %", "claims": {"larger": claim}}
    record["claims_beyond_blur"] = None
    for arm in ("sk", "plain"):
        (folder / "attention" / arm).mkdir(parents=True)
        (folder / "attention" / arm / "attention.json").write_text(
            json.dumps(record | {"selection": worth})
        )
    text = write_reports([config], tmp_path / "results")[0].read_text()
    assert "6 networks of sk on 9 images (95 %)" in text
    assert "6 networks of plain on 9 images" in text
    assert "+1.00 points (-0.50 to +2.50)" in text
    assert "![growth](attention/plain/growth.png)" in text
    assert '- Claim "larger for larger": neither supported nor contradicted. Up in 50 %.' in text
    assert "blur" not in text
    one = {"selection": {"difference": {"value": 0.01, "low": None, "high": None}}}
    (folder / "attention" / "sk" / "attention.json").write_text(json.dumps(record | one))
    assert "+1.00 points, " in write_reports([config], tmp_path / "results")[0].read_text()
    record["claims_beyond_blur"] = {"larger": claim | {"verdict": "contradicted"}}
    (folder / "attention" / "sk" / "attention.json").write_text(json.dumps(record | one))
    text = write_reports([config], tmp_path / "results")[0].read_text()
    assert re.search(r'"larger for larger", [^:]* blur [^:]*: contradicted\.', text)


def test_a_class_that_never_occurs_does_not_decide(tmp_path: Path) -> None:
    """One run predicts some pixel as it: a class of IoU 0 in the benchmark's mean."""
    one = {"arm": "sk", "decoder": "fpn", "seed": "0", "miou": "0.5", "iou/a": "0.4"}
    rows = [
        one | {"iou/b": "0.6", "iou/never": ""},
        one | {"seed": "1", "miou": "0.4", "iou/b": "0.8", "iou/never": "0.0"},
    ]
    assert scores_by_seed(rows, "sk", "fpn") == pytest.approx({0: 50.0, 1: 60.0})


def test_nothing_is_concluded_before_all_planned_pairs(tmp_path: Path) -> None:
    config, study = write_study(tmp_path, "streets")
    write_rows(study, tmp_path / "results" / "streets" / "runs.csv", 5.0, seeds=5)
    (report,) = write_reports([config], tmp_path / "results")
    conclusion = read_record(report)["conclusion"]
    assert "5 of 6 planned pairs" in conclusion
    assert "+5.00 points so far" in conclusion
    assert "better" not in report.read_text()


def test_seeds_beyond_the_plan_are_not_in_its_test(tmp_path: Path) -> None:
    """Otherwise one could stop at the most pleasing result."""
    config, study = write_study(tmp_path, "streets", seeds=8)
    table = tmp_path / "results" / "streets" / "runs.csv"
    write_rows(study, table, 2.0, seeds=6)
    for run in study.runs():
        if run.seed >= 6 and run.arm in study.primary:
            more = {"arm": run.arm, "seed": str(run.seed), "digest": run.digest}
            add_row(table, read_rows(table)[0] | more | {"miou": "0.9", "iou/road": "0.9"})
    config, _ = write_study(tmp_path, "streets", seeds=6)
    primary = read_record(write_reports([config], tmp_path / "results")[0])["primary"]
    assert primary["pairs"] == 6
    assert primary["difference"] == pytest.approx(2)
    config, _ = write_study(tmp_path, "streets", seeds=4, first_seed=2)  # of the seeds 0 to 7
    assert read_record(write_reports([config], tmp_path / "results")[0])["primary"]["pairs"] == 4


def test_rows_beyond_the_plan_are_in_no_number(tmp_path: Path) -> None:
    config, study = write_study(tmp_path, "streets", seeds=8)
    write_rows(study, tmp_path / "results" / "streets" / "runs.csv", 2.0, seeds=8)
    write_study(tmp_path, "streets", seeds=4)
    text = write_reports([config], tmp_path / "results")[0].read_text()
    assert "10 of 10 planned runs" in text
    assert "10.0 hours" in text
    assert "| sk | 4 |" in text
    write_study(tmp_path, "streets", seeds=4, first_seed=50)
    assert write_reports([config], tmp_path / "results") == []
    assert "##" not in (tmp_path / "results" / "README.md").read_text()


def test_arms_without_runs_are_only_named(tmp_path: Path) -> None:
    config, study = write_study(tmp_path, "streets")
    table = tmp_path / "results" / "streets" / "runs.csv"
    write_rows(study, table, 2.0)
    whole = table.read_text().splitlines(keepends=True)
    table.write_text("".join(line for line in whole if not line.startswith("plain")))
    text = write_reports([config], tmp_path / "results")[0].read_text()
    assert "without runs so far: plain." in text
    assert "| plain |" not in text
    assert "Other comparisons" not in text


def test_matched_pairs_are_counted(tmp_path: Path) -> None:
    config, study = write_study(tmp_path, "streets")
    table = tmp_path / "results" / "streets" / "runs.csv"
    write_rows(study, table, 2.0)
    rows = read_rows(table)
    table.unlink()
    for row in rows:
        made = {"commit": "abc", "torch": "2", "cpu": "AVX2"}
        if row["arm"] == "plain" and row["seed"] == "1":
            made["cpu"] = "AVX512"
        add_row(table, row | made)
    report = write_reports([config], tmp_path / "results")[0]
    assert "| sk - plain | 2 | 1 | +" in report.read_text()
    record = json.loads((report.parent / "summary.json").read_text())["decoders"]["fpn"]
    assert record["primary"]["alike"] == 6


def test_tests_of_several_studies_are_corrected_for_their_number(tmp_path: Path) -> None:
    configs = []
    for name, gain in (("one", 1.15), ("two", 1.2), ("three", 9.0)):
        config, study = write_study(tmp_path, name)
        write_rows(study, tmp_path / "results" / name / "runs.csv", gain)
        configs.append(config)
    alone = read_record(write_reports(configs[:1], tmp_path / "results")[0])
    assert verdict(alone["conclusion"]) == "sk"
    assert alone["primary"]["p_holm"] == alone["primary"]["p_value"] < 0.05
    assert "Holm" not in alone["conclusion"]
    records = [read_record(report) for report in write_reports(configs, tmp_path / "results")]
    one, two, three = (record["primary"] for record in records)
    assert one["p_value"] == alone["primary"]["p_value"]
    assert one["p_holm"] == two["p_holm"] > 0.05  # no step-down value is below the one before
    assert three["p_holm"] == pytest.approx(3 * three["p_value"])
    assert [verdict(r["conclusion"]) for r in records] == ["corrected away"] * 2 + ["sk"]
    assert "Holm-corrected for 3 tests" in records[0]["conclusion"]
    index = (tmp_path / "results" / "README.md").read_text()
    assert all(f"({name}/report.md)" in index for name in ("one", "two", "three"))


def test_planned_tests_count_before_they_are_done(tmp_path: Path) -> None:
    """Otherwise a result could be revised when another study ends."""
    config, study = write_study(tmp_path, "one")
    write_rows(study, tmp_path / "results" / "one" / "runs.csv", 1.15)
    planned, other = write_study(tmp_path, "two")

    def conclusion() -> str:
        return read_record(write_reports([config, planned], tmp_path / "results")[0])["conclusion"]

    before = conclusion()
    assert "for 2 tests" in before
    assert "0.05 / 2" in before
    write_rows(other, tmp_path / "results" / "two" / "runs.csv", 0.0)
    assert conclusion() == before


def test_each_decoder_has_its_own_conclusion(tmp_path: Path) -> None:
    config, _ = write_study(tmp_path, "streets")
    content = yaml.safe_load(config.read_text()) | {"decoders": ["fpn", "unet"]}
    config.write_text(yaml.safe_dump(content))
    write_rows(read_study(config), tmp_path / "results" / "streets" / "runs.csv", 2.0)
    (report,) = write_reports([config], tmp_path / "results")
    first, second = report.read_text().split("# unet\n")
    fpn, unet = (read_record(report, decoder)["conclusion"] for decoder in ("fpn", "unet"))
    assert "the fpn decoder" in fpn
    assert "the unet decoder" in unet
    assert fpn in first
    assert unet in second
    assert "for 2 tests" in unet
    index = (tmp_path / "results" / "README.md").read_text()
    assert f"\n\n{fpn}\n\n{unet}\n" in index


def test_a_study_without_a_primary_comparison_is_exploratory(tmp_path: Path) -> None:
    config, _ = write_study(tmp_path, "kernels")
    content = yaml.safe_load(config.read_text())
    del content["primary"], content["primary_seeds"]
    config.write_text(yaml.safe_dump(content | {"seeds": 6}))
    study = read_study(config)
    table = tmp_path / "results" / "kernels" / "runs.csv"
    write_rows(study, table, 3.0)
    (report,) = write_reports([config], tmp_path / "results")
    text, record = report.read_text(), read_record(report)
    assert record["primary"] is None
    assert "Exploratory" in record["conclusion"]
    assert "sk, 43.00" in record["conclusion"]
    assert "sk - plain (" in record["conclusion"]
    assert "wide - plain (" not in record["conclusion"]
    assert "## sk - plain in detail" in text
    assert "better" not in text
    planned, study = write_study(tmp_path, "streets")
    write_rows(study, tmp_path / "results" / "streets" / "runs.csv", 2.0)
    reports = write_reports([config, planned], tmp_path / "results")
    assert read_record(reports[1])["primary"]["tests"] == 1
    lines = table.read_text().splitlines(keepends=True)
    assert lines[1].startswith("plain")
    table.write_text("".join([lines[0], *lines[2:]]))
    text = write_reports([config], tmp_path / "results")[0].read_text()
    assert "highest" not in text, "arms with different numbers of seeds are not ranked"
    assert "5 to 6 seeds" in text
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:4]))
    assert "in detail" not in write_reports([config], tmp_path / "results")[0].read_text()
    table.unlink()
    write_rows(read_study(config), table, 3.0)
    config.write_text(yaml.safe_dump(content | {"seeds": 6, "others": []}))
    (report,) = write_reports([config], tmp_path / "results")
    assert "in detail" not in report.read_text()


def test_reports_without_studies_or_rows_are_refused(tmp_path: Path) -> None:
    config, _ = write_study(tmp_path, "streets")
    with pytest.raises(UserError, match=r"none.*runs\.csv.*streets"):
        write_reports([config], tmp_path / "none")
    with pytest.raises(UserError, match="no study configs"):
        write_reports([], tmp_path)
    done = run_script("study")
    assert done.returncode == 2
    assert "--config" in done.stderr
    done = run_script("study", "--report", "--limit", 1)
    assert done.returncode == 2
    assert "--report runs nothing" in done.stderr


def test_mistakes_of_the_report_show_before_the_runs(tmp_path: Path) -> None:
    config, _ = write_study(tmp_path, "streets")
    (tmp_path / "fit.yaml").write_text("trainer: {max_epochs: 3}")
    places = ["--output", tmp_path / "results", "--runs", tmp_path / "runs"]
    done = run_script("study", "--config", config, "--data.root", tmp_path, *places)
    assert done.returncode == 2
    for fact in ("fit.yaml: ", "arms, data, fit, question", str(tmp_path)):
        assert fact in done.stderr
    assert not (tmp_path / "runs").exists()


def test_another_readme_is_not_overwritten(tmp_path: Path) -> None:
    config, study = write_study(tmp_path, "streets")
    write_rows(study, tmp_path / "streets" / "runs.csv", 1.0)
    (tmp_path / "README.md").write_text("# Mine")
    with pytest.raises(UserError, match=r"README\.md .* overwritten"):
        write_reports([config], tmp_path)
    assert (tmp_path / "README.md").read_text() == "# Mine"
    assert not (tmp_path / "streets" / "report.md").exists()


def test_what_is_written_above_the_mark_of_the_index_stays(tmp_path: Path) -> None:
    config, study = write_study(tmp_path, "streets")
    write_rows(study, tmp_path / "streets" / "runs.csv", 2.0)
    index = tmp_path / "README.md"
    index.write_text("# Results of the studies\n\nMade by an early version, without a mark.")
    (report,) = write_reports([config], tmp_path)
    made = index.read_text()
    assert made.startswith("# Results of the studies\n\n<!-- ")
    assert "early version" not in made
    assert made.count(read_record(report)["conclusion"]) == 1
    index.write_text(made.replace("<!-- ", "By hand.\n\n<!-- "))
    with_lead = index.read_text()
    write_reports([config], tmp_path)
    assert index.read_text() == with_lead != made


def test_stale_rows_of_one_study_leave_the_others_their_reports(tmp_path: Path) -> None:
    config, study = write_study(tmp_path, "one")
    stale, other = write_study(tmp_path, "two")
    for each in (study, other):
        gain = {"one": 1.15, "two": 9.0}[each.data["prepare"]]
        write_rows(each, tmp_path / "results" / each.data["prepare"] / "runs.csv", gain)
    stale.write_text(stale.read_text().replace("prepare: two", "prepare: another"))
    with pytest.raises(UserError, match=r"two/runs\.csv: 14 of 14 runs"):
        write_reports([config, stale], tmp_path / "results")
    # The stale test counts as one that is not done yet.
    primary = read_record(tmp_path / "results" / "one" / "report.md")["primary"]
    assert primary["tests"] == 2
    assert primary["p_holm"] == pytest.approx(2 * primary["p_value"])
    assert not (tmp_path / "results" / "two" / "report.md").exists()


def test_a_report_says_at_what_size_it_scored(tmp_path: Path) -> None:
    config, _ = write_study(tmp_path, "streets")
    for scales, words in ([1.0], "split of streets, in"), ([0.5], "streets at 0.5 of its size, in"):
        config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"scales": scales}))
        results = tmp_path / f"{scales}"
        write_rows(read_study(config), results / "streets" / "runs.csv", 1.0)
        (report,) = write_reports([config], results)
        assert words in report.read_text()
