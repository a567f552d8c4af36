"""What commands read from a run's folder: its checkpoint and the data it was trained on."""

from collections.abc import Iterable
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


def find_data(flags: DataFlags, runs: Iterable[Path]) -> DataSource:
    """Return the data set of the flags, completed by the configuration of the runs.

    Args:
        flags: The data set and folder on the command line.
        runs: Folders of runs, or checkpoints, that were trained on one data set.

    Raises:
        UserError: A run does not exist, the runs have several data sets or folders of data, or
            neither flags nor runs name one.
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
    own = next((source for source in known if source.name == name), None)
    roots = sorted({str(source.root.resolve()) for source in known if source.name == name})
    if flags.root is None and len(roots) > 1:
        raise UserError(f"the runs have data in {', '.join(roots)}; choose `data.root`")
    root = flags.root or (own.root if own else default_root(name))
    return DataSource(name, root, own.split if own else "val")


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
