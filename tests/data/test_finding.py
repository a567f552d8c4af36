import os
import socket
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from skseg.data import DATASETS
from skseg.data.finding import Listing, list_files, match_files, name_files
from skseg.errors import UserError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names(folder: Path, listing: Listing) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in listing.files]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """All that a file system may offer."""
    root = tmp_path / "in"
    touch(root / "b.PNG", root / "a [1]/$x.Jpeg", root / "notes.txt", root / "Thumbs.db")
    touch(root / ".hidden.png", root / "._b.PNG", root / ".git/c.png", root / "__MACOSX/b.png")
    touch(tmp_path / "elsewhere/d.png")
    (root / "linked.png").symlink_to(tmp_path / "elsewhere/d.png")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(tmp_path / "elsewhere")
    (root / "a [1]/up").symlink_to(root)
    (root / "gone.png").symlink_to(tmp_path / "gone.png")
    (root / "itself.png").symlink_to(root / "itself.png")
    os.mkfifo(root / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "socket.png"))
    (root / "null.png").symlink_to("/dev/null")
    (root / "empty").mkdir()
    return root


def test_one_rule_for_what_belongs(folder: Path) -> None:
    listing = list_files(folder)
    assert names(folder, listing) == [
        *("a [1]/$x.Jpeg", "again/d.png", "b.PNG", "gone.png", "itself.png"),
        *("linked/d.png", "linked.png"),
    ]
    assert listing.left_out == {
        "hidden files or folders": 4,
        "files of other types": 2,
        "links to a folder above": 1,
        "pipes, sockets or devices": 3,
    }


def test_a_pattern_has_the_same_rule(folder: Path) -> None:
    base, listing = match_files(f"{folder}/**/*")
    assert base == folder
    assert names(folder, listing) == names(folder, list_files(folder))
    base, listing = match_files(f"{folder}/a [1]/*")
    assert base == folder / "a [1]"
    assert names(base, listing) == ["$x.Jpeg"]
    assert match_files(f"{folder}/nothing*")[1] == Listing([], Counter())


def test_a_depth_and_an_ending(folder: Path) -> None:
    assert names(folder, list_files(folder, depth=2)) == [
        *("a [1]/$x.Jpeg", "again/d.png", "linked/d.png"),
    ]
    listing = list_files(folder, ending="B.png")
    assert names(folder, listing) == ["b.PNG"]
    assert "files of other types" not in listing.left_out


def test_no_folder_has_no_files(tmp_path: Path) -> None:
    touch(tmp_path / "file")
    for folder in (tmp_path / "nowhere", tmp_path / "file" / "below"):
        assert list_files(folder) == Listing([], Counter())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read any folder")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0)
    with pytest.raises(UserError, match=r"locked: cannot be read"):
        list_files(tmp_path)


def test_by_name_lists_doubles() -> None:
    files = [Path("a.jpg"), Path("a.png"), Path("b.png")]
    named = name_files(Listing(files, Counter()), lambda file: file.stem)
    assert named.by_name == {"a": Path("a.jpg"), "b": Path("b.png")}
    assert named.doubles == ["a.jpg and a.png"]


def test_names_that_differ_only_in_composition_are_doubles() -> None:
    composed, decomposed = (unicodedata.normalize(form, "ü") for form in ("NFC", "NFD"))
    files = [Path(f"{decomposed}.png"), Path(f"{composed}.png")]
    assert len(name_files(Listing(files, Counter()), lambda file: file.stem).doubles) == 1


def test_a_name_is_text_whatever_its_bytes() -> None:
    file = Path(os.fsdecode(b"caf\xe9.png"))
    named = name_files(Listing([file], Counter()), lambda file: file.stem)
    assert named.by_name == {"caf\\xe9": file}


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_image_and_its_mask_pair_in_any_unicode_form(tmp_path: Path, save, split: str) -> None:
    image = save(
        tmp_path / split / "images" / f"{unicodedata.normalize('NFC', 'é')}.PNG", (2, 2, 3)
    )
    mask = save(tmp_path / split / "masks" / f"{unicodedata.normalize('NFD', 'é')}.png", (2, 2))
    (pair,) = DATASETS["camvid"].pairs(tmp_path, split)
    assert pair[:2] == (image, mask)
    assert pair.name == image.stem  # as in the file system


def test_every_double_and_lonely_file_is_counted(tmp_path: Path, save) -> None:
    for name in ("a.png", "a.jpg", "b.png", "b.jpg", "c.png"):
        save(tmp_path / "val" / "images" / name, (2, 2, 3))
    for name in ("a.png", "b.png", "d.png"):
        save(tmp_path / "val" / "masks" / name, (2, 2))
    listing = DATASETS["camvid"].list_pairs(tmp_path, "val")
    assert [pair.name for pair in listing.pairs] == ["a", "b"]
    assert [problem.split()[0] for problem in listing.problems] == ["1", "1", "2"]
    with pytest.raises(UserError, match=r"c\.png(.|\n)*d\.png(.|\n)*a\.jpg and \S*a\.png"):
        DATASETS["camvid"].pairs(tmp_path, "val")


def test_what_is_left_out_is_said_once(tmp_path: Path, save, capfd) -> None:
    import logging

    save(tmp_path / "val/images/a.png", (2, 2, 3))
    save(tmp_path / "val/masks/a.png", (2, 2))
    (tmp_path / "val/images/._a.png").touch()
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    logger.addHandler(handler)
    try:
        for _ in range(2):
            DATASETS["camvid"].pairs(tmp_path, "val")
    finally:
        logger.removeHandler(handler)
    assert said == ["camvid, split 'val': left out: hidden files or folders (1)"]
