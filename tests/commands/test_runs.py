"""What commands find in a run's folder, and what overrides it."""

from pathlib import Path

import pytest
import yaml

from skseg.commands.flags import DataFlags
from skseg.commands.runs import DataSource, find_checkpoint, find_data, run_folder
from skseg.errors import UserError


def write_run(folder: Path, **data: object) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    (folder / "checkpoints" / "best.ckpt").touch()
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": data}))
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
