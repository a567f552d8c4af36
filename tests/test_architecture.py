"""Imports go one way: the order of the layers in docs/architecture.md."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "skseg"
# What each part may import from this package, besides itself.
ALLOWED = {
    "errors": set(),
    "contract": set(),
    "nn": {"errors"},
    "encoders": {"errors", "nn"},
    "models": {"errors", "encoders"},
    "losses": {"contract", "errors"},
    "checkpoints": {"errors"},
    "loggers": set(),
    "training": {"errors", "contract", "metrics", "task"},
    "metrics": {"contract"},
    "optim": {"encoders", "errors"},
    "inference": {"errors", "models"},
    "data": {"errors", "contract"},
    "report": {"contract"},
    "task": {
        "encoders",
        "errors",
        "contract",
        "models",
        "losses",
        "metrics",
        "optim",
        "inference",
        "checkpoints",
    },
    "checking": {"errors", "data", "losses", "report"},
    "callbacks": {"contract", "metrics", "nn", "report", "task"},
    "evaluation": {"errors", "data", "inference", "metrics", "report", "task"},
    "prediction": {"errors", "data", "evaluation", "inference", "report", "task"},
    "submission": {"errors", "data", "evaluation", "inference", "prediction", "report", "task"},
    "page": {"evaluation", "report"},
    "results": {"evaluation", "metrics", "page", "report", "task"},
    "cli": {
        *("errors", "data", "losses", "metrics", "report", "task"),
        *("callbacks", "checkpoints", "loggers", "training"),
    },
    "study": {
        *("contract", "errors", "nn", "data", "inference", "metrics", "report"),
        *("evaluation", "task"),
    },
    "commands": {
        *("study", "errors", "nn", "data", "inference", "task", "checking"),
        *("evaluation", "prediction", "report", "results", "submission"),
    },
    "__main__": set(),  # by name, so that `skseg --help` need not import torch
    "__init__": {"errors", "nn", "encoders", "models", "data", "task"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the package"
            names = [f"{node.module}.{a.name}" for a in node.names] if node.module else []
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "skseg" and len(parts) > 1 and parts[1] != part:
                assert parts[1] in ALLOWED[part], f"{part} imports {name}"
