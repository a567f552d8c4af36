"""What can be checked before training without decoding all pixels: headers and palettes."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from skseg.data.dataset import DatasetSpec, Pair, read_pair
from skseg.data.files import ALPHA_IS_DROPPED, Color, read_header, read_indices
from skseg.errors import UserError
from skseg.progress import say_once, track

_THREADS = 8  # most of the time goes to opening files


def checked_pairs(spec: DatasetSpec, root: Path, split: str) -> list[Pair]:
    """Find the pairs of a split, and check all headers of their files.

    Args:
        spec: The data set.
        root: Its directory.
        split: One of its splits.

    Raises:
        UserError: As `DatasetSpec.pairs`, or files cannot be used; the message names the first.
    """
    pairs = spec.pairs(root, split)
    if problems := check_headers(spec, pairs):
        more = f" (and {len(problems) - 1} more problems; `skseg check_data` lists all)"
        raise UserError(problems[0] + more * (len(problems) > 1))
    return pairs


def check_headers(spec: DatasetSpec, pairs: Sequence[Pair]) -> list[str]:
    """Check what the files of pairs say before their pixels.

    Args:
        spec: The data set.
        pairs: Pairs of it.

    Returns:
        One line for each pair that cannot be used, and one if palettes of masks contradict each
        other. A message says once if images have an alpha channel.
    """
    problems: list[str] = []
    palettes: dict[tuple[Color, ...], Path] = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(partial(_check_pair, spec), pairs)
        for pair, result in zip(pairs, track(found, "checking files", len(pairs)), strict=True):
            if result.problem:
                problems.append(result.problem)
            if result.has_alpha:
                say_once(ALPHA_IS_DROPPED)
            if result.palette is not None:
                palettes.setdefault(result.palette, pair.mask)
    return problems if spec.uses_colors else problems + _compare_palettes(palettes)


def palette_problems(spec: DatasetSpec, pairs: Sequence[Pair]) -> list[str]:
    """Return a line if palettes of masks contradict each other, and no colors say what is right.

    Args:
        spec: The data set.
        pairs: Pairs of it whose files can be read.
    """
    if spec.uses_colors:
        return []
    palettes: dict[tuple[Color, ...], Path] = {}
    for pair in pairs:
        palette = _check_pair(spec, pair).palette
        if palette is not None:
            palettes.setdefault(palette, pair.mask)
    return _compare_palettes(palettes)


class _PairHeaders(NamedTuple):
    problem: str | None = None
    has_alpha: bool = False
    palette: tuple[Color, ...] | None = None


def _check_pair(spec: DatasetSpec, pair: Pair) -> _PairHeaders:
    try:
        image, mask = read_header(pair.image), read_header(pair.mask)
        if image.size != mask.size:
            read_pair(spec, pair)  # says so, and knows more ways to turn a picture than the header
    except UserError as error:
        return _PairHeaders(str(error))
    return _PairHeaders(None, image.has_alpha, mask.palette)


def _compare_palettes(palettes: dict[tuple[Color, ...], Path]) -> list[str]:
    """Return a line if an index that masks use has one color in one and another in the next.

    Programs that write palettes leave out or change the entries that a mask does not use.

    Args:
        palettes: The first mask that has it, by palette.
    """
    if len(palettes) < 2:
        return []
    colors: dict[int, tuple[Color, Path]] = {}
    for palette, path in palettes.items():
        try:
            used = np.unique(read_indices(path)).tolist()
        except UserError:
            continue  # reading reports it
        for index in used:
            if index >= len(palette):
                continue
            color, first = colors.setdefault(index, (palette[index], path))
            if color != palette[index]:
                return [
                    f"{first} and {path} have different palettes: index {index} is {list(color)} "
                    f"in one and {list(palette[index])} in the other; list the classes' `colors:` "
                    "in classes.yaml, and masks are read by their colors"
                ]
    return []
