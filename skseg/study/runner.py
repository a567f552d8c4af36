"""Runs a study's missing runs in parallel, through the public commands."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from skseg.data import default_root
from skseg.errors import UserError, near_names
from skseg.files import whole_file
from skseg.metrics.records import EvaluationRecord
from skseg.study.matrix import Row, Run, Study, add_row, check_rows, pending_runs, read_rows

_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# Scores come from the evaluation, so runs do not validate unless the study asks for it.
_DEFAULTS = {"trainer.limit_val_batches": 0, "wandb.enabled": False}


class BrokenRunError(RuntimeError):
    """A run whose training or evaluation failed; the message names the log."""


@dataclass
class _State:
    """The state of a run, kept in a JSON file beside its folder.

    Attributes:
        path: The file.
        digest: Digest of the run that the folder belongs to; empty before the run starts.
        commits: Commits of the code that trained and scored it, in order, without repetitions.
        seconds: Time of all its sessions so far.
        finished: Whether its row was written.
    """

    path: Path
    digest: str = ""
    commits: list[str] = field(default_factory=list)
    seconds: float = 0.0
    finished: bool = False

    @classmethod
    def read(cls, path: Path) -> "_State":
        """Read a run's state; without a file, return that of a run that has not started."""
        return (
            cls(path, **json.loads(path.read_text(encoding="utf-8")))
            if path.is_file()
            else cls(path)
        )

    def write(self) -> None:
        """Write the state whole or not at all."""
        content = {k: v for k, v in asdict(self).items() if k != "path"}
        with whole_file(self.path) as part:
            part.write_text(json.dumps(content), encoding="utf-8")

    @contextmanager
    def counting_time(self) -> Iterator[None]:
        """Add the time spent in the context, even if it ends with an error or a signal."""
        start = time.monotonic()
        self.write()
        try:
            yield
        finally:
            self.seconds += time.monotonic() - start
            self.write()


class Runner:
    """Runs a study and resumes it after an interruption.

    A finished run is added to `runs.csv` at once. An interrupted run resumes from its latest
    checkpoint.

    Args:
        study: The study.
        table: Path of `runs.csv`.
        folder: Folder for the runs' folders and logs.
        root: Directory of the data; by default the study's own, or data/NAME.

    Raises:
        UserError: There is no such directory.
    """

    def __init__(self, study: Study, table: Path, folder: Path, root: Path | None = None) -> None:
        self.study = study
        self.table = table
        self.folder = folder
        self.root = root or Path(study.data.get("root") or default_root(study.data["name"]))
        if not self.root.is_dir():
            how = study.data.get("prepare", "set `root` to its directory")
            raise UserError(f"no data in {self.root}: {how}")
        # A copy of the fit config, which may be edited while the study runs.
        self._fit = folder / "fit.yaml"
        self._locks: tuple[int, ...] = ()
        self._children: set[subprocess.Popen[bytes]] = set()
        self._table_lock = threading.Lock()
        self._stopping = False

    def run(
        self,
        jobs: int,
        console: Console,
        limit: int | None = None,
        arms: Collection[str] | None = None,
        seeds: int | None = None,
    ) -> int:
        """Run the missing runs; return how many failed.

        Args:
            jobs: Number of parallel runs, each on one thread.
            console: Where to print a line for each finished run.
            limit: Largest number of runs; by default all.
            arms: Arms to run; by default all.
            seeds: Number of seeds of each arm to run; by default all.

        Raises:
            UserError: The table's rows have other settings, the study is already running, or an
                arm is unknown.
            KeyboardInterrupt: On SIGINT or SIGTERM, after the runs have saved their checkpoints.
        """
        arms = self.study.arms if arms is None else arms
        for arm in arms:
            if arm not in self.study.arms:
                raise UserError(f"no arm {arm!r}{near_names(arm, self.study.arms)}")
        with _locked(self.table.parent, self.folder) as self._locks, _terminates_like_ctrl_c():
            rows = read_rows(self.table)
            check_rows(self.study, rows, self.table)
            self._fit.write_text(self.study.fit_text, encoding="utf-8")
            todo = [
                run
                for run in pending_runs(self.study, rows)
                if run.arm in arms and (seeds is None or run.seed in self.study.first_seeds(seeds))
            ][:limit]
            total = len(self.study.runs())
            console.print(
                f"{len(rows)} runs are done, {len(todo)} of {total} to do", highlight=False
            )
            return self._run(todo, [float(row["seconds"]) for row in rows], jobs, console)

    def _run(self, todo: list[Run], seconds: list[float], jobs: int, console: Console) -> int:
        """Run in parallel; return how many failed. `seconds` are the times of earlier runs."""
        failed = 0
        columns = (
            TextColumn("study"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
        )
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task(_time_left(seconds, len(todo), jobs), total=len(todo))
            with ThreadPoolExecutor(jobs) as pool:
                try:
                    futures = {pool.submit(self._finish, run): run for run in todo}
                    for done, future in enumerate(as_completed(futures), 1):
                        name = futures[future].name
                        try:
                            row = future.result()
                        except BrokenRunError as error:
                            failed += 1
                            console.print(f"{name}: failed: {error}", highlight=False)
                        else:
                            seconds.append(float(row["seconds"]))
                            miou = 100 * float(row["miou"])
                            console.print(f"{name}: {miou:.2f} mIoU", highlight=False)
                        left = _time_left(seconds, len(todo) - done, jobs)
                        progress.update(bar, advance=1, description=left)
                        if not console.is_terminal:
                            console.print(f"{done} of {len(todo)} done, {left}", highlight=False)
                except BaseException:
                    self._stop()
                    pool.shutdown(cancel_futures=True)
                    raise
        return failed

    def _finish(self, run: Run) -> Row:
        """Train and evaluate one run; add and return its row."""
        folder = self.folder / run.name
        checkpoint = folder / "checkpoints" / "last.ckpt"
        state = _State.read(self.folder / f"{run.name}.json")
        if checkpoint.is_file() and (state.digest != run.digest or state.finished):
            raise BrokenRunError(
                f"{folder} holds the network of another run: move it away, or use another folder "
                "for the runs"
            )
        if not checkpoint.is_file():  # there is nothing to resume
            self._remove(folder, state)
            state = _State(state.path, run.digest)
        # Before the run starts, as the code may be edited while it runs.
        state.commits = list(dict.fromkeys([*state.commits, _commit()]))
        with state.counting_time():
            self._command(run, "fit", *self._fit_arguments(run, folder, checkpoint.is_file()))
            data = self.study.data
            self._command(
                run,
                "evaluate",
                *("--ckpt_path", checkpoint, "--data.name", data["name"]),
                *("--data.root", self.root, "--split", data["split"], "--num_workers", 0),
                *("--output", folder / "evaluation", "--scales", *self.study.scales),
            )
        record = json.loads((folder / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
        row = _row(run, folder, record, state)
        with self._table_lock:
            check_rows(self.study, [*read_rows(self.table), row], self.table)
            add_row(self.table, row)
        state.finished = True
        state.write()
        if run.arm not in self.study.keep_checkpoints:
            shutil.rmtree(checkpoint.parent)
        return row

    def _remove(self, folder: Path, state: _State) -> None:
        """Remove the folder of an earlier attempt that left no checkpoint.

        Raises:
            BrokenRunError: The folder exists, but this study did not make it.
        """
        if not folder.exists():
            return
        inside = folder.resolve().parent == self.folder.resolve()
        if not (inside and state.digest):  # a run writes its digest before it makes its folder
            raise BrokenRunError(f"{folder} was not made by this study: move it away")
        shutil.rmtree(folder)

    def _fit_arguments(self, run: Run, folder: Path, resumes: bool) -> list[object]:
        arguments: list[object] = ["--config", self._fit, "--run_dir", folder]
        for key, value in {**_DEFAULTS, **run.arguments}.items():
            arguments += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
        arguments += ["--seed_everything", run.seed, "--data.name", self.study.data["name"]]
        arguments += ["--data.root", self.root]
        return [*arguments, *(["--ckpt_path", "last"] if resumes else [])]

    def _command(self, run: Run, name: str, *arguments: object) -> None:
        """Run a skseg command on one thread and append its output to the run's log."""
        if self._stopping:
            raise KeyboardInterrupt
        log = self.folder / f"{run.name}.log"
        environment = os.environ | dict.fromkeys(_ONE_THREAD, "1")
        with log.open("ab") as file:
            child = subprocess.Popen(
                [sys.executable, "-m", "skseg", name, *map(str, arguments)],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # the runner forwards Ctrl-C itself
                pass_fds=self._locks,  # keeps the study locked if the runner is killed
            )
        self._children.add(child)
        if self._stopping:  # set after the check above
            child.send_signal(signal.SIGTERM)
        code = child.wait()
        self._children.discard(child)
        if self._stopping:
            raise KeyboardInterrupt
        if code:
            lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "no output")
            raise BrokenRunError(f"{name} exited with {code}: {last} (see {log})")

    def _stop(self) -> None:
        self._stopping = True
        for child in list(self._children):
            child.send_signal(signal.SIGTERM)  # upon which `fit` saves a checkpoint and ends


@contextmanager
def _locked(*folders: Path) -> Iterator[tuple[int, ...]]:
    """Create folders and lock them against other runners; yield their file descriptors."""
    with ExitStack() as stack:
        locks = []
        for folder in dict.fromkeys(folder.resolve() for folder in folders):  # they may be equal
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(f"{folder}: the study is already running") from error
            locks.append(descriptor)
        yield tuple(locks)


@contextmanager
def _terminates_like_ctrl_c() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _row(run: Run, folder: Path, record: EvaluationRecord, state: _State) -> Row:
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    row: dict[str, object] = {
        "arm": run.arm,
        "encoder": config["model"]["encoder_name"],
        "decoder": run.decoder,
        "seed": run.seed,
        "miou": record["miou"],
        "pixel_accuracy": record["pixel_accuracy"],
        "mean_accuracy": record["mean_accuracy"],
        "boundary_miou": record["boundary_miou"],
        "boundary_mean_f": record["boundary_mean_f"],
        "images": record["images"],
        "seconds": round(state.seconds),
        "skseg": version("skseg"),
        "commit": "+".join(state.commits),
        "torch": record["versions"]["torch"],
        "cpu": torch.backends.cpu.get_cpu_capability(),  # CPU types round differently
        "digest": run.digest,
        # The benchmark's IoU of a class that is absent from the ground truth is 0 if one pixel is
        # predicted as it. Without a recall the class is absent; then the cell stays empty.
        **{
            f"iou/{name}": None if record["recall"][name] is None else value
            for name, value in record["iou"].items()
        },
        **{f"size/{name}": scores["miou"] for name, scores in record["objects"].items()},
    }
    return {key: "" if value is None else str(value) for key, value in row.items()}


def _commit() -> str:
    """Return the commit of the checkout that this code runs from; empty outside a checkout.

    It ends in "-dirty" if files of skseg/ or configs/ differ from the commit. Other files, such as
    the studies' own rows, do not count.
    """
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    try:
        changes = git("status", "--porcelain", "--", "skseg", "configs")
        return git("rev-parse", "--short=9", "HEAD") + ("-dirty" if changes else "")
    except OSError:  # git is not installed
        return ""


def _time_left(seconds: list[float], runs: int, jobs: int) -> str:
    if not runs:
        return "all done"
    if not seconds:
        return "time left unknown until a run is done"
    recent = seconds[-8:]
    minutes = sum(recent) / len(recent) * -(-runs // jobs) / 60
    return f"about {minutes / 60:.1f} h left" if minutes > 90 else f"about {minutes:.0f} min left"
