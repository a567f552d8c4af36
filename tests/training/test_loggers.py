"""W&B never stops a run, and changes nothing in it, whatever happens to W&B."""

import json
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytorch_lightning as pl
import torch
import wandb
from running import run_script
from small_fit import callback, small_fit
from wandb_file import read_records

from skseg.commands.fit import main as fit
from skseg.training.loggers import Tracking, wandb_logger

KEY = "0123456789" * 4
CLOSED = "http://127.0.0.1:9"
TRACKED = ("--trainer.check_val_every_n_epoch", 1, "--wandb.enabled", "true")


class Forbids(BaseHTTPRequestHandler):
    """A server that accepts no key."""

    def do_POST(self) -> None:
        self.send_response(401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def forbidding_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Forbids)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def untracked(streets_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run without W&B."""
    run = tmp_path_factory.mktemp("untracked") / "run"
    assert fit(small_fit(streets_root, run, *TRACKED, "--wandb.enabled", "false")) == 0
    return run


def assert_same_run(run: Path, expected: Path) -> None:
    assert (run / "metrics.csv").read_bytes() == (expected / "metrics.csv").read_bytes()
    states = [
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (run, expected)
    ]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name])


def recorded(run: Path) -> list[dict[str, str]]:
    """The rows of all offline recordings of a run."""
    rows = []
    for file in sorted(run.glob("wandb/offline-run-*/run-*.wandb")):
        for record in read_records(file):
            if record.HasField("history"):
                items = record.history.item
                rows.append({i.key or ".".join(i.nested_key): i.value_json for i in items})
    return rows


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"WANDB_BASE_URL": CLOSED}, "127.0.0.1:9"),
        pytest.param({"WANDB_BASE_URL": "FORBIDS"}, "127.0.0.1", marks=pytest.mark.slow),
        pytest.param(
            {"WANDB_MODE": "foo", "WANDB_BASE_URL": "nonsense"},
            "WANDB_BASE_URL is 'nonsense'",
            marks=pytest.mark.slow,
        ),
        ({"WANDB_MODE": "offline", "WANDB_CACHE_DIR": "FILE", "WANDB_DATA_DIR": "FILE"}, "FILE"),
    ],
    ids=lambda value: None if isinstance(value, str) else ",".join(value.values()),
)
def test_a_run_goes_on_offline(
    environment: dict[str, str],
    reason: str,
    streets_root: Path,
    untracked: Path,
    forbidding_server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").touch()
    known = {"FORBIDS": forbidding_server, "FILE": str(tmp_path / "file" / "below")}
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    for name, value in environment.items():
        monkeypatch.setenv(name, known.get(value, value))
    run = tmp_path / "run [a]"
    done = run_script("fit", *small_fit(streets_root, run, *TRACKED))
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if "wandb sync" in line]
    assert len(lines) == 1
    assert f"'{run}/wandb'/*run-*" in lines[0]
    assert known.get(reason, reason) in done.stderr
    assert_same_run(run, untracked)
    assert [row for row in recorded(run) if "val/miou" in row]


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"WANDB_API_KEY": "short"}, "WANDB_API_KEY"),
        ({"WANDB_API_KEY": KEY, "WANDB_MODE": "foo"}, "WANDB_MODE is 'foo'"),
        ({"WANDB_PROJECT": "a/b"}, "WANDB_PROJECT is 'a/b'"),
        ({"WANDB_INIT_TIMEOUT": "soon"}, "WANDB_INIT_TIMEOUT is 'soon'"),
        ({"WANDB_MODE": "dryrun"}, "WANDB_MODE is dryrun"),
    ],
    ids=lambda value: None if isinstance(value, str) else ",".join(value.values()),
)
def test_odd_variables_take_a_run_offline(
    environment: dict[str, str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    wandb.teardown()  # which has read the variables
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    caplog.set_level(logging.INFO)
    logger = wandb_logger(Tracking(), tmp_path)
    (line,) = [line for line in caplog.messages if "wandb sync" in line]
    assert reason in line
    assert KEY not in line
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.experiment.finish()
    wandb.teardown()
    assert [row["loss"] for row in recorded(tmp_path)] == ["1"]


class EndService(pl.Callback):
    """Kill W&B's process before the second step."""

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        if batch_idx != 1:
            return
        children = subprocess.run(
            ["ps", "--ppid", str(os.getpid()), "-o", "pid=,args="],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        (pid,) = (int(line.split()[0]) for line in children if "wandb-core" in line)
        os.kill(pid, signal.SIGKILL)


def test_a_run_goes_on_when_wandbs_process_dies(
    streets_root: Path,
    untracked: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wandb.teardown()
    caplog.set_level(logging.INFO)
    run = tmp_path / "run"
    monkeypatch.setenv("WANDB_DATA_DIR", str(run / "wandb"))  # and later tests have their own
    more = (*TRACKED, *callback("test_loggers.EndService"))
    assert fit(small_fit(streets_root, run, *more)) == 0
    wandb.teardown()
    (line,) = [line for line in caplog.messages if "wandb sync" in line and "ended" in line]
    assert str(run) in line
    assert_same_run(run, untracked)
    parts = sorted(run.glob("wandb/offline-run-*"))
    assert len(parts) == 2
    assert len({file.name for part in parts for file in part.glob("run-*.wandb")}) == 1
    rows = recorded(run)
    assert [row for row in rows if "val/miou" in row]
    assert any("val/predictions" in key for row in rows for key in row)


class GoesAway(BaseHTTPRequestHandler):
    """A server that lets a run start, and does not answer any more."""

    started = threading.Event()
    answers: ClassVar[dict[str, dict[str, Any]]] = {
        "UpsertBucket": {
            "upsertBucket": {
                "inserted": True,
                "bucket": {
                    **{"id": "1", "name": "abc", "displayName": "run", "config": "{}"},
                    "project": {"id": "2", "name": "skseg", "entity": {"id": "3", "name": "me"}},
                },
            }
        },
        "Viewer": {
            "viewer": {
                **{"id": "3", "entity": "me", "username": "me", "email": "", "flags": "{}"},
                "teams": {"edges": []},
            }
        },
    }

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.started.is_set():
            self.connection.close()
            return
        name = next((name for name in self.answers if name.encode() in body), "")
        content = json.dumps({"data": self.answers.get(name, {})}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        if name == "UpsertBucket":
            self.started.set()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.mark.slow
def test_an_outage_during_a_run_changes_nothing(
    streets_root: Path, untracked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), GoesAway)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "3")
    done = run_script("fit", *small_fit(streets_root, tmp_path / "run", *TRACKED))
    server.shutdown()
    assert GoesAway.started.is_set(), done.stderr
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert_same_run(tmp_path / "run", untracked)
    (record,) = (tmp_path / "run" / "wandb").glob("run-*/run-*.wandb")  # which `wandb sync` uploads
    keys = {i.key or ".".join(i.nested_key) for r in read_records(record) for i in r.history.item}
    assert "val/miou" in keys
