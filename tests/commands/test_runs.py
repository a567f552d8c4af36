"""What commands find in a run's folder, and what overrides it."""

import multiprocessing
import os
from pathlib import Path

import pytest
import yaml

from skseg.commands.flags import DataFlags
from skseg.commands.runs import (
    DataSource,
    RunPlace,
    claimed,
    find_checkpoint,
    find_data,
    find_run,
    run_folder,
)
from skseg.errors import UserError


def write_run(folder: Path, **data: object) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    (folder / "checkpoints" / "best.ckpt").touch()
    text = "# pytorch_lightning==2.6\n" + yaml.safe_dump({"data": data})
    (folder / "config.yaml").write_text(text)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", name="camvid", root="/data/camvid", eval_split="test")


def test_a_run_is_its_last_checkpoint(run: Path, tmp_path: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    assert find_checkpoint(run) == last
    assert find_checkpoint(last.with_name("best.ckpt")) == last.with_name("best.ckpt")
    assert run_folder(last) == run_folder(run) == run
    with pytest.raises(UserError, match=r"checkpoints/last\.ckpt"):
        find_checkpoint(tmp_path)


def test_a_checkpoints_folder_is_found_from_inside_of_it(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run / "checkpoints")
    assert run_folder(Path("last.ckpt")) == run
    monkeypatch.chdir(run)
    assert run_folder(Path("checkpoints/last.ckpt")) == Path()


@pytest.mark.parametrize("part", [".", "checkpoints/last.ckpt"])
def test_data_comes_from_the_run_unless_flags_say_otherwise(run: Path, part: str) -> None:
    def find(name: str | None = None, root: str | None = None) -> DataSource:
        return find_data(DataFlags(name, Path(root) if root else None), [run / part])

    assert find() == ("camvid", Path("/data/camvid"), "test")
    assert find(root="/other") == ("camvid", Path("/other"), "test")
    assert find("camvid") == ("camvid", Path("/data/camvid"), "test")
    assert find("camvid", "/other") == ("camvid", Path("/other"), "test")
    assert find("streets") == ("streets", Path("data/streets"), "val")
    assert find("streets", "/other") == ("streets", Path("/other"), "val")


def test_a_run_without_a_root_has_the_default_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", name="camvid", root=None)
    assert find_data(DataFlags(), [run]) == ("camvid", Path("data/camvid"), "val")


def test_a_lone_checkpoint_needs_a_name(tmp_path: Path) -> None:
    lone = tmp_path / "a" / "b" / "lone.ckpt"
    lone.parent.mkdir(parents=True)
    lone.touch()
    for runs in ([lone], []):
        with pytest.raises(UserError, match=r"`data\.name` is missing"):
            find_data(DataFlags(), runs)
        assert find_data(DataFlags("camvid"), runs) == ("camvid", Path("data/camvid"), "val")
    with pytest.raises(UserError, match="nothing"):
        find_data(DataFlags("camvid"), [tmp_path / "nothing"])


@pytest.mark.parametrize("content", ["", "data: {}", "[1]", "data: [", "data: 3"])
def test_a_broken_configuration_matters_only_without_a_name(run: Path, content: str) -> None:
    (run / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=r"config\.yaml"):
        find_data(DataFlags(), [run])
    assert find_data(DataFlags("camvid"), [run]) == ("camvid", Path("data/camvid"), "val")


def test_runs_of_several_data_sets_need_a_name(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", name="streets")
    with pytest.raises(UserError, match=r"camvid, streets.*`data\.name`"):
        find_data(DataFlags(), [run, other])
    assert find_data(DataFlags("streets"), [run, other]).root == Path("data/streets")


def test_runs_with_data_in_several_folders_need_a_root(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", name="camvid", root="/elsewhere", eval_split="test")
    with pytest.raises(UserError, match=r"/data/camvid, /elsewhere; choose `data\.root`"):
        find_data(DataFlags(), [run, other])
    root = Path("/data/camvid")
    assert find_data(DataFlags(None, root), [run, other]) == ("camvid", root, "test")
    assert find_data(DataFlags(), [run, run]) == ("camvid", root, "test")


def test_runs_validated_on_several_splits_need_a_split(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", name="camvid", root="/data/camvid", eval_split="val")
    with pytest.raises(UserError, match="test and val; choose `split`"):
        find_data(DataFlags(), [run, other])
    assert find_data(DataFlags(), [run, other], "train").split == "train"


def test_last_is_the_newest_checkpoint_of_a_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for age, name in enumerate(("b", "a", "c")):
        last = write_run(Path("runs/mine") / name) / "checkpoints" / "last.ckpt"
        os.utime(last, (1000 - age, 1000 - age))
    place = find_run(None, "last", "mine")
    assert place.folder == Path("runs/mine/b")
    assert place.checkpoint == "runs/mine/b/checkpoints/last.ckpt"
    with claimed(place) as folder:  # the run's own folder, not a new one
        assert folder == place.folder
    of_c = find_run("runs/mine/c", "last", "mine")
    assert of_c.checkpoint == "runs/mine/c/checkpoints/last.ckpt"
    with pytest.raises(UserError, match="runs/other"):
        find_run(None, "last", "other")
    with pytest.raises(UserError, match=r"runs/mine/checkpoints/last\.ckpt"):
        find_run("runs/mine", "last", "mine")  # a folder of runs is no run
    fresh = find_run(None, None, "mine")
    assert fresh.checkpoint is None
    assert fresh.folder.parent == Path("runs/mine")
    assert not fresh.folder.exists()


def test_auto_starts_or_resumes(run: Path, tmp_path: Path) -> None:
    assert find_run(str(run), "auto", "x").checkpoint == str(run / "checkpoints" / "last.ckpt")
    assert find_run(str(tmp_path / "new"), "auto", "x").checkpoint is None
    with pytest.raises(UserError, match="`run_dir`"):
        find_run(None, "auto", "x")


def test_a_run_that_left_no_checkpoint_starts_again(run: Path) -> None:
    with pytest.raises(UserError, match="holds a run already"):
        find_run(str(run), None, "x")
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    for ckpt_path in (None, "auto"):
        assert find_run(str(run), ckpt_path, "x").checkpoint is None
    (run / "config.yaml").write_text("data: {name: mine}  # the user's own")
    for ckpt_path in (None, "auto"):
        with pytest.raises(UserError, match="not empty"):
            find_run(str(run), ckpt_path, "x")


def test_the_checkpoint_of_another_run_is_refused(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other") / "checkpoints" / "last.ckpt"
    with pytest.raises(UserError, match=r"run is not the folder of .*other/checkpoints"):
        find_run(str(run), str(other), "x")
    place = find_run(str(tmp_path / "new"), str(other), "x")
    assert place.checkpoint == str(other)
    own = find_run(str(run), str(run / "checkpoints" / "best.ckpt"), "x")
    assert own.folder == run


def _claim(place: RunPlace, ready: object, done: object) -> None:
    with claimed(place):
        ready.put(os.getpid())  # type: ignore[attr-defined]
        done.get()  # type: ignore[attr-defined]


def test_a_folder_has_one_run_at_a_time(tmp_path: Path) -> None:
    place = RunPlace(tmp_path / "a" / "run", None, is_new=False)
    processes = multiprocessing.get_context("fork")
    ready, done = processes.Queue(), processes.Queue()
    process = processes.Process(target=_claim, args=(place, ready, done))
    process.start()
    pid = ready.get()
    with pytest.raises(UserError, match=f"in use by process {pid} on "), claimed(place):
        pass
    with claimed(place._replace(is_new=True)) as folder:
        assert folder != place.folder
        assert folder.is_dir()
    assert not folder.exists()
    done.put(None)
    process.join()
    assert not (tmp_path / "a").exists()  # nothing was written
    with claimed(place) as folder:
        (folder / "config.yaml").touch()
    assert [path.name for path in place.folder.iterdir()] == ["config.yaml"]


def test_a_killed_run_leaves_its_folder_free(tmp_path: Path) -> None:
    place = RunPlace(tmp_path / "run", None, is_new=False)
    processes = multiprocessing.get_context("fork")
    ready, done = processes.Queue(), processes.Queue()
    process = processes.Process(target=_claim, args=(place, ready, done))
    process.start()
    ready.get()
    process.kill()
    process.join()
    with claimed(place) as folder:
        assert folder == place.folder
