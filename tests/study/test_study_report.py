"""The report of a study: its words follow from its numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from running import REPOSITORY, run_script

from skseg.errors import UserError
from skseg.study.matrix import Study, add_row, read_rows, read_study
from skseg.study.report import write_reports
from skseg.study.summary import scores


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


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (2.0, "sk is better. +2.00 points"),
        (-2.0, "sk is worse. -2.00 points"),
        (0.5, "no difference shown. +0.50 points"),
    ],
)
def test_the_conclusion_follows_from_the_numbers(tmp_path: Path, gain: float, words: str) -> None:
    config, study = write_study(tmp_path, "streets")
    write_rows(study, tmp_path / "results" / "streets" / "runs.csv", gain)
    (report,) = write_reports([config], tmp_path / "results")
    text = report.read_text()
    assert words in text
    # Student's interval at 6 pairs of deviation 1: 2.570582 / sqrt(6)
    assert f"interval {gain - 1.0494:+.2f} to {gain + 1.0494:+.2f}, 6 pairs" in text
    assert "a difference of 1 point takes 10 pairs" in text
    assert "14 of 14 planned runs are done; their times sum to 14.0 hours" in text
    summary = json.loads((report.parent / "summary.json").read_text())
    record = summary["decoders"]["fpn"]
    assert record["arms"]["plain"]["miou"] == pytest.approx(40)
    assert record["classes"]["road"]["difference"] == pytest.approx(gain)
    assert "train" not in record["classes"]
    assert record["sizes"]["below 16²"]["difference"] == pytest.approx(gain / 2)
    assert [other["confidence"] for other in record["others"]] == [0.975] * 2
    for name in ("arms.png", "differences.png"):
        assert (report.parent / name).read_bytes().startswith(b"\x89PNG")


def test_the_attention_of_its_networks_is_summed_up(tmp_path: Path) -> None:
    config, study = write_study(tmp_path, "streets")
    folder = tmp_path / "results" / "streets"
    write_rows(study, folder / "runs.csv", 2.0)
    (report,) = write_reports([config], tmp_path / "results")
    assert "Attention" not in report.read_text()
    claim = {"claim": "larger for larger", "verdict": "neither", "numbers": "up in 50 %"}
    worth = {"difference": {"value": 0.01, "low": -0.005, "high": 0.025}}
    record = {"networks": 6, "images": 9, "interval": "95 %", "claims": {"larger": claim}}
    record["claims_beyond_blur"] = None
    for arm in ("sk", "plain"):
        (folder / "attention" / arm).mkdir(parents=True)
        (folder / "attention" / arm / "attention.json").write_text(
            json.dumps(record | {"selection": worth})
        )
    text = write_reports([config], tmp_path / "results")[0].read_text()
    assert "Of 6 networks of sk on 9 images (95 %)" in text
    assert "Of 6 networks of plain on 9 images" in text
    assert "+1.00 points (-0.50 to +2.50)" in text
    assert "![growth](attention/plain/growth.png)" in text
    one = {"selection": {"difference": {"value": 0.01, "low": None, "high": None}}}
    (folder / "attention" / "sk" / "attention.json").write_text(json.dumps(record | one))
    assert "+1.00 points." in write_reports([config], tmp_path / "results")[0].read_text()
    assert '- "larger for larger": neither; up in 50 %.' in text
    assert "blur" not in text
    record["claims_beyond_blur"] = {"larger": claim | {"verdict": "contradicted"}}
    (folder / "attention" / "sk" / "attention.json").write_text(json.dumps(record | one))
    text = write_reports([config], tmp_path / "results")[0].read_text()
    assert '"larger for larger", beyond what blur alone does: contradicted;' in text


def test_a_class_that_never_occurs_does_not_decide(tmp_path: Path) -> None:
    """One run has taken some pixel for it: a class of IoU 0 in the benchmark's mean."""
    one = {"arm": "sk", "decoder": "fpn", "seed": "0", "miou": "0.5", "iou/a": "0.4"}
    rows = [
        one | {"iou/b": "0.6", "iou/never": ""},
        one | {"seed": "1", "miou": "0.4", "iou/b": "0.8", "iou/never": "0.0"},
    ]
    assert scores(rows, "sk", "fpn") == pytest.approx({0: 50.0, 1: 60.0})


def test_nothing_is_concluded_before_all_planned_pairs(tmp_path: Path) -> None:
    config, study = write_study(tmp_path, "streets")
    write_rows(study, tmp_path / "results" / "streets" / "runs.csv", 5.0, seeds=5)
    (report,) = write_reports([config], tmp_path / "results")
    text = report.read_text()
    assert "5 of 6 planned pairs of seeds are done, +5.00 points so far" in text
    assert "better" not in text


def test_seeds_beyond_the_plan_are_not_in_its_test(tmp_path: Path) -> None:
    """Else one could stop where the result pleases."""
    config, study = write_study(tmp_path, "streets", seeds=8)
    table = tmp_path / "results" / "streets" / "runs.csv"
    write_rows(study, table, 2.0, seeds=6)
    for run in study.runs():
        if run.seed >= 6 and run.arm in study.primary:
            more = {"arm": run.arm, "seed": str(run.seed), "digest": run.digest}
            add_row(table, read_rows(table)[0] | more | {"miou": "0.9", "iou/road": "0.9"})
    config, _ = write_study(tmp_path, "streets", seeds=6)
    text = write_reports([config], tmp_path / "results")[0].read_text()
    assert "sk is better. +2.00 points" in text
    assert "6 pairs of seeds" in text
    config, _ = write_study(tmp_path, "streets", seeds=4, first_seed=2)  # of the seeds 0 to 7
    text = write_reports([config], tmp_path / "results")[0].read_text()
    assert "4 pairs of seeds" in text


def test_rows_beyond_the_plan_are_in_no_number(tmp_path: Path) -> None:
    config, study = write_study(tmp_path, "streets", seeds=8)
    write_rows(study, tmp_path / "results" / "streets" / "runs.csv", 2.0, seeds=8)
    write_study(tmp_path, "streets", seeds=4)
    text = write_reports([config], tmp_path / "results")[0].read_text()
    assert "10 of 10 planned runs are done; their times sum to 10.0 hours" in text
    assert "| sk | 4 |" in text
    write_study(tmp_path, "streets", seeds=4, first_seed=50)
    assert write_reports([config], tmp_path / "results") == []
    assert "##" not in (tmp_path / "results" / "README.md").read_text()


def test_what_was_not_run_takes_no_room(tmp_path: Path) -> None:
    config, study = write_study(tmp_path, "streets")
    table = tmp_path / "results" / "streets" / "runs.csv"
    write_rows(study, table, 2.0)
    whole = table.read_text().splitlines(keepends=True)
    table.write_text("".join(line for line in whole if not line.startswith("plain")))
    text = write_reports([config], tmp_path / "results")[0].read_text()
    assert "Without runs so far: plain." in text
    assert "| plain |" not in text
    assert "Other comparisons" not in text


def test_pairs_that_were_made_alike_are_counted(tmp_path: Path) -> None:
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
    alone = write_reports(configs[:1], tmp_path / "results")[0].read_text()
    assert "sk is better. +1.15 points" in alone
    assert "Holm" not in alone
    texts = [report.read_text() for report in write_reports(configs, tmp_path / "results")]
    p_one, p_two = (
        json.loads((tmp_path / "results" / n / "summary.json").read_text())["decoders"]["fpn"][
            "primary"
        ]["p_holm"]
        for n in ("one", "two")
    )
    assert p_one == p_two  # of step-down values none is below the one before
    assert "no difference shown, though p is below 0.05 before the correction. +1.15" in texts[0]
    assert "after Holm's correction for 3 tests" in texts[0]
    assert "sk is better. +9.00" in texts[2]
    index = (tmp_path / "results" / "README.md").read_text()
    assert all(f"({name}/report.md)" in index for name in ("one", "two", "three"))


def test_what_is_planned_counts_before_it_is_done(tmp_path: Path) -> None:
    """Else a finding could be taken back when another study ends."""
    config, study = write_study(tmp_path, "one")
    write_rows(study, tmp_path / "results" / "one" / "runs.csv", 1.15)
    planned, other = write_study(tmp_path, "two")

    def conclusion() -> str:
        report = write_reports([config, planned], tmp_path / "results")[0].read_text()
        return report.partition("## Conclusion")[2].partition("![arms]")[0]

    before = conclusion()
    assert "after Holm's correction for 2 tests" in before
    assert "(each test at 0.05 / 2" in before
    write_rows(other, tmp_path / "results" / "two" / "runs.csv", 0.0)
    assert conclusion() == before


def test_each_decoder_has_its_own_conclusion(tmp_path: Path) -> None:
    config, _ = write_study(tmp_path, "streets")
    content = yaml.safe_load(config.read_text()) | {"decoders": ["fpn", "unet"]}
    config.write_text(yaml.safe_dump(content))
    write_rows(read_study(config), tmp_path / "results" / "streets" / "runs.csv", 2.0)
    (report,) = write_reports([config], tmp_path / "results")
    first, second = report.read_text().split("# unet\n")
    assert first.count("under fpn") == second.count("under unet") == 1
    assert "under unet" not in first
    assert "correction for 2 tests" in second
    index = (tmp_path / "results" / "README.md").read_text()
    assert "\n\nsk against wide under unet: sk is better" in index


def test_a_study_without_a_primary_comparison_looks_and_tests_nothing(tmp_path: Path) -> None:
    config, _ = write_study(tmp_path, "kernels")
    content = yaml.safe_load(config.read_text())
    del content["primary"], content["primary_seeds"]
    config.write_text(yaml.safe_dump(content | {"seeds": 6}))
    study = read_study(config)
    table = tmp_path / "results" / "kernels" / "runs.csv"
    write_rows(study, table, 3.0)
    (report,) = write_reports([config], tmp_path / "results")
    text = report.read_text()
    assert "no comparison was planned" in text
    assert "The highest mean mIoU is sk's, 43.00." in text
    assert "zero: sk - plain (" in text
    assert "wide - plain (" not in text
    assert "## sk - plain in detail" in text
    assert "better" not in text
    record = json.loads((report.parent / "summary.json").read_text())["decoders"]["fpn"]
    assert record["primary"] is None
    planned, study = write_study(tmp_path, "streets")
    write_rows(study, tmp_path / "results" / "streets" / "runs.csv", 2.0)
    assert "Holm" not in write_reports([config, planned], tmp_path / "results")[1].read_text()
    lines = table.read_text().splitlines(keepends=True)
    assert lines[1].startswith("plain")
    table.write_text("".join([lines[0], *lines[2:]]))
    text = write_reports([config], tmp_path / "results")[0].read_text()
    assert "highest" not in text, "arms of unequal seeds are not ranked"
    assert "The arms' numbers of seeds so far: 5 to 6." in text
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:4]))
    assert "in detail" not in write_reports([config], tmp_path / "results")[0].read_text()
    table.unlink()
    write_rows(read_study(config), table, 3.0)
    config.write_text(yaml.safe_dump(content | {"seeds": 6, "others": []}))
    (report,) = write_reports([config], tmp_path / "results")
    assert "in detail" not in report.read_text()


def test_reports_of_nothing(tmp_path: Path) -> None:
    config, _ = write_study(tmp_path, "streets")
    with pytest.raises(UserError, match=r"has no NAME/runs\.csv of a study, of streets"):
        write_reports([config], tmp_path / "none")
    with pytest.raises(UserError, match="no study's config"):
        write_reports([], tmp_path)
    done = run_script("study")
    assert done.returncode == 2
    assert "--config" in done.stderr
    done = run_script("study", "--report", "--limit", 1)
    assert done.returncode == 2
    assert "--report runs nothing" in done.stderr


def test_what_keeps_the_report_from_being_made_is_said_before_the_runs(tmp_path: Path) -> None:
    config, _ = write_study(tmp_path, "streets")
    (tmp_path / "fit.yaml").write_text("trainer: {max_epochs: 3}")
    places = ["--output", tmp_path / "results", "--runs", tmp_path / "runs"]
    done = run_script("study", "--config", config, "--data.root", tmp_path, *places)
    assert done.returncode == 2
    assert f"fit.yaml: lacks arms, data, fit, question (all in {tmp_path} is" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_another_readme_is_not_overwritten(tmp_path: Path) -> None:
    config, study = write_study(tmp_path, "streets")
    write_rows(study, tmp_path / "streets" / "runs.csv", 1.0)
    (tmp_path / "README.md").write_text("# Mine")
    with pytest.raises(UserError, match=r"README\.md: is something else"):
        write_reports([config], tmp_path)
    assert (tmp_path / "README.md").read_text() == "# Mine"
    assert not (tmp_path / "streets" / "report.md").exists()


def test_stale_rows_of_one_study_leave_the_others_their_reports(tmp_path: Path) -> None:
    config, study = write_study(tmp_path, "one")
    stale, other = write_study(tmp_path, "two")
    for each in (study, other):
        gain = {"one": 1.15, "two": 9.0}[each.data["prepare"]]
        write_rows(each, tmp_path / "results" / each.data["prepare"] / "runs.csv", gain)
    stale.write_text(stale.read_text().replace("prepare: two", "prepare: another"))
    with pytest.raises(UserError, match=r"two/runs\.csv: 14 of 14 runs are of another version"):
        write_reports([config, stale], tmp_path / "results")
    text = (tmp_path / "results" / "one" / "report.md").read_text()
    # The stale test is one that is not done yet, which Holm's method counts as found nothing.
    assert "no difference shown, though p is below 0.05 before the correction. +1.15" in text
    assert not (tmp_path / "results" / "two" / "report.md").exists()


def test_a_report_says_at_what_size_it_scored(tmp_path: Path) -> None:
    config, _ = write_study(tmp_path, "streets")
    for scales, words in ([1.0], "val split, in percent"), ([0.5], "split at 0.5 of its size, in"):
        config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | {"scales": scales}))
        results = tmp_path / f"{scales}"
        write_rows(read_study(config), results / "streets" / "runs.csv", 1.0)
        (report,) = write_reports([config], results)
        assert words in report.read_text()
