"""Run folders: where a run is, its checkpoint, and the data it was trained on."""

import fcntl
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, NamedTuple

import yaml

from skseg.commands.flags import DataFlags
from skseg.data import default_root
from skseg.errors import UserError

DUMP_HEADER = "pytorch_lightning=="
"""How the comment begins that `skseg fit` writes at the top of a run's config.yaml."""

_LOCK = ".lock"  # file that the process of a run keeps locked


class DataSource(NamedTuple):
    """A data set, its folder, and the split that evaluations use."""

    name: str
    root: Path
    split: str = "val"


def find_checkpoint(run: Path) -> Path:
    """Return the checkpoint of a run's folder, or a checkpoint as it is.

    Args:
        run: The folder of a run, or a checkpoint's file.

    Raises:
        UserError: The folder has no checkpoints/last.ckpt.
    """
    if not run.is_dir():
        return run
    checkpoint = run / "checkpoints" / "last.ckpt"
    if not checkpoint.is_file():
        raise UserError(f"{run}: is not the folder of a run; it has no checkpoints/last.ckpt")
    return checkpoint


def find_data(flags: DataFlags, runs: Iterable[Path], split: str | None = None) -> DataSource:
    """Return the data set of the flags, completed by the configuration of the runs.

    Args:
        flags: The data set and folder on the command line.
        runs: Folders of runs, or checkpoints, that were trained on one data set.
        split: The split on the command line; None for the one that the runs were validated on.

    Raises:
        UserError: A run does not exist, the runs have several data sets, folders of data or
            splits, or neither flags nor runs name a data set.
    """
    known: list[DataSource] = []
    for run in runs:
        if not run.exists():
            raise UserError(f"{run}: no such run or checkpoint")
        try:
            known += filter(None, [read_data(run_folder(run) / "config.yaml")])
        except UserError:
            if flags.name is None:
                raise
    names = sorted({source.name for source in known})
    if flags.name is None and len(names) > 1:
        raise UserError(f"the runs have several data sets, {', '.join(names)}; choose `data.name`")
    name = flags.name or next(iter(names), None)
    if name is None:
        raise UserError(
            "`data.name` is missing: only a run's folder, or a checkpoint in it, says what it was "
            "trained on"
        )
    own = [source for source in known if source.name == name]
    roots = sorted({str(source.root.resolve()) for source in own})
    if flags.root is None and len(roots) > 1:
        raise UserError(f"the runs have data in {', '.join(roots)}; choose `data.root`")
    splits = sorted({source.split for source in own})
    if split is None and len(splits) > 1:
        raise UserError(f"the runs were validated on {' and '.join(splits)}; choose `split`")
    root = flags.root or (own[0].root if own else default_root(name))
    return DataSource(name, root, split or (splits[0] if own else "val"))


def run_folder(run: Path) -> Path:
    """Return the folder of a run or of a checkpoint, which is in RUN/checkpoints.

    Args:
        run: The folder of a run, or a checkpoint's file.
    """
    if run.is_dir():
        return run
    # A path such as last.ckpt has no parents; keep relative paths where they have.
    return (run if run.parent.name else run.absolute()).parent.parent


def read_data(config: Path) -> DataSource | None:
    """Return the data set in a run's config.yaml, None if there is no such file.

    Args:
        config: A file that `skseg fit` wrote.

    Raises:
        UserError: The file cannot be read, or names no data set.
    """
    if not config.is_file():
        return None
    try:
        data = yaml.safe_load(config.read_text(encoding="utf-8"))["data"]
        name = str(data["name"])
        root = data.get("root") or default_root(name)
        return DataSource(name, Path(root), str(data.get("eval_split") or "val"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        raise UserError(f"{config}: is not the configuration of a run; give `data.name`") from None


class RunPlace(NamedTuple):
    """Where a run is written, and what it resumes from.

    Attributes:
        folder: The run's folder; it may not exist yet.
        checkpoint: The checkpoint to resume from, None for a start from the first step.
        is_new: Whether the folder must be new, because nobody named it.
    """

    folder: Path
    checkpoint: str | None
    is_new: bool


def find_run(run_dir: str | None, ckpt_path: str | None, stem: str) -> RunPlace:
    """Choose a run's folder and find the checkpoint to resume from.

    Args:
        run_dir: Folder that the user named.
        ckpt_path: A checkpoint's file; "last" for the latest checkpoint; "auto" for the latest
            checkpoint of `run_dir` if it has one; None for a new run.
        stem: Name of the config; folders that the user did not name are in runs/STEM.

    Raises:
        UserError: There is no such checkpoint, or the folder holds another run.
    """
    parent = Path("runs") / stem
    folder, is_new = (Path(run_dir), False) if run_dir else (_new_folder(parent), True)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"`run_dir` {folder}: is a file")
    last = folder / "checkpoints" / "last.ckpt"
    if ckpt_path == "auto":
        if is_new:
            raise UserError("`ckpt_path` auto requires `run_dir`, the folder to go on in")
        ckpt_path = str(last) if last.is_file() else None
    elif ckpt_path == "last":
        last = _latest(parent) if is_new else last
        if not last.is_file():
            raise UserError(
                f"`ckpt_path` last: no checkpoint at {last}; to start a run, omit `ckpt_path`, or "
                "set `run_dir` and `ckpt_path` auto"
            )
        folder, ckpt_path, is_new = last.parents[1], str(last), False
    elif ckpt_path is not None and not Path(ckpt_path).is_file():
        raise UserError(f"`ckpt_path` {ckpt_path}: no such file; give a file, 'last' or 'auto'")
    # The other processes of a job may find the folder that the main process has made.
    if is_main_process():
        _check_folder(folder, ckpt_path)
    return RunPlace(folder, ckpt_path, is_new)


def _latest(parent: Path) -> Path:
    """Return the latest checkpoint of the runs in a folder, or a path that does not exist."""
    found = parent.glob("*/checkpoints/last.ckpt")
    return max(found, key=lambda p: p.stat().st_mtime, default=parent / "*/checkpoints/last.ckpt")


def _check_folder(folder: Path, checkpoint: str | None) -> None:
    """Raise UserError if a folder holds something else than the run of the checkpoint.

    A run that ended before its first checkpoint may start again in its folder.
    """
    if checkpoint is not None and Path(checkpoint).resolve().parent == _checkpoints(folder):
        return
    found = [p for p in folder.iterdir() if p.name != _LOCK] if folder.is_dir() else []
    is_unstarted = _is_written_by_fit(folder / "config.yaml") and not any(
        _checkpoints(folder).glob("*.ckpt")
    )
    if not found or (is_unstarted and checkpoint is None):
        return
    if checkpoint is not None:
        raise UserError(
            f"`run_dir` {folder} is not the folder of `ckpt_path` {checkpoint}, and not empty: "
            "name a new folder, or the checkpoint's own"
        )
    if (_checkpoints(folder) / "last.ckpt").is_file():
        raise UserError(
            f"`run_dir` {folder} holds a run already: choose another folder, or resume it with "
            "`ckpt_path` auto"
        )
    raise UserError(f"`run_dir` {folder} is not empty and has no checkpoint; choose another folder")


def _is_same_file(file: IO[str], path: Path) -> bool:
    """Whether an open file is still the one at a path, which another run may have removed."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _is_written_by_fit(config: Path) -> bool:
    """Whether a file is the configuration that a run wrote, and not one of the user's."""
    try:
        return config.read_text(encoding="utf-8").startswith(f"# {DUMP_HEADER}")
    except (OSError, UnicodeDecodeError):
        return False


def _checkpoints(folder: Path) -> Path:
    return folder.resolve() / "checkpoints"


@contextmanager
def claimed(place: RunPlace) -> Iterator[Path]:
    """Make a run's folder, and keep other runs out of it while the context lasts.

    Args:
        place: The folder. If it must be new and another run makes it first, a number is added to
            its name.

    Yields:
        The folder. A folder that is made here and is still empty at the end is removed.

    Raises:
        UserError: The folder cannot be made, or another run uses it.
    """
    folder = place.folder
    try:
        while not (made := _make(folder)) and place.is_new:
            folder = _new_folder(folder.parent)
        lock = (folder / _LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(f"`run_dir` {folder}: cannot be made ({error.strerror})") from error
    with lock:
        _acquire(lock, folder)
        try:
            yield folder
        finally:
            (folder / _LOCK).unlink(missing_ok=True)
            with suppress(OSError):  # not empty
                for path in made:
                    path.rmdir()


def _make(folder: Path) -> list[Path]:
    """Make a folder; return the folders that this process made, the deepest first."""
    made = [path for path in folder.parents if not path.exists()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        return []
    return [folder, *made]


def _acquire(lock: IO[str], folder: Path) -> None:
    """Lock a run's folder and write who has it; raise UserError if another run has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        who = lock.read().strip() or "another run"
        raise UserError(f"`run_dir` {folder} is in use by {who}") from None
    except OSError:  # a file system without locks
        pass
    if not _is_same_file(lock, folder / _LOCK):
        raise UserError(f"`run_dir` {folder} has just been used by another run; try again")
    lock.truncate(0)
    now = datetime.now().isoformat(" ", "seconds")
    lock.write(f"process {os.getpid()} on {socket.gethostname()} since {now}\n")
    lock.flush()


def is_main_process() -> bool:
    """Return whether this process is the first of its job, by its launcher's environment.

    Lightning, torchrun and Slurm set these variables before Lightning has ranks.
    """
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID"))
    if rank is not None:
        return int(rank) == 0
    node = os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0"))
    return int(node) == 0 and int(os.environ.get("LOCAL_RANK", "0")) == 0


def _new_folder(parent: Path) -> Path:
    name = datetime.now().strftime("%Y%m%d-%H%M%S")
    path, count = parent / name, 2
    while path.exists():
        path, count = parent / f"{name}-{count}", count + 1
    return path
