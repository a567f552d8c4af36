"""Flags, help pages and errors of commands."""

import ast
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
from running import REPOSITORY

from skseg.commands.parser import Repeated, build_parser, examples_of, name_flags, run_command
from skseg.errors import UserError
from skseg_cli import COMMANDS

FUNCTIONS = [name for name in COMMANDS if name != "fit"]  # whose parser is LightningCLI's


def command(name: str) -> Callable[..., int]:
    return getattr(importlib.import_module(f"skseg.commands.{name}"), name)


@dataclass(frozen=True)
class Place:
    """A place.

    Args:
        root: A folder.
    """

    flag_prefix: ClassVar[str] = "place."

    root: Path | None = None


seen: dict[str, object] = {}


def measure(
    runs: Sequence[Path],
    *,
    place: Place,
    size: int,
    mode: Literal["fast", "exact"] = "exact",
    factors: Sequence[float] = (1.0, 2.0),
    from_: Annotated[Sequence[str], Repeated("-f")] = (),
    quick: bool = False,
) -> int:
    """Measure runs.

    All of them.

    Examples:
        skseg measure a b --size 3
        skseg measure a --size 3 --quick

    Args:
        runs: Folders.
        place: Where.
        size: Side, pixels.
        mode: How, 50 % of all.
        factors: Several.
        from_: Repeated.
        quick: Switch.
    """
    seen.update(locals())
    if size < 0:
        raise UserError("`size` is negative, as is `sise`; see `root`")
    return size


def test_a_signature_is_a_command_line() -> None:
    words = "a --size 3 --place.root /r --mode fast --factors .5 1 1.5 --from x -f y=2 --quick"
    assert run_command(measure, words.split()) == 3
    assert seen == {
        "runs": [Path("a")],
        "place": Place(Path("/r")),
        "size": 3,
        "mode": "fast",
        "factors": [0.5, 1, 1.5],
        "from_": ["x", "y=2"],
        "quick": True,
    }
    assert run_command(measure, ["--size", "0", "a", "b"]) == 0
    assert seen["runs"] == [Path("a"), Path("b")]
    assert seen["place"] == Place(None)
    assert (seen["mode"], seen["quick"]) == ("exact", False)
    assert tuple(seen["factors"]) == (1, 2)
    assert not seen["from_"]
    assert run_command(measure, ["--size", "0", "--runs", "a", "b"]) == 0
    assert seen["runs"] == [Path("a"), Path("b")]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("a --size 3 --quik", ["--quik", "'--quick'"]),
        ("a --size 3 --zzz=4", ["--zzz;", "--place.root", "--quick"]),
        ("a --size 3 --place.rot x", ["--place.rot", "'--place.root'"]),
        ("a --siz 3", ["--size"]),
        ("a", ["--size"]),
        ("--size 3", ["RUN"]),
        ("a --runs b --size 3", ["RUN", "--runs"]),
        ("a --size big", ["--size", "big"]),
        ("a --size 3 --mode slow", ["--mode", "slow", "fast", "exact"]),
        ("a --size -1", ["error: --size is negative, as is `sise`; see --place.root"]),
    ],
)
def test_mistakes_take_one_line(
    words: str, parts: list[str], capsys: pytest.CaptureFixture
) -> None:
    try:
        code: object = run_command(measure, words.split())
    except SystemExit as error:
        code = error.code
    assert code == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert all(part in err for part in parts), err


def test_other_errors_keep_their_stack_trace() -> None:
    def broken(*, size: int = 1) -> int:
        """Fail.

        Args:
            size: Unused.
        """
        raise KeyError(size)

    with pytest.raises(KeyError):
        run_command(broken, [])


def test_flags_of_the_same_end_are_not_guessed() -> None:
    flags = ["--data.name", "--wandb.name", "--model.schedule.power", "--model.sk", "--output"]
    message = "`name`, `data.name`, `schedule.power`, `sk.stages`, `output`, output, `no.x`"
    assert name_flags(message, flags) == (
        "`name`, --data.name, --model.schedule.power, --model.sk.stages, --output, output, `no.x`"
    )


def help_page(function: Callable[..., int]) -> str:
    return build_parser(function).format_help()


def test_a_help_page_has_examples_choices_and_defaults() -> None:
    page = " ".join(help_page(measure).split())
    places = [page.index(part) for part in ("Measure runs.", "examples: skseg", "--size")]
    assert places == sorted(places)
    assert "{fast,exact}" in page
    assert "How, 50 % of all. (default: exact)" in page
    assert "(type: float, default: 1.0 2.0)" in page
    assert "--from FROM, -f FROM" in page
    assert "None" not in page
    assert "null" not in page


@pytest.mark.parametrize("name", FUNCTIONS)
def test_help_pages(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two examples that parse, and a description of every flag."""
    function = command(name)
    page = help_page(function)
    examples = examples_of(function)
    assert len(examples) == 2
    for example in examples:
        assert page.index(example) < page.index("--help")
        prog, own, *words = example.replace('"', "").split()
        assert (prog, own) == ("skseg", name)
        assert build_parser(function).parse_args(words)
    for action in build_parser(function)._actions:
        assert action.help


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "evaluate",
            "--ckpt_path a.ckpt --data.name streets --data.root r --split test --num_workers 0 "
            "--output o --compare b.ckpt --seed 3 --submission s --window 512 1024 --overlap .3 "
            "--blend uniform --scales 0.75 1 1.25 --flip --precision bf16 --overwrite",
        ),
        (
            "predict",
            "--ckpt_path a.ckpt --input i --output o --probabilities --overwrite --resume "
            "--max_pixels 9 --window 1024 "
            "--overlap .3 --blend gaussian --scales 1 --flip --precision 32",
        ),
        (
            "check_data",
            "--data.name folder --data.root r --splits train val --sheet s.png --samples 3",
        ),
        (
            "draw_streets",
            "--root r --train 1 --val 2 --height 64 --width 128 --seed 3 --workers 0",
        ),
        (
            "study",
            "--config c.yaml --data.root r --output o --runs u --jobs 2 --arms sk se --seeds 3 "
            "--limit 4 --set data.flip=0.1 -s model.arch=unet --report",
        ),
        (
            "attention",
            "--ckpt_path a.ckpt b.ckpt c.ckpt --data.name camvid --data.root r --split test "
            "--output o --overwrite --growth crop --window 64 --scale .5 --max_images 3 "
            "--pictures 2 --seed 1",
        ),
    ],
)
def test_the_documented_flags_are_accepted(name: str, words: str) -> None:
    """All of them, so that no script of a user's breaks."""
    parser = build_parser(command(name))
    flags = {word for word in words.split() if word.startswith("--")}
    own = {flag for flag in parser.flags if flag != "--help"}
    optional = {"check_data": {"--ckpt_path"}}.get(name, set())
    assert flags == own - optional
    assert parser.parse_args(words.split())


def test_commands_are_files_and_rows_of_the_table() -> None:
    files = (REPOSITORY / "skseg" / "commands").glob("*.py")
    with_main = {
        file.stem
        for file in files
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == "main"
    }
    assert with_main == set(COMMANDS)
    for name, what in COMMANDS.items():
        assert str(command(name).__doc__).lower().startswith(what.lower())
