"""A study's config, its runs, and the table of finished runs (`runs.csv`)."""

import csv
import hashlib
import json
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

from skseg.errors import UserError, near_names
from skseg.files import whole_file
from skseg.inference import InferenceSettings

_IDENTITY = ("arm", "decoder", "seed", "digest")
_REQUIRED_COLUMNS = (*_IDENTITY, "miou", "seconds")
_DATA_KEYS = ("name", "split", "root", "prepare")
# Values of a run that may not stand in `set` or an arm, and what determines them instead.
_DETERMINED = {
    "model.arch": "decoders",
    "data.name": "data",
    "data.root": "data",
    "seed_everything": "first_seed",
    "run_dir": "the runner",
    "ckpt_path": "the runner",
}
_NAME = re.compile(r"\w[\w.+-]*")
Row = dict[str, str]
"""A finished run: its cells in `runs.csv` by column."""


@dataclass(frozen=True)
class Run:
    """One training run and its evaluation.

    Attributes:
        arm: Name of the study's arm.
        decoder: Value of `model.arch`.
        seed: Value of `seed_everything`.
        arguments: Values that override the fit config, by dotted key.
        digest: Hash of all settings that determine the result.
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
        """The run's values in the columns that identify a row of `runs.csv`."""
        return (self.arm, self.decoder, str(self.seed), self.digest)


@dataclass(frozen=True)
class Study:
    """What a study compares; its fields are the keys of the YAML file.

    Attributes:
        question: Title of the report.
        fit: Path of the fit config that all runs start from.
        data: The data set's `name` and the `split` to score on; optionally its `root` (default
            data/NAME) and a command that can `prepare` it.
        arms: For each arm the values, by dotted key, that distinguish it.
        primary: The two arms of the one planned comparison, the treatment first; empty for an
            exploratory study.
        primary_seeds: Number of seeds of the two primary arms.
        others: Further pairs of arms to compare.
        seeds: Number of seeds of all other arms.
        first_seed: The first seed; the following ones count up from it.
        decoders: Values of `model.arch`; every arm is run with each of them.
        set: Values, by dotted key, for all runs.
        scales: Factors on the sides of the scored images; the probabilities of several scales are
            averaged.
        keep_checkpoints: Arms whose checkpoints are kept after the evaluation.
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
        """The pair to report in detail: the primary one, else the first of `others`, else none."""
        return self.primary or next(iter(self.others), [])

    @cached_property
    def fit_text(self) -> str:
        """Text of the fit config, read once, so that later edits do not affect this study."""
        return _read_text(Path(self.fit))

    @cached_property
    def _fit_config(self) -> dict[str, Any]:
        return _parse_yaml(self.fit_text, Path(self.fit))

    def first_seeds(self, number: int) -> range:
        """Return the first `number` seeds."""
        return range(self.first_seed, self.first_seed + number)

    def runs(self) -> list[Run]:
        """Return all runs: first the primary arms, seed by seed, so that pairs finish early."""
        rest = [arm for arm in self.arms if arm not in self.primary]
        order = list(product(self.first_seeds(self.primary_seeds), self.primary))
        order += product(self.first_seeds(self.seeds), rest)
        return [self.run(arm, decoder, seed) for seed, arm in order for decoder in self.decoders]

    def run(self, arm: str, decoder: str, seed: int) -> Run:
        """Return one run with its digest."""
        arguments = {**self.set, "model.arch": decoder, **self.arms[arm]}
        identity: dict[str, Any] = {
            "fit": self._fit_config,
            "arguments": arguments,
            "seed": seed,
            # The data's location differs between machines and does not affect the result.
            "data": {key: value for key, value in self.data.items() if key != "root"},
        }
        if self.scales != [1.0]:  # keeps the digests of studies without scales
            identity["scales"] = self.scales
        text = json.dumps(identity, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return Run(arm, decoder, seed, arguments, digest)


def read_study(path: Path, changes: Mapping[str, Any] | None = None) -> Study:
    """Read a study's config.

    Args:
        path: The YAML file.
        changes: Values by dotted key that override the config's `set`.

    Raises:
        UserError: The file cannot be read, or a key is missing, unknown or has an invalid value.

    Example:
        >>> study = read_study(Path("configs/studies/streets.yaml"))
        >>> study.primary
        ['sk', 'wide']
        >>> [run.name for run in study.runs()[:3]]
        ['sk-fpn-0', 'wide-fpn-0', 'sk-fpn-1']
    """
    content = _parse_yaml(_read_text(path), path)
    known = [f.name for f in fields(Study)]
    if missing := {"question", "fit", "data", "arms"} - content.keys():
        raise UserError(f"{path}: misses the key(s) {', '.join(sorted(missing))}")
    for key in content:
        if key not in known:
            raise UserError(f"{path}: unknown key {key!r}{near_names(str(key), known)}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Study)
    try:
        study = Study(**parser.parse_object(content).as_dict())
    except ArgumentError as error:  # whose message is wrapped to the terminal's width
        raise UserError(f"{path}: {' '.join(str(error).split())}") from error
    study = replace(study, set={**study.set, **(changes or {})})
    if mistake := next(_mistakes(study), None):
        raise UserError(f"{path}: {mistake}")
    return study


def _mistakes(study: Study) -> Iterator[str]:
    """Yield what is wrong with values that have the right types."""
    for key, names in (("arms", study.arms), ("decoders", study.decoders)):
        if not names:
            yield f"{key} must not be empty"
        for name in names:  # they become parts of folder names
            if not (isinstance(name, str) and _NAME.fullmatch(name)):
                yield (
                    f"{key}: {name!r} is not a valid name; use letters, digits and . _ + -, "
                    "starting with a letter or digit (quote it if YAML reads it as a number, "
                    "yes or no)"
                )
    if duplicates := sorted({d for d in study.decoders if study.decoders.count(d) > 1}):
        yield f"decoders: {', '.join(duplicates)} is listed twice"
    if study.seeds < 1:
        yield f"seeds must be at least 1, not {study.seeds}"
    if study.first_seed < 0:
        yield f"first_seed must be at least 0, not {study.first_seed}"
    arms = ", ".join(study.arms)
    for pair in (*[study.primary] * bool(study.primary), *study.others):
        if len(pair) != 2 or len(set(pair) & study.arms.keys()) != 2:
            yield f"a comparison must name two different arms of {arms}, not {pair}"
    if study.primary and study.primary_seeds < 2:
        yield f"primary_seeds must be at least 2, not {study.primary_seeds}: one has no spread"
    if study.primary_seeds and not study.primary:
        yield "primary_seeds is set, but primary is not"
    if unknown := set(study.keep_checkpoints) - study.arms.keys():
        yield f"keep_checkpoints: no arm {', '.join(sorted(unknown))}; there are {arms}"
    if missing := {"name", "split"} - study.data.keys():
        yield f"data misses {', '.join(sorted(missing))}"
    for key in study.data:
        if key not in _DATA_KEYS:
            yield f"data: unknown key {key!r}{near_names(key, _DATA_KEYS)}"
    for where, values in {"set": study.set, **study.arms}.items():
        for key in values:
            for own, other in _DETERMINED.items():
                if key == own or own.startswith(f"{key}."):
                    yield f"{where}: {own} is determined by {other}"
    try:
        InferenceSettings(scales=tuple(study.scales))
    except UserError as error:
        yield str(error)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error


def _parse_yaml(text: str, path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold keys and values")
    return content


def read_rows(path: Path) -> list[Row]:
    """Read `runs.csv`; return no rows if there is no file.

    Raises:
        UserError: A column is missing, a line is not a row, or a run has two rows.
    """
    if not path.is_file():
        return []
    rows: list[Row] = []
    seen = set()
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if missing := set(_REQUIRED_COLUMNS) - set(reader.fieldnames or ()):
            raise UserError(
                f"{path}: column(s) {', '.join(sorted(missing))} missing from the header"
            )
        for row in reader:
            # DictReader puts surplus cells under None and fills missing ones with None. Such
            # lines come, for instance, from an unresolved merge.
            if None in row or None in row.values() or not row["seed"].isdecimal():
                raise UserError(f"{path}: line {reader.line_num} is not a row")
            if _identity(row) in seen:
                raise UserError(f"{path}: line {reader.line_num} repeats a run")
            seen.add(_identity(row))
            rows.append(row)
    return rows


def check_rows(study: Study, rows: list[Row], path: Path) -> None:
    """Check that all rows belong to the study as it is now.

    Rows stay valid when seeds, arms, decoders or comparisons are added.

    Raises:
        UserError: A row's arm is not in the study or was run with other settings, or rows were
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
            f"{path}: {len(stale)} of {len(rows)} runs have other settings than the config "
            f"({', '.join(stale[:3])}{', ...' * (len(stale) > 3)}); restore the config, or move "
            "the file away to start again"
        )
    if len(images := sorted({int(row["images"]) for row in rows if row.get("images")})) > 1:
        raise UserError(
            f"{path}: the runs were scored on different data: {' and '.join(map(str, images))} "
            "images"
        )


def planned_rows(study: Study, rows: Iterable[Row]) -> list[Row]:
    """Return the rows of the study's runs, without those of seeds beyond the plan, for instance."""
    runs = {run.identity for run in study.runs()}
    return [row for row in rows if _identity(row) in runs]


def pending_runs(study: Study, rows: Iterable[Row]) -> Iterator[Run]:
    """Return the runs without a row."""
    done = {_identity(row) for row in rows}
    return (run for run in study.runs() if run.identity not in done)


def _identity(row: Row) -> tuple[str, ...]:
    return tuple(row[key] for key in _IDENTITY)


def add_row(path: Path, row: Row) -> None:
    """Add a finished run to `runs.csv`, sorted by arm, decoder and seed.

    The file is replaced as a whole: an interruption leaves the old one.
    """
    rows = [*read_rows(path), row]
    rows.sort(key=lambda r: (r["arm"], r["decoder"], int(r["seed"])))
    columns = list(dict.fromkeys(key for r in rows for key in r))
    with whole_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
