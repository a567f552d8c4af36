"""A run that was stopped at any moment and resumed is, to the bit, one that was not."""

import csv
import itertools
import json
import multiprocessing
import shlex
import signal
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from killed_fit import kill_after, run, stop_after
from small_fit import small_fit

from skseg.commands.fit import main
from skseg.training.optim import Schedule

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["skseg.commands.fit"])  # importing it takes long


def arguments(root: Path, folder: Path, *more: object) -> list[str]:
    """Three epochs of three steps with dropout in the decoder."""
    return small_fit(
        *(root, folder, "--data.batch_size", 1, "--trainer.limit_train_batches", 3),
        *("--trainer.max_epochs", 3, "--trainer.check_val_every_n_epoch", 2),
        *("--model.schedule.warmup_steps", 2, *more),
    )


def fit(args: list[str], output: Path, killed_in_file: int = 0) -> int:
    """Fit in a process of its own; return its exit code, negative for a signal."""
    process = processes.Process(target=run, args=(args, output, killed_in_file))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def assert_same(a: object, b: object, where: str = "checkpoint") -> None:
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


def assert_same_run(a: Path, b: Path) -> None:
    """All that training depends on, and all that was logged, is equal."""
    assert rows(a) == rows(b)
    best = [(folder / "checkpoints" / "best.json").read_text() for folder in (a, b)]
    assert best[0] == best[1]
    first, second = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (a, b)
    )
    # The rest, Lightning's own counters, tells which process did what.
    left_out = ("loops", "callbacks")
    for checkpoint in (first, second):
        for key in left_out:
            del checkpoint[key]
    assert_same(first, second)


@pytest.fixture(scope="module")
def whole(streets_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    output = folder / "output.txt"
    assert fit(arguments(streets_root, folder / "run"), output) == 0, output.read_text()
    return folder / "run"


def test_runs_agree(whole: Path, streets_root: Path, tmp_path: Path) -> None:
    """Also with another number of workers and with checkpoints in between."""
    more = ["--data.num_workers", 2, "--checkpoint_every", 1]
    assert fit(arguments(streets_root, tmp_path / "run", *more), tmp_path / "output.txt") == 0
    assert_same_run(whole, tmp_path / "run")


def resume_until_done(
    args: list[str], output: Path, deaths: Iterable[list[str]], killed_in_file: int = 0
) -> int:
    """Start, and resume after each death; return how many there were.

    Args:
        args: Arguments of the run.
        output: File of all that is printed.
        deaths: Further arguments of each start, with which the process is killed or not.
        killed_in_file: Which checkpoint file each process dies in; 0 for none.
    """
    count, resume = 0, []
    for death in deaths:
        code = fit([*args, *resume, *death], output, killed_in_file)
        if code == 0:
            return count
        assert code == -signal.SIGKILL, output.read_text()
        count, resume = count + 1, ["--ckpt_path", "last"]
    raise AssertionError("never done")


@pytest.mark.parametrize(
    "steps", [(2, 3, 8), pytest.param(range(2, 9), marks=pytest.mark.slow)], ids=["some", "every"]
)
def test_killed_before_a_step(
    steps: Iterable[int], whole: Path, streets_root: Path, tmp_path: Path
) -> None:
    """In the middle of epochs and at their beginnings; step 3 begins the second."""
    args = arguments(streets_root, tmp_path / "run", "--checkpoint_every", 1)
    deaths = [*map(kill_after, steps), []]
    assert resume_until_done(args, tmp_path / "output.txt", deaths) == len(deaths) - 1
    assert_same_run(whole, tmp_path / "run")
    assert "not resumable" not in (tmp_path / "output.txt").read_text()


def test_killed_while_writing_a_checkpoint(whole: Path, streets_root: Path, tmp_path: Path) -> None:
    """Each process writes two files and dies in the third; once that is between best and last."""
    args = arguments(streets_root, tmp_path / "run", "--checkpoint_every", 2)
    assert resume_until_done(args, tmp_path / "output.txt", itertools.repeat([]), 3) >= 3
    assert_same_run(whole, tmp_path / "run")
    files = {p.name for p in (tmp_path / "run" / "checkpoints").iterdir()}
    assert files == {"last.ckpt", "best.ckpt", "best.json"}


def test_lost_steps_are_done_again_and_logged_once(
    whole: Path, streets_root: Path, tmp_path: Path
) -> None:
    """Killed at step 5, with a checkpoint of step 3 only."""
    args = arguments(streets_root, tmp_path / "run")
    assert fit([*args, *kill_after(5)], tmp_path / "output.txt") == -signal.SIGKILL
    with (tmp_path / "run" / "metrics.csv").open("a") as file:
        file.write("2,0.1,0.")  # and while a row was written
    assert fit([*args, "--ckpt_path", "last"], tmp_path / "output.txt") == 0
    assert_same_run(whole, tmp_path / "run")


@pytest.mark.parametrize(
    ("number", "place", "after", "saved"),
    [
        (signal.SIGINT, "batch", 4, 5),
        (signal.SIGTERM, "validation", 6, 6),  # at the end of the second epoch
        pytest.param(signal.SIGTERM, "batch", 4, 5, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, "batch", 4, 5, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "validation", 9, 9, marks=pytest.mark.slow),  # the last one
    ],
    ids=str,
)
def test_a_signal_saves_first(
    number: signal.Signals,
    place: str,
    after: int,
    saved: int,
    whole: Path,
    streets_root: Path,
    tmp_path: Path,
) -> None:
    args = arguments(streets_root, tmp_path / "run", "--data.num_workers", 1)
    args += ["--ckpt_path", "auto"]
    output = tmp_path / "output.txt"
    assert fit([*args, *stop_after(after, number, place)], output) == 128 + number
    (line,) = [line for line in output.read_text().splitlines() if f"after step {saved};" in line]
    command = shlex.split(line.split("`")[1])
    assert command[:2] == ["skseg", "fit"]
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == saved
    assert fit([*command[2:], "--trainer.callbacks", "null"], output) == 0
    assert "Traceback" not in output.read_text()
    assert_same_run(whole, tmp_path / "run")


def test_a_signal_before_the_first_step(whole: Path, streets_root: Path, tmp_path: Path) -> None:
    args = arguments(streets_root, tmp_path / "run", "--ckpt_path", "auto")
    output = tmp_path / "output.txt"
    stop = stop_after(0, signal.SIGTERM, "sanity")
    assert fit([*args, *stop], output) == 128 + signal.SIGTERM
    assert "before the first step" in output.read_text()
    assert fit(args, output) == 0
    assert_same_run(whole, tmp_path / "run")


@pytest.mark.slow
def test_the_averaged_weights_survive_a_stop_in_a_validation(
    streets_root: Path, tmp_path: Path
) -> None:
    more = ["--ema", "0.9", "--ckpt_path", "auto"]
    output = tmp_path / "output.txt"
    assert fit(arguments(streets_root, tmp_path / "whole", *more), output) == 0
    args = arguments(streets_root, tmp_path / "run", *more)
    stop = stop_after(6, signal.SIGINT, "validation")
    assert fit([*args, *stop], output) == 128 + signal.SIGINT
    assert fit(args, output) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "run")


@pytest.mark.slow
def test_a_signal_in_the_last_validation_waits_for_it(streets_root: Path, tmp_path: Path) -> None:
    """A resumed run has no step left, after which it would validate."""
    more = ["--trainer.check_val_every_n_epoch", 9, "--trainer.max_steps", 5]
    output = tmp_path / "output.txt"
    assert fit(arguments(streets_root, tmp_path / "whole", *more), output) == 0
    args = arguments(streets_root, tmp_path / "run", *more, "--ckpt_path", "auto")
    stop = stop_after(5, signal.SIGTERM, "validation")
    assert fit([*args, *stop], output) == 128 + signal.SIGTERM
    assert fit(args, output) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_a_limit_within_an_epoch_does_not_skip_its_rest(
    whole: Path, streets_root: Path, tmp_path: Path
) -> None:
    args = arguments(streets_root, tmp_path / "run", "--ckpt_path", "auto")
    output = tmp_path / "output.txt"
    for steps in (2, 4):
        assert fit([*args, "--trainer.max_steps", str(steps)], output) == 0
        scores = rows(tmp_path / "run")[-1]
        assert (int(scores["step"]), scores["val/miou"] != "") == (steps - 1, True)
    assert fit(args, output) == 0
    steps = [int(row["step"]) for row in rows(tmp_path / "run") if row["train/loss"]]
    assert steps == list(range(9))
    positions = [row["epoch"] for row in rows(tmp_path / "run") if row["train/loss"]]
    assert positions == ["0", "0", "0", "1", "1", "1", "2", "2", "2"]
    assert "Traceback" not in output.read_text()


@pytest.mark.parametrize(
    ("more", "validated"),
    [
        pytest.param(["--trainer.check_val_every_n_epoch", 2], [5, 8], marks=pytest.mark.slow),
        (["--trainer.check_val_every_n_epoch", 9], [8]),
        pytest.param(
            ["--trainer.check_val_every_n_epoch", 9, "--trainer.max_steps", 5],
            [4],
            marks=pytest.mark.slow,
        ),
        (
            ["--trainer.check_val_every_n_epoch", "null", "--trainer.val_check_interval", 2],
            [1, 3, 5, 7, 8],
        ),
    ],
    ids=str,
)
def test_the_last_weights_are_validated_and_the_best_are_kept(
    more: list, validated: list[int], streets_root: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output.txt"
    assert fit(arguments(streets_root, tmp_path / "run", *more), output) == 0
    scores = {int(r["step"]): float(r["val/miou"]) for r in rows(tmp_path / "run") if r["val/miou"]}
    assert list(scores) == validated
    place = f"trained weights, step {validated[-1] + 1} (epoch {validated[-1] // 3})"
    assert place in output.read_text()
    best = json.loads((tmp_path / "run" / "checkpoints" / "best.json").read_text())
    assert best["step"] - 1 == max(scores, key=scores.__getitem__)
    assert best["miou"] == pytest.approx(max(scores.values()), rel=1e-6)
    saved = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert saved["global_step"] == best["step"]


def test_a_run_resumes_from_a_validation_within_an_epoch(
    streets_root: Path, tmp_path: Path
) -> None:
    more = ["--trainer.check_val_every_n_epoch", "null", "--trainer.val_check_interval", 2]
    args = arguments(streets_root, tmp_path / "whole", *more)
    output = tmp_path / "output.txt"
    assert fit(args, output) == 0
    args = arguments(streets_root, tmp_path / "run", *more)
    stop = stop_after(4, signal.SIGINT, "validation")
    assert fit([*args, *stop], output) == 128 + signal.SIGINT
    assert fit([*args, "--ckpt_path", "auto"], output) == 0
    assert_same_run(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data.batch_size", 2], "--data.batch_size is 1 in the checkpoint, 2 here"),
        (["--trainer.accumulate_grad_batches", 2], "--trainer.accumulate_grad_batches is 1 in"),
        (["--trainer.limit_train_batches", 2], "--trainer.limit_train_batches is 3 in"),
        (["--model.optimizer", "SGD", "--model.optimizer.lr", 0.1], "is 'AdamW' in"),
        (["--model.layer_decay", 0.9], "restore --model.freeze"),
        (["--model.freeze", "encoder"], "restore --model.freeze"),
        (["--model.auxiliary_weight", 0.4], "restore --model.freeze"),
        (["--ema", 0.9], "--ema"),
        (["--model.arch", "unet", "--model.decoder", "null"], "--model.arch is 'fpn' in"),
        (["--trainer.max_epochs", 2], "--trainer.max_epochs is 2, but"),
        (["--trainer.max_steps", 5], "--trainer.max_steps is 5, but"),
    ],
    ids=lambda v: " ".join(map(str, v)) if isinstance(v, list) else "",
)
def test_a_resumed_run_cannot_change_its_position(
    more: list, message: str, whole: Path, streets_root: Path, capsys: pytest.CaptureFixture
) -> None:
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    assert main(arguments(streets_root, whole, "--ckpt_path", "last", *more)) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


def test_a_resumed_run_has_the_rates_of_its_own_configuration(
    whole: Path, streets_root: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output.txt"
    args = arguments(streets_root, tmp_path / "run", "--ckpt_path", "auto")
    assert fit([*args, *stop_after(4)], output) == 128 + signal.SIGTERM
    more = ["--model.optimizer.lr", 0.02, "--model.optimizer.weight_decay", 0.5]
    more += ["--model.schedule.name", "poly", "--model.decoder_lr_factor", 10]
    args += [*map(str, more), "--trainer.max_epochs", "4"]
    assert fit(args, output) == 0, output.read_text()
    schedule = Schedule("poly", warmup_steps=2)
    found = [row for row in rows(tmp_path / "run") if row["lr/encoder"]]
    assert len(found) == 12
    for row in found[6:]:
        # A row has the rate that the step after it uses.
        rate = 0.02 * schedule.factor(int(row["step"]) + 1, 12)
        assert float(row["lr/encoder"]) == pytest.approx(rate)
        assert float(row["lr/decoder"]) == pytest.approx(10 * rate)
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    groups = saved["optimizer_states"][0]["param_groups"]
    assert {group["weight_decay"] for group in groups} == {0.5, 0.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ["--trainer.accumulate_grad_batches", 2],
        ["--trainer.val_check_interval", 2, "--trainer.check_val_every_n_epoch", "null"],
        ["--trainer.max_epochs", -1, "--trainer.max_steps", 9],
    ],
    ids=lambda more: more[0],
)
def test_other_loops_resume_too(more: list, streets_root: Path, tmp_path: Path) -> None:
    output = tmp_path / "output.txt"
    assert fit(arguments(streets_root, tmp_path / "whole", *more), output) == 0
    args = arguments(streets_root, tmp_path / "run", *more, "--checkpoint_every", 1)
    assert resume_until_done(args, output, map(kill_after, itertools.count(2))) >= 3
    assert_same_run(tmp_path / "whole", tmp_path / "run")
