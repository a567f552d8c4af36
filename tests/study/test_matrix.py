"""A study's config, the identity of its runs, and the table of finished runs."""

from pathlib import Path

import pytest
import yaml
from running import REPOSITORY, STUDIES

from skseg.errors import UserError
from skseg.study.matrix import (
    add_row,
    check_rows,
    pending_runs,
    planned_rows,
    read_rows,
    read_study,
)

CONTENT = {
    "question": "Does it help?",
    "fit": str(REPOSITORY / "configs" / "streets.yaml"),
    "data": {"name": "streets", "split": "val", "root": "somewhere"},
    "arms": {
        "a": {"model.encoder_name": "sknet_tiny"},
        "b": {"model.encoder_name": "sknet_tiny_wide"},
        "c": {"model.encoder_name": "sknet_tiny", "model.sk.select": "sum"},
    },
    "primary": ["a", "b"],
    "primary_seeds": 3,
    "seeds": 1,
    "others": [["a", "c"]],
}


def write(path: Path, **changes: object) -> Path:
    path.write_text(yaml.safe_dump({k: v for k, v in (CONTENT | changes).items() if v is not None}))
    return path


def row(run, miou=0.5):
    return {
        **{"arm": run.arm, "decoder": run.decoder, "seed": str(run.seed), "digest": run.digest},
        **{"miou": str(miou), "seconds": "9"},
    }


def test_the_primary_pair_comes_first_seed_by_seed(tmp_path: Path) -> None:
    study = read_study(write(tmp_path / "s.yaml", decoders=["fpn", "unet"]))
    names = [run.name for run in study.runs()]
    assert names[:6] == ["a-fpn-0", "a-unet-0", "b-fpn-0", "b-unet-0", "a-fpn-1", "a-unet-1"]
    assert names[-2:] == ["c-fpn-0", "c-unet-0"]
    assert len(names) == len({run.digest for run in study.runs()}) == 14


def test_seeds_count_up_from_the_first(tmp_path: Path) -> None:
    fresh = read_study(write(tmp_path / "s.yaml", first_seed=7, primary_seeds=2))
    assert [run.name for run in fresh.runs()] == [
        *("a-fpn-7", "b-fpn-7", "a-fpn-8", "b-fpn-8"),
        "c-fpn-7",
    ]
    from_zero = read_study(write(tmp_path / "s.yaml", primary_seeds=9))
    assert fresh.runs()[0] in from_zero.runs(), "a run is the same whichever seed is the first"


def test_additions_to_a_study_keep_finished_runs(tmp_path: Path) -> None:
    study = read_study(write(tmp_path / "s.yaml"))
    rows = [row(run) for run in study.runs()[:3]]
    more = {"seeds": 4, "primary_seeds": 5, "question": "Does it?", "decoders": ["unet", "fpn"]}
    more["arms"] = CONTENT["arms"] | {"d": {"model.encoder_name": "resnet18"}}
    more["data"] = CONTENT["data"] | {"root": "elsewhere"}
    larger = read_study(write(tmp_path / "s.yaml", **more))
    check_rows(larger, rows, tmp_path / "runs.csv")
    left = [run.name for run in pending_runs(larger, rows)]
    assert len(left) == len(larger.runs()) - 3
    assert "a-fpn-0" not in left


@pytest.mark.parametrize(
    "change",
    [
        {"set": {"trainer.max_epochs": 3}},
        {"arms": CONTENT["arms"] | {"a": {"model.encoder_name": "sknet26"}}},
        {"arms": {k: v for k, v in CONTENT["arms"].items() if k != "c"}, "others": []},
        {"data": CONTENT["data"] | {"split": "test"}},
        {"fit": str(REPOSITORY / "configs" / "camvid.yaml")},
        {"scales": [0.5]},
    ],
    ids=["set", "arm", "fewer arms", "split", "fit", "scales"],
)
def test_rows_with_other_settings_are_refused(tmp_path: Path, change: dict) -> None:
    rows = [row(run) for run in read_study(write(tmp_path / "s.yaml")).runs()]
    changed = read_study(write(tmp_path / "s.yaml", **change))
    with pytest.raises(UserError, match=r"runs\.csv: \d of 7 runs .* \(.*-fpn-\d"):
        check_rows(changed, rows, tmp_path / "runs.csv")


def test_rows_of_other_data_are_refused(tmp_path: Path) -> None:
    study = read_study(write(tmp_path / "s.yaml"))
    rows = [row(run) | {"images": "300"} for run in study.runs()]
    check_rows(study, rows, tmp_path / "runs.csv")
    rows[-1]["images"] = "60"
    with pytest.raises(UserError, match=r"runs\.csv: .* 60 and 300 images"):
        check_rows(study, rows, tmp_path / "runs.csv")


def test_the_fit_config_is_read_once(tmp_path: Path) -> None:
    """All runs use the settings of their digests, even if the file is edited meanwhile."""
    fit = tmp_path / "fit.yaml"
    fit.write_text("trainer: {max_epochs: 3}")
    study = read_study(write(tmp_path / "s.yaml", fit=str(fit)))
    before = study.runs()
    fit.write_text("trainer: {max_epochs: 4}")
    assert study.runs() == before
    assert study.fit_text == "trainer: {max_epochs: 3}"
    assert read_study(tmp_path / "s.yaml").runs() != before


def test_changes_make_another_study(tmp_path: Path) -> None:
    path = write(tmp_path / "s.yaml", set={"trainer.max_epochs": 2, "data.flip": 0.0})
    changed = read_study(path, {"trainer.max_epochs": 1})
    assert changed.set == {"trainer.max_epochs": 1, "data.flip": 0.0}
    assert changed.runs()[0].digest != read_study(path).runs()[0].digest


def test_rows_are_added_in_order_and_keep_unlike_columns(tmp_path: Path) -> None:
    study = read_study(write(tmp_path / "s.yaml"))
    table = tmp_path / "deep" / "runs.csv"
    for run in reversed(study.runs()):
        add_row(table, row(run) | ({"iou/road": "0.1"} if run.arm == "b" else {}))
    rows = read_rows(table)
    assert [(r["arm"], int(r["seed"])) for r in rows] == [
        *(("a", s) for s in range(3)),
        *(("b", s) for s in range(3)),
        ("c", 0),
    ]
    assert [r["iou/road"] for r in rows] == ["", "", "", "0.1", "0.1", "0.1", ""]
    assert list(pending_runs(study, rows)) == []
    assert planned_rows(study, [*rows, row(study.run("a", "fpn", 99))]) == rows
    assert [p.name for p in table.parent.iterdir()] == ["runs.csv"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda lines: ["<<<<<<< HEAD\n", *lines],
            r".*\barm, decoder, digest, miou, seconds, seed\b",
        ),
        (lambda lines: [*lines, "<<<<<<< HEAD\n"], "line 5 is not a row"),
        (lambda lines: [*lines, lines[-1]], "line 5 repeats a run"),
        (lambda lines: [*lines, lines[-1].strip() + ",more\n"], "line 5 is not a row"),
        (
            lambda lines: [lines[0].replace("seconds", "time"), *lines[1:]],
            r".*\bseconds\b",
        ),
    ],
)
def test_a_damaged_table_is_refused(tmp_path: Path, spoil, message: str) -> None:
    study = read_study(write(tmp_path / "s.yaml"))
    table = tmp_path / "runs.csv"
    for run in study.runs()[:3]:
        add_row(table, row(run))
    table.write_text("".join(spoil(table.read_text().splitlines(keepends=True))))
    with pytest.raises(UserError, match=rf"runs\.csv: {message}"):
        read_rows(table)


def test_numbers_in_quotes_are_numbers(tmp_path: Path) -> None:
    assert read_study(write(tmp_path / "s.yaml", seeds="2")).seeds == 2


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"arms": None}, ["arms"]),
        ({"seed": 3}, ["'seed'", "'seeds'"]),
        ({"seeds": "five"}, ['"seeds"', "five"]),
        ({"arms": ["a", "b"]}, ['"arms"']),
        ({"arms": {"a": None, "b": {}}}, ['"arms"']),
        ({"arms": {}, "primary": [], "others": [], "primary_seeds": 0}, ["arms", "empty"]),
        ({"arms": CONTENT["arms"] | {True: {}}}, ["arms: True"]),
        ({"arms": CONTENT["arms"] | {3: {}}}, ["arms: 3"]),
        ({"arms": CONTENT["arms"] | {"lr/1": {}}}, ["arms: 'lr/1'"]),
        ({"arms": CONTENT["arms"] | {"..": {}}}, ["arms: '..'"]),
        ({"primary": "ab"}, ['"primary"']),
        ({"primary": ["a", "x"]}, ["['a', 'x']", "a, b, c"]),
        ({"primary": ["a", "a"]}, ["['a', 'a']", "a, b, c"]),
        ({"others": [["a"]]}, ["['a']", "a, b, c"]),
        ({"primary_seeds": 1}, ["primary_seeds", "at least 2", "not 1"]),
        ({"primary": []}, ["primary_seeds", "primary is not"]),
        ({"keep_checkpoints": ["x"]}, ["keep_checkpoints", "no arm x", "a, b, c"]),
        ({"data": {"name": "streets"}}, ["data", "split"]),
        ({"data": CONTENT["data"] | {"roots": "x"}}, ["data", "'roots'", "'root'"]),
        ({"scales": [0]}, ["scales"]),
        ({"scales": []}, ["scales"]),
        ({"seeds": 0}, ["seeds", "at least 1", "not 0"]),
        ({"first_seed": -1}, ["first_seed", "at least 0", "not -1"]),
        ({"decoders": []}, ["decoders", "empty"]),
        ({"decoders": ["fpn", "fpn"]}, ["decoders", "fpn", "twice"]),
        ({"decoders": ["fpn", "fpn-0/../../../victim"]}, ["decoders: 'fpn-0/../../../victim'"]),
        ({"decoders": [".."]}, ["decoders: '..'"]),
        ({"set": {"model.arch": "unet"}}, ["set: model.arch", "decoders"]),
        ({"set": {"data": {"root": "x"}}}, ["set: data.name", "data"]),
        ({"arms": CONTENT["arms"] | {"a": {"data.root": "x"}}}, ["a: data.root", "data"]),
        (
            {"arms": CONTENT["arms"] | {"a": {"seed_everything": 1}}},
            ["a: seed_everything", "first_seed"],
        ),
    ],
)
def test_a_wrong_config_is_refused(tmp_path: Path, changes: dict, facts: list[str]) -> None:
    """The message names the file, the key, the value and the valid choices, in one line."""
    with pytest.raises(UserError) as error:
        read_study(write(tmp_path / "s.yaml", **changes))
    assert str(error.value).startswith(f"{tmp_path / 's.yaml'}: ")
    for fact in facts:
        assert fact in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("config", STUDIES, ids=lambda path: path.stem)
def test_committed_rows_match_their_config(config: Path) -> None:
    tables = [*(REPOSITORY / "docs" / "results").glob(f"**/{config.stem}/runs.csv")]
    assert tables
    for table in tables:
        check_rows(read_study(config), read_rows(table), table)


def test_the_studies_of_drawn_scenes_differ_only_in_seeds() -> None:
    """Equal arms have equal settings in both configs."""
    first, fresh = (
        read_study(REPOSITORY / "configs" / "studies" / f"{name}.yaml")
        for name in ("streets", "streets_fresh")
    )
    for run in fresh.runs():
        assert run.seed not in {r.seed for r in first.runs()}
        assert first.run(run.arm, run.decoder, run.seed) == run


def test_an_unreadable_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_study(tmp_path / "none.yaml")
    (tmp_path / "s.yaml").write_text("a: [")
    with pytest.raises(UserError, match="not valid YAML"):
        read_study(tmp_path / "s.yaml")
