"""Run folders: where a run is, its checkpoint, and the data it was trained on."""

import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import yaml

from skseg.commands.flags import DataFlags
from skseg.data import default_root
from skseg.errors import UserError


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


def find_run(run_dir: str | None, ckpt_path: str | None, stem: str) -> tuple[Path, str | None]:
    """Choose a run's folder and find the checkpoint to resume from.

    Args:
        run_dir: Folder that the user named.
        ckpt_path: "last", a checkpoint's file, or None for a new run.
        stem: Name of the config; folders that the user did not name are in runs/STEM.

    Returns:
        The folder, and the checkpoint's path or None for a new run.

    Raises:
        UserError: There is no such checkpoint, or a new run would use the folder of another one.
    """
    if ckpt_path == "last":
        searched = Path(run_dir) if run_dir else Path("runs") / stem
        found = sorted(searched.glob("**/checkpoints/last.ckpt"), key=lambda p: p.stat().st_mtime)
        if not found:
            raise UserError(f"`ckpt_path` last: no checkpoint below {searched}")
        return Path(run_dir) if run_dir else found[-1].parents[1], str(found[-1])
    if ckpt_path is not None and not Path(ckpt_path).is_file():
        raise UserError(f"`ckpt_path` {ckpt_path}: no such file; give a file, or 'last'")
    path = Path(run_dir) if run_dir else _new_folder(Path("runs") / stem)
    if path.exists() and not path.is_dir():
        raise UserError(f"`run_dir` {path}: is a file")
    # The other processes of a job may find the folder that the main process has made.
    if ckpt_path is None and is_main_process() and path.is_dir() and any(path.iterdir()):
        raise UserError(
            f"`run_dir` {path} holds a run already: name another folder, or resume it with "
            "`ckpt_path` last"
        )
    return path, ckpt_path


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
