"""A study's config, the runs it asks for, and the rows of those that are done."""

import csv
import hashlib
import json
import os
import re
from argparse import ArgumentError
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from skseg.errors import UserError
from skseg.inference import InferenceSettings

_IDENTITY = ("arm", "decoder", "seed", "digest")
_COLUMNS = (*_IDENTITY, "miou", "seconds")  # what is counted on; others may be missing
_DATA_KEYS = ("name", "split", "root", "prepare")
# Values of a run that another key of a study decides.
_DECIDED = {
    "model.arch": "decoders",
    "data.name": "data",
    "data.root": "data",
    "seed_everything": "first_seed",
    "run_dir": "the place of --runs",
    "ckpt_path": "what there is to go on from",
}
_NAME = re.compile(r"\w[\w.+-]*")
Row = dict[str, str]


@dataclass(frozen=True)
class Run:
    """One training and its evaluation.

    Attributes:
        arm: which of the study's arms.
        decoder: `model.arch`.
        seed: of the whole run.
        arguments: dotted keys of the fit config and their values.
        digest: stands for all that decides the result; another digest is another experiment.
    """

    arm: str
    decoder: str
    seed: int
    arguments: Mapping[str, Any]
    digest: str

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return f"{self.arm}-{self.decoder}-{self.seed}"

    @property
    def identity(self) -> tuple[str, ...]:
        """What a row of it has in the columns that tell runs apart."""
        return (self.arm, self.decoder, str(self.seed), self.digest)


@dataclass(frozen=True)
class Study:
    """What a study compares; the keys of its YAML file.

    Attributes:
        question: what the study asks, for the report.
        fit: path of the config that all runs start from.
        data: `name` of the data set and the `split` to score on; `root` if not data/NAME, and a
            command that `prepare`s it.
        arms: for each arm the values, by dotted key, that set it apart.
        primary: the two arms of the one comparison that the study was planned for, the treatment
            first; none for a study that only looks.
        primary_seeds: number of seeds of these two.
        others: further pairs to compare.
        seeds: number of seeds of all other arms.
        first_seed: from which seeds count up; to look again at what other seeds have shown.
        decoders: `model.arch` of the runs.
        set: values, by dotted key, of all runs.
        scales: factors on the sides of the scored images; probabilities of several are averaged.
        keep_checkpoints: arms whose checkpoints stay after the evaluation.
    """

    question: str
    fit: str
    data: dict[str, str]
    arms: dict[str, dict[str, Any]]
    primary: list[str] = field(default_factory=list)
    primary_seeds: int = 0
    others: list[list[str]] = field(default_factory=list)
    seeds: int = 5
    first_seed: int = 0
    decoders: list[str] = field(default_factory=lambda: ["fpn"])
    set: dict[str, Any] = field(default_factory=dict)
    scales: list[float] = field(default_factory=lambda: [1.0])
    keep_checkpoints: list[str] = field(default_factory=list)

    @property
    def pair(self) -> list[str]:
        """The pair to show in detail: the primary one, or the first of the others if any."""
        return self.primary or next(iter(self.others), [])

    @cached_property
    def fit_text(self) -> str:
        """Content of the fit config when it was first asked for."""
        return _read_text(Path(self.fit))

    @cached_property
    def _fit_config(self) -> dict[str, Any]:
        return _parse_yaml(self.fit_text, Path(self.fit))

    def first_seeds(self, number: int) -> range:
        """Return the seeds that so many runs of an arm have."""
        return range(self.first_seed, self.first_seed + number)

    def runs(self) -> list[Run]:
        """Return all runs: the primary comparison first, seed by seed, so that pairs complete."""
        rest = [arm for arm in self.arms if arm not in self.primary]
        order = list(product(self.first_seeds(self.primary_seeds), self.primary))
        order += product(self.first_seeds(self.seeds), rest)
        return [self.run(arm, decoder, seed) for seed, arm in order for decoder in self.decoders]

    def run(self, arm: str, decoder: str, seed: int) -> Run:
        """Return one run with its identity."""
        arguments = {**self.set, "model.arch": decoder, **self.arms[arm]}
        identity: dict[str, Any] = {
            "fit": self._fit_config,
            "arguments": arguments,
            "seed": seed,
            # Where the data lie is the machine's affair, what they are is the study's.
            "data": {key: value for key, value in self.data.items() if key != "root"},
        }
        if self.scales != [1.0]:  # rows of studies that name no scales keep their digest
            identity["scales"] = self.scales
        text = json.dumps(identity, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return Run(arm, decoder, seed, arguments, digest)


def read_study(path: Path, changes: Mapping[str, Any] | None = None) -> Study:
    """Read a study's config.

    Args:
        path: the YAML file.
        changes: values by dotted key that are laid over the config's `set`.

    Raises:
        UserError: no such file, a key that is missing, unknown or of the wrong kind.
    """
    content = _parse_yaml(_read_text(path), path)
    known = {f.name for f in fields(Study)}
    missing = {"question", "fit", "data", "arms"} - content.keys()
    if missing or content.keys() - known:
        unknown = ", ".join(sorted(content.keys() - known))
        raise UserError(
            f"{path}: "
            + (f"lacks {', '.join(sorted(missing))}" if missing else f"unknown key(s) {unknown}")
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Study)
    try:
        study = Study(**parser.parse_object(content).as_dict())
    except ArgumentError as error:  # its lines are for a terminal's width
        raise UserError(f"{path}: {' '.join(str(error).split())}") from error
    study = replace(study, set={**study.set, **(changes or {})})
    if mistake := next(_mistakes(study), None):
        raise UserError(f"{path}: {mistake}")
    return study


def _mistakes(study: Study) -> Iterator[str]:
    """Yield what is wrong with values that are of the right kind."""
    for key, value in (("arms", study.arms), ("decoders", study.decoders)):
        if not value:
            yield f"{key} is empty"
    for key, names in (("arms", study.arms), ("decoders", study.decoders)):
        for name in names:  # which become the names of folders
            if not (isinstance(name, str) and _NAME.fullmatch(name)):
                yield (
                    f"{key}: {name!r} is no name; a letter or digit, then letters, digits and "
                    ". _ + - make one (in quotes where YAML takes it for a number, yes or no)"
                )
    if len(set(study.decoders)) < len(study.decoders):
        yield "decoders: one stands there twice"
    if study.seeds < 1:
        yield f"seeds must be 1 or more, not {study.seeds}"
    if study.first_seed < 0:
        yield f"first_seed must be 0 or more, not {study.first_seed}"
    for pair in (*[study.primary] * bool(study.primary), *study.others):
        if len(pair) != 2 or len(set(pair) & study.arms.keys()) != 2:
            yield f"a comparison is of two of the arms, not {pair}"
    if study.primary and study.primary_seeds < 2:
        yield "primary_seeds must be 2 or more: one seed has no spread"
    if study.primary_seeds and not study.primary:
        yield "primary_seeds without a primary comparison"
    if strangers := set(study.keep_checkpoints) - study.arms.keys():
        yield f"keep_checkpoints: no arm {', '.join(sorted(strangers))}"
    if {"name", "split"} - study.data.keys():
        yield "data needs a name and a split"
    if strangers := study.data.keys() - set(_DATA_KEYS):
        yield f"data has {', '.join(_DATA_KEYS)}, not {', '.join(sorted(strangers))}"
    for where, values in {"set": study.set, **study.arms}.items():
        for key in values:
            for own, other in _DECIDED.items():
                if key == own or own.startswith(f"{key}."):
                    yield f"{where}: {own} is decided by {other}"
    try:
        InferenceSettings(scales=tuple(study.scales))
    except UserError as error:
        yield str(error).removeprefix("--")


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error


def _parse_yaml(text: str, path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: is not a config")
    return content


def read_rows(path: Path) -> list[Row]:
    """Read `runs.csv`; no file has no rows.

    Raises:
        UserError: a line is not a row, or is of a run that another has already.
    """
    if not path.is_file():
        return []
    rows: list[Row] = []
    seen = set()
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if missing := set(_COLUMNS) - set(reader.fieldnames or ()):
            raise UserError(f"{path}: its first line lacks {', '.join(sorted(missing))}")
        for row in reader:
            # Cells too many are under None, cells too few are None: a merge's marker, say.
            if None in row or None in row.values() or not row["seed"].isdecimal():
                raise UserError(f"{path}: line {reader.line_num} is not a row")
            if _identity(row) in seen:
                raise UserError(f"{path}: line {reader.line_num} has a run again")
            seen.add(_identity(row))
            rows.append(row)
    return rows


def check_rows(study: Study, rows: list[Row], path: Path) -> None:
    """Refuse rows of another version of the config or of other data, lest two experiments mix.

    More seeds, arms or decoders leave what is done as it is.

    Raises:
        UserError: a row's arm is not the study's, or was run with other settings; or rows were
            scored on different numbers of images.
    """
    stale = []
    for row in rows:
        known = row["arm"] in study.arms
        if (
            not known
            or study.run(row["arm"], row["decoder"], int(row["seed"])).digest != row["digest"]
        ):
            stale.append(f"{row['arm']}-{row['decoder']}-{row['seed']}")
    if stale:
        raise UserError(
            f"{path}: {len(stale)} of {len(rows)} runs are of another version of the config "
            f"({', '.join(stale[:3])}{', ...' * (len(stale) > 3)}); restore it, or move the file "
            "away and start anew"
        )
    if len(images := sorted({int(row["images"]) for row in rows if row.get("images")})) > 1:
        raise UserError(
            f"{path}: runs were scored on {' and on '.join(map(str, images))} images, so on "
            "different data"
        )


def planned(study: Study, rows: Iterable[Row]) -> list[Row]:
    """Return the rows of runs that the study asks for; there may be others, of more seeds say."""
    runs = {run.identity for run in study.runs()}
    return [row for row in rows if _identity(row) in runs]


def pending(study: Study, rows: Iterable[Row]) -> Iterator[Run]:
    """Yield the runs that have no row yet."""
    done = {_identity(row) for row in rows}
    return (run for run in study.runs() if run.identity not in done)


def _identity(row: Row) -> tuple[str, ...]:
    return tuple(row[key] for key in _IDENTITY)


def add_row(path: Path, row: Row) -> None:
    """Add a finished run to `runs.csv`, whole or not at all, sorted by its identity."""
    rows = [*read_rows(path), row]
    rows.sort(key=lambda r: (r["arm"], r["decoder"], int(r["seed"])))
    columns = list(dict.fromkeys(key for r in rows for key in r))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(part, path)
