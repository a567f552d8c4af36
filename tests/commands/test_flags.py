"""The flags that commands share, as a command line gives them."""

import pytest

from skseg.commands.flags import InferenceFlags
from skseg.commands.parser import run_command
from skseg.inference import InferenceSettings

found: list[InferenceSettings] = []


def infer(*, inference: InferenceFlags) -> int:
    """Read settings.

    Args:
        inference: The settings.
    """
    found.append(inference.settings())
    return 0


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ("--window 0", ["--window", "(0, 0)"]),
        ("--window 1 2 3", ["--window", "3 values"]),
        ("--overlap 1", ["--overlap", "1.0"]),
        ("--blend cosine", ["--blend", "gaussian", "uniform"]),
        ("--scales 1 -1", ["--scales", "-1"]),
        ("--scales nan", ["--scales", "nan"]),
        ("--precision 16", ["--precision", "32", "bf16"]),
    ],
)
def test_mistakes_in_flags(flags: str, parts: list[str], capsys: pytest.CaptureFixture) -> None:
    try:
        code: object = run_command(infer, flags.split())
    except SystemExit as error:
        code = error.code
    assert code == 2
    error = capsys.readouterr().err
    assert all(part in error for part in parts), error


@pytest.mark.parametrize(
    ("flags", "settings"),
    [
        ("", InferenceSettings()),
        ("--window 512 1024", InferenceSettings((512, 1024))),
        (
            "--window 8 --scales .5 1 --flip --precision bf16 --blend uniform --overlap .3",
            InferenceSettings((8, 8), 0.3, "uniform", (0.5, 1.0), True, "bf16"),
        ),
        ("--precision 32", InferenceSettings(precision="32")),
    ],
)
def test_flags_become_settings(flags: str, settings: InferenceSettings) -> None:
    assert run_command(infer, flags.split()) == 0
    assert found[-1] == settings
