"""The one rule for which files belong to a data set or to a prediction."""

import glob
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from skseg.errors import UserError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
"""The suffixes of the image files that a directory is searched for, in lower case."""

_HIDDEN = "hidden files or folders"
_OTHER_TYPE = "files of other types"
_NOT_REGULAR = "pipes, sockets or devices"
_LOOP = "links to a folder above"


class Listing(NamedTuple):
    """The files that a search found.

    Attributes:
        files: The files, sorted.
        left_out: Number of entries that were left out, by kind.
    """

    files: list[Path]
    left_out: Counter[str]


class NamedFiles(NamedTuple):
    """Files by the names that pair images and masks.

    Attributes:
        by_name: The files; of two with the same name, the first.
        doubles: For each file whose name another one has, "the other and the file".
        left_out: Number of entries that were left out, by kind.
    """

    by_name: dict[str, Path]
    doubles: list[str]
    left_out: Counter[str]


def list_files(folder: Path, depth: int | None = None, ending: str | None = None) -> Listing:
    """List the image files below a folder.

    Links to files and folders are followed; a link to a file that does not exist is listed, so that
    reading it names it. These are left out: hidden files and folders (`.x`, and the `._x.png` and
    `__MACOSX` of macOS), files without the suffix of an image, pipes, sockets and devices, and
    links that lead back to a folder above them.

    Args:
        folder: The folder; one that does not exist has no files.
        depth: Number of path parts below the folder that a file must have; any by default.
        ending: End of the files' names, in any case, instead of the suffixes of images. Files with
            another ending do not count as left out.

    Raises:
        UserError: A folder cannot be read.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("b.PNG", "a.jpg", "._a.jpg", "notes.txt"):
        ...     (folder / name).touch()
        >>> files, left_out = list_files(folder)
        >>> [file.name for file in files], left_out.total()
        (['a.jpg', 'b.PNG'], 2)
    """
    files: list[Path] = []
    left_out: Counter[str] = Counter()
    for entry in _walk(folder, depth, left_out):
        # Of what is no link, the folder's list has the type, without a look at each file.
        belongs = not entry.is_symlink() and entry.is_file(follow_symlinks=False)
        kind = _kind_left_out(Path(entry.path), ending, known_regular=belongs)
        if kind is None:
            files.append(Path(entry.path))
        elif kind != _OTHER_TYPE or ending is None:
            left_out[kind] += 1
    return Listing(sorted(files), left_out)


def match_files(pattern: str) -> tuple[Path, Listing]:
    """List the image files that match a glob pattern, by the rule of `list_files`.

    Args:
        pattern: The pattern; its leading folders that exist may have any name.

    Returns:
        The last folder before the first wildcard, and the files.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp()) / "run [1]"
        >>> folder.mkdir()
        >>> (folder / "a.png").touch()
        >>> base, (files, _) = match_files(f"{folder}/*.png")
        >>> base.name, [file.name for file in files]
        ('run [1]', ['a.png'])
    """
    parts = Path(pattern).parts
    first = 0  # of the parts that may have wildcards
    while first < len(parts) and (
        not glob.has_magic(parts[first]) or Path(*parts[: first + 1]).is_dir()
    ):
        first += 1
    base = Path(*parts[:first])
    files: list[Path] = []
    left_out: Counter[str] = Counter()
    rest = os.path.join(*parts[first:])
    for found in glob.glob(rest, root_dir=base, recursive=True):
        path = base / found
        if path.is_dir():
            continue
        kind = _kind_left_out(path)
        if any(map(_is_hidden, Path(found).parts)):
            kind = _HIDDEN
        elif _is_in_loop(base, found):
            kind = _LOOP
        if kind is None:
            files.append(path)
        else:
            left_out[kind] += 1
    return base, Listing(sorted(set(files)), left_out)


def name_files(listing: Listing, name: Callable[[Path], str]) -> NamedFiles:
    r"""Index files by name.

    Names are text: bytes that are not UTF-8 are written as `\xe9`. Two names are the same if they
    differ only in how Unicode composes a letter.

    Args:
        listing: The files.
        name: Returns the name of a file.

    Example:
        >>> files = [Path("a.jpg"), Path("a.png"), Path("b.png")]
        >>> named = name_files(Listing(files, Counter()), lambda file: file.stem)
        >>> list(named.by_name), named.doubles
        (['a', 'b'], ['a.jpg and a.png'])
    """
    by_name: dict[str, Path] = {}
    by_key: dict[str, Path] = {}
    doubles = []
    for file in listing.files:
        text = os.fsencode(name(file)).decode("utf-8", "backslashreplace")
        key = pairing_key(text)
        if key in by_key:
            doubles.append(f"{by_key[key]} and {file}")
        else:
            by_key[key] = by_name[text] = file
    return NamedFiles(by_name, doubles, listing.left_out)


def pairing_key(name: str) -> str:
    r"""Return what the names of an image and its mask share: their composed Unicode form.

    macOS decomposes letters in file names, most other systems compose them.

    Example:
        >>> pairing_key("e\u0301") == pairing_key("\u00e9")
        True
    """
    return unicodedata.normalize("NFC", name)


def describe_left_out(left_out: Counter[str]) -> str:
    """Write what a search left out, empty if nothing.

    Example:
        >>> describe_left_out(Counter({"hidden files or folders": 2}))
        'left out: hidden files or folders (2)'
    """
    kinds = ", ".join(f"{kind} ({number})" for kind, number in sorted(left_out.items()))
    return f"left out: {kinds}" if kinds else ""


def is_regular(path: Path) -> bool:
    """Return whether opening a path cannot wait for another process, as a pipe would."""
    return path.is_file() or path.is_dir() or not path.exists()


def _walk(
    folder: Path,
    depth: int | None,
    left_out: Counter[str],
    above: tuple[os.stat_result, ...] = (),
) -> Iterator["os.DirEntry[str]"]:
    """Yield what is not hidden and not a folder, through links too; count what is skipped.

    Args:
        folder: The folder to search.
        depth: See `list_files`.
        left_out: Numbers of what is left out; they are increased.
        above: The folders on the way here, to recognize a link back to one of them.
    """
    try:
        status = folder.stat()
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise UserError(f"{folder}: cannot be read ({error.strerror})") from error
    if any(os.path.samestat(status, other) for other in above):
        left_out[_LOOP] += 1
        return
    level = len(above) + 1
    for entry in found:
        if _is_hidden(entry.name):
            left_out[_HIDDEN] += 1
        elif entry.is_dir(follow_symlinks=False) or (
            entry.is_symlink() and os.path.isdir(entry.path)
        ):
            if depth is None or level < depth:
                yield from _walk(Path(entry.path), depth, left_out, (*above, status))
        elif depth in (None, level):
            yield entry


def _is_in_loop(base: Path, found: str) -> bool:
    """Return whether a path goes through one folder twice, by a link back to it."""
    folders = [(base / parent).resolve() for parent in Path(found).parents]
    return len(set(folders)) < len(folders)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _kind_left_out(
    path: Path, ending: str | None = None, known_regular: bool = False
) -> str | None:
    """Return the kind of a file that does not belong, None for one that does."""
    if ending is not None:
        belongs = path.name.lower().endswith(ending.lower())
    else:
        belongs = path.suffix.lower() in IMAGE_SUFFIXES
    if not belongs:
        return _OTHER_TYPE
    return None if known_regular or is_regular(path) else _NOT_REGULAR
