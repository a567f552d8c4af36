"""From a typed function to a command: its flags, its help page and its error messages.

A function's parameters become flags: `def evaluate(ckpt_path: Path, *, split: str = "val")` has
`--ckpt_path` and `--split`. Types are written as a shell's user expects:

- `bool`: a switch without a value,
- `Sequence[T]`: one or more values after the flag; `Annotated[Sequence[T], Repeated("-s")]`: the
  flag is repeated for each value,
- `Literal`: one of the listed choices,
- a dataclass: a flag for each field, after the dataclass's `flag_prefix` if it has one.

A parameter that may be given by position in Python may be given by position on the command line.
The docstring describes the flags (`Args:`) and has the examples of the help page (`Examples:`).
"""

import inspect
import io
import re
import signal
import sys
import types
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Collection, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    NoReturn,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import docstring_parser
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace

from skseg.errors import UserError, mistake_message, near_names

# How argparse and jsonargparse begin their messages.
_UNKNOWN = "unrecognized arguments: "
_REQUIRED = "the following arguments are required: "
_INVALID = re.compile(r'^Parser key "([\w.]+)"( element \d+)?:\s*')
_NESTED = re.compile(r'Parser key "([\w.]+)":')
_EXPECTED = re.compile(r"Expected an? (?:<class '(\w+)'>|typing\.Literal\[(.*)\])")
_RESTRICTED = re.compile(r"Not of type (\w+)")
_RESTRICTIONS = {
    "PositiveInt": "a whole number above 0",
    "NonNegativeInt": "a whole number of at least 0",
    "OpenUnitInterval": "a number between 0 and 1",
}
_LINKS = (
    re.compile(r"^argument (?:\w+\()?(?P<source>[\w.]+)\)? --> (?P<target>[\w.]+):"),
    re.compile(r'^Linked "(?P<target>[\w.]+)" must be given via "(?P<source>[\w.]+)"'),
)
_VALUE = re.compile(r"(?:Got|Given) value: (.*)")
_NO_KEY = re.compile(r"(?:Group '([\w.]+)' does not accept option|Option) '([\w.]+)'")
_POSITIONAL = "given_by_position"
_METAVAR = "RUN"  # what commands accept by position


class Repeated(NamedTuple):
    """Marks a sequence whose flag is repeated for each value, and names the flag's short form."""

    short: str


class HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Help that shows types and defaults as a shell's user writes them, and no empty defaults."""

    def _get_help_string(self, action: Any) -> str:
        text = super()._get_help_string(action)
        if action.type is Path:
            text = text.replace("%(type)s", "path")
        if action.default is None or action.default == [] or action.nargs == 0:
            for default in (", default: %(default)s", " (default: %(default)s)"):
                text = text.replace(default, "")
        if action.nargs == "+" and action.default:
            text = text.replace("%(default)s", " ".join(map(str, action.default)))
        return text


class CommandParser(ArgumentParser):
    """A jsonargparse parser whose errors take one line and suggest near flags."""

    @property
    def flags(self) -> list[str]:
        """The long flags, without those that jsonargparse adds for help, lists and completion."""
        names = [name for name in self._option_string_actions if name.startswith("--")]
        return [n for n in names if not n.endswith(("+", ".help")) and n != "--print_shtab"]

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one error and exit with code 2."""
        if not self.exit_on_error:  # of a nested parser, whose parent reports the error
            super().error(message, ex)
        if message.startswith(_UNKNOWN):
            word = message.removeprefix(_UNKNOWN).split()[0].split("=")[0]
            if word.startswith("-"):
                hint = near_names(word, self.flags) or f"; see {self.prog} --help"
                message = f"unknown flag {word}{hint}"
            else:
                message = f"unexpected argument {word!r}; see {self.prog} --help"
        elif message.startswith(_REQUIRED):
            names = message.removeprefix(_REQUIRED).split(", ")
            message = f"missing flags: {', '.join(f'--{name}' for name in names)}"
        elif found := next(filter(None, (link.match(message) for link in _LINKS)), None):
            message = f"--{found['target']} is set by --{found['source']}; give that one"
        elif found := _NO_KEY.match(message):
            key = ".".join(filter(None, found.groups()))
            known = [flag.removeprefix("--") for flag in self.flags]
            message = f"unknown key {key}{near_names(key, known)}"
        elif found := _INVALID.match(message):
            message = _describe_invalid(found[1], message[found.end() :])
        self.exit(2, f"error: {message}\n")


def _describe_invalid(key: str, reason: str) -> str:
    """Write jsonargparse's list of the types that a value is not of as one line.

    Args:
        key: The flag's name.
        reason: Lines for each type that was tried; a value inside another repeats the list.
    """
    *outer, innermost = _NESTED.split(reason)  # text, key, text, key, text
    key = ".".join([key, *(part for part in outer[1::2] if part != key)])
    kinds = [a or f"one of {b}" for a, b in _EXPECTED.findall(innermost) if a != "NoneType"]
    kinds += [_RESTRICTIONS.get(name, name) for name in _RESTRICTED.findall(innermost)]
    value = _VALUE.search(innermost)
    if kinds and value:
        return f"--{key}: must be {' or '.join(dict.fromkeys(kinds))}, got {value[1]}"
    return f"--{key}: {' '.join(reason.split())}"


def run_command(command: Callable[..., int], args: Sequence[str] | None) -> int:
    """Run a command on command line arguments.

    Args:
        command: A typed function that returns an exit code.
        args: The arguments; those of this process when None.

    Returns:
        The command's exit code, or 2 after one line on stderr for a mistake of the user's.

    Raises:
        SystemExit: The arguments cannot be parsed (code 2), or ask for the help page (code 0).
    """
    parser = build_parser(command)
    parsed = parser.parse_args(args)
    return exit_code(parser, lambda: command(**_arguments(command, parsed)))


def exit_code(parser: CommandParser, run: Callable[[], int]) -> int:
    """Return what `run` returns, 2 after printing a mistake of the user's, or 130 after Ctrl-C.

    Args:
        parser: The command's parser. Its flags replace the parameters that a message names.
        run: The work of the command.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # any name can be printed, in any encoding
            stream.reconfigure(errors="backslashreplace")
    try:
        return run()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        message = mistake_message(error)
        if message is None:
            raise
    print(f"error: {name_flags(message, parser.flags)}", file=sys.stderr)
    return 2


def name_flags(message: str, flags: Collection[str]) -> str:
    """Write the flag in place of each parameter in backticks, where exactly one flag sets it.

    Args:
        message: A library's error message. It may name a part of a value: `sk.stages`.
        flags: The command's flags.

    Example:
        >>> name_flags("`batch_size` is 0; see `scale`", ["--data.batch_size", "--split"])
        '--data.batch_size is 0; see `scale`'
    """

    def flag(match: re.Match[str]) -> str:
        key, rest = match[1], ""
        while key:
            whole = [f for f in flags if f == f"--{key}"]
            found = whole or [f for f in flags if f.endswith(f".{key}")]
            if len(found) == 1:
                return f"{found[0]}{rest}"
            key, _, part = key.rpartition(".")
            rest = f".{part}{rest}"
        return match[0]

    return re.sub(r"`([a-z_][\w.]*)`", flag, message)


def build_parser(command: Callable[..., int]) -> CommandParser:
    """Build the parser of a command from its signature and docstring.

    Args:
        command: A typed function with a Google docstring, whose name is the command's.
    """
    parser = CommandParser(
        prog=f"skseg {command.__name__}",
        description=describe(command),
        formatter_class=HelpFormatter,
        allow_abbrev=False,
        usage="%(prog)s [--FLAG VALUE ...]",
    )
    if positional := _positional(command):
        hint = _hints(command)[positional.name]
        is_required = positional.default is inspect.Parameter.empty
        metavar = _METAVAR if is_required else f"[{_METAVAR}]"
        parser.usage = f"%(prog)s {metavar} [--FLAG VALUE ...]"
        parser.add_argument(
            _POSITIONAL,
            type=_element(hint),
            nargs="*" if get_origin(hint) is Sequence else "?",
            metavar=_METAVAR,
            help=f"the same as --{positional.name}",
        )
    _add_flags(parser, command)
    return parser


def describe(command: Callable[..., Any]) -> str:
    """Return the text above the flags on a help page: summary, examples, and the rest.

    Args:
        command: A function with a Google docstring.
    """
    doc = docstring_parser.parse(inspect.getdoc(command) or "")
    examples = "\n".join(f"  {line}" for line in examples_of(command))
    parts = (doc.short_description, f"examples:\n{examples}", doc.long_description)
    return "\n\n".join(part for part in parts if part)


def examples_of(command: Callable[..., Any]) -> list[str]:
    """Return the command lines of the section `Examples:` in a function's docstring.

    Args:
        command: A function with a Google docstring.
    """
    doc = docstring_parser.parse(inspect.getdoc(command) or "")
    text = "\n".join(example.description or "" for example in doc.examples)
    return [line.strip() for line in text.splitlines() if line.strip()]


def _add_flags(parser: CommandParser, source: Callable[..., Any], prefix: str = "") -> None:
    """Add a flag for each parameter of a function or field of a dataclass."""
    doc = docstring_parser.parse(inspect.getdoc(source) or "")
    described = {param.arg_name: param.description for param in doc.params}
    hints = _hints(source)
    for name, parameter in inspect.signature(source).parameters.items():
        hint = hints[name]
        if is_dataclass(hint):
            assert isinstance(hint, type)
            _add_flags(parser, hint, getattr(hint, "flag_prefix", ""))
            continue
        names = [f"--{prefix}{name.rstrip('_')}"]
        settings: dict[str, Any] = {"help": described[name]}
        if parameter.default is not inspect.Parameter.empty:
            settings["default"] = parameter.default
        elif _positional(source) != parameter:
            settings["required"] = True
        if get_origin(hint) is Annotated:
            hint, repeated = get_args(hint)
            names.append(repeated.short)
            settings["action"] = "append"
        elif get_origin(hint) is Sequence:
            settings["nargs"] = "+"
        if isinstance(parameter.default, tuple):
            settings["default"] = list(parameter.default)  # jsonargparse converts it in place
        element = _element(hint)
        if get_origin(element) is Literal:
            settings["choices"] = get_args(element)
        elif element is bool:
            settings["action"] = "store_true"
        else:
            settings["type"] = element
        parser.add_argument(*names, **settings)


def _arguments(command: Callable[..., Any], parsed: Namespace) -> dict[str, Any]:
    """Return a command's arguments from what was parsed.

    Raises:
        UserError: A required argument is missing, or one is given twice.
    """
    values = _values(command, parsed)
    if positional := _positional(command):
        name = positional.name
        by_position, by_flag = parsed[_POSITIONAL], values[name]
        if by_position and by_flag:
            raise UserError(f"give {_METAVAR} by position or by `{name}`, not by both")
        values[name] = by_position or by_flag
        if not values[name] and positional.default is inspect.Parameter.empty:
            raise UserError(f"{_METAVAR} is missing: give a run's folder or a checkpoint")
    return values


def _values(source: Callable[..., Any], parsed: Namespace, prefix: str = "") -> dict[str, Any]:
    values = {}
    for name, hint in _hints(source).items():
        if is_dataclass(hint):
            assert isinstance(hint, type)
            values[name] = hint(**_values(hint, parsed, getattr(hint, "flag_prefix", "")))
        else:
            values[name] = parsed[f"{prefix}{name.rstrip('_')}"]
    return values


def _positional(source: Callable[..., Any]) -> inspect.Parameter | None:
    """Return a function's parameter that may be given by position."""
    if is_dataclass(source):
        return None
    parameters = inspect.signature(source).parameters.values()
    return next((p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD), None)


def _hints(source: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of a function's parameters or a dataclass's fields; T for `T | None`."""
    hints = get_type_hints(source, include_extras=True)
    return {name: _without_none(hints[name]) for name in inspect.signature(source).parameters}


def _element(hint: Any) -> Any:
    """Return T for `Sequence[T]`, and any other type as it is."""
    return get_args(hint)[0] if get_origin(hint) is Sequence else hint


def _without_none(hint: Any) -> Any:
    if get_origin(hint) not in (Union, types.UnionType):
        return hint
    (rest,) = (arg for arg in get_args(hint) if arg is not types.NoneType)
    return rest
