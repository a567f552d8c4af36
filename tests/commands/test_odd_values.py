"""Odd values for every flag of `fit`: it works, or one line says why and nothing is written."""

import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
import pytorch_lightning as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_fit import small_fit

from skseg.commands import fit
from skseg.commands.parser import HelpFormatter

# Flags that the test sets itself, or that would start other processes.
LEFT_OUT = ("--config", "--help", "--print", "--run_dir", "--trainer.num_nodes",
            "--trainer.devices", "--trainer.strategy", "--trainer.accelerator",
            "--wandb.enabled")  # fmt: skip
NUMBERS = ["-1", "0", "1", "2", "3", "7", "64", "-0.5", "0.01", "0.5", "1.5", "1e9", "1e30",
           "nan", "inf", "-inf", "99999999999999999999"]  # fmt: skip
OTHERS = ["", "null", "true", "false", "x", "[]", "{}", "[1]", "[0,0]", "[-1,5]", "[1,1]", "[64,3]",
          "[0.5,1e9]", "[0.1,0.2,0.3]", "[null]", "[[3]]", "{a: 1}", "'", "é", "../x", "sum",
          "unet", "resnet18", "auto", "00:00:00:01"]  # fmt: skip


class _StopError(Exception):
    pass


def flags_of_fit() -> list[str]:
    """Return all flags of the parser that LightningCLI builds."""
    parser = fit.FitParser(prog="skseg fit", formatter_class=HelpFormatter, allow_abbrev=False)

    class Stopped(fit.SegmentationCLI):
        def before_instantiate_classes(self) -> None:
            raise _StopError

    with pytest.raises(_StopError):
        Stopped(parser, ["--config", "configs/streets.yaml"], ExitStack())
    return [flag for flag in parser.flags if not flag.startswith(LEFT_OUT)]


@pytest.fixture(scope="module", autouse=True)
def _own_arguments() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["fit.py"])
        yield


def check(root: Path, flag: str, value: str, capsys: pytest.CaptureFixture) -> int:
    """Run `fit` with a value; return its exit code."""
    capsys.readouterr()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        args = small_fit(
            *(root, run, "--trainer.limit_train_batches", 1, "--trainer.limit_val_batches", 1),
            *("--trainer.num_sanity_val_steps", 0, flag, value),
        )
        try:
            code = fit.main(args)
        except SystemExit as error:
            code = error.code
        assert code in (0, 2)
        if code == 2:
            errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
            assert len(errors) == 1
            diverged = "not finite" in errors[0] or "the loss is" in errors[0]
            assert diverged or not run.exists() or not [*run.iterdir()]
        shutil.rmtree(run, ignore_errors=True)
    return code


@given(flag=st.deferred(lambda: st.sampled_from(flags_of_fit())), value=st.sampled_from(NUMBERS))
@settings(
    max_examples=40, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
def test_numbers_are_checked_before_anything_is_written(
    flag: str,
    value: str,
    streets_root: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pl.Trainer, "fit", lambda *_, **__: None)
        check(streets_root, flag, value, capsys)


@pytest.mark.slow
@given(
    flag=st.deferred(lambda: st.sampled_from(flags_of_fit())),
    value=st.sampled_from([*NUMBERS, *OTHERS]),
)
@settings(
    max_examples=250, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
def test_whatever_is_accepted_trains(
    flag: str, value: str, streets_root: Path, capsys: pytest.CaptureFixture
) -> None:
    check(streets_root, flag, value, capsys)
