"""Imports go one way: the order of the layers in docs/architecture.md."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "skseg"
# What each part may import from this package, besides itself.
ALLOWED = {
    "errors": set(),
    "types": set(),
    "files": {"errors"},
    "pixels": {"types"},
    "progress": set(),
    "viz": {"files", "types"},
    "nn": {"errors"},
    "metrics": {"types"},
    "data": {"progress", "errors", "files", "pixels", "types", "viz"},
    "streets": {"data", "errors", "files", "progress", "types"},
    "encoders": {"errors", "nn"},
    "convert": {"encoders", "errors", "nn"},
    "models": {"convert", "encoders", "errors"},
    "inference": {
        *("data", "errors", "files", "models", "pixels", "progress", "types", "viz"),
    },
    "training": {
        *("errors", "files", "pixels", "types", "viz", "nn", "metrics"),
        *("convert", "encoders", "inference", "models"),
    },
    "evaluation": {
        *("data", "errors", "files", "inference", "metrics", "progress", "training"),
        *("types", "viz"),
    },
    "study": {"data", "errors", "files", "inference", "metrics"},
    "attention": {
        *("data", "errors", "evaluation", "files", "inference", "metrics", "nn", "pixels"),
        *("progress", "streets", "training", "types", "viz"),
    },
    "commands": {
        *("attention", "convert", "data", "errors", "evaluation", "files", "inference"),
        *("metrics", "streets", "study", "training", "types", "viz"),
    },
    "__main__": {"commands", "errors"},
    "__init__": {"convert", "data", "encoders", "errors", "models", "nn", "training"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def imported(path: Path) -> Iterator[str]:
    """Yield the modules of this package that a file imports, `TYPE_CHECKING` ones included."""
    modules = {module_name(file).removesuffix(".__init__"): module_name(file) for file in FILES}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the package"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if found := modules.get(name) or modules.get(str(node.module)):
                    yield found
        elif isinstance(node, ast.Import):
            yield from (modules[a.name] for a in node.names if a.name in modules)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imported(path):
        imported_part = name.split(".")[1]
        assert imported_part in ALLOWED[part] | {part}, f"{part} imports {name}"


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {module_name(path): set(imported(path)) for path in FILES}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_the_layers_have_no_circle() -> None:
    TopologicalSorter(ALLOWED).prepare()


def test_the_root_holds_no_loose_modules() -> None:
    """Beyond those that everything shares."""
    loose = {path.stem for path in PACKAGE.glob("*.py")}
    assert loose == {
        "__init__",
        "__main__",
        "errors",
        "files",
        "models",
        "pixels",
        "progress",
        "types",
        "viz",
    }


def text_calls(path: Path) -> Iterator[ast.Call]:
    """Yield the calls that read or write a text file, by the names of their functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        is_binary = any(isinstance(a, ast.Constant) and "b" in str(a.value) for a in node.args)
        opens = (name == "open" or name.endswith(".open")) and not is_binary
        if name.endswith((".read_text", ".write_text")) or (
            opens and name not in ("PillowImage.open", "os.open")
        ):
            yield node


@pytest.mark.parametrize("part", ["skseg", "scripts"])
def test_text_files_are_utf_8_on_every_system(part: str) -> None:
    calls = [(p, c) for p in (PACKAGE.parent / part).rglob("*.py") for c in text_calls(p)]
    assert calls
    for path, call in calls:
        assert any(k.arg == "encoding" for k in call.keywords), f"{path}:{call.lineno}"
