"""Several processes do what one does."""

import csv
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from running import REPOSITORY, run_script
from small_fit import small_fit
from stage_attention import mean_attention
from wandb_file import read_run

from skseg import load_model
from skseg.data import get_dataset
from skseg.evaluation.evaluate import evaluate


def training(root: Path, run: Path, devices: int) -> list[str]:
    return small_fit(
        *(root, run, "--trainer.check_val_every_n_epoch", 1, "--wandb.enabled", "true"),
        *("--trainer.devices", devices, "--trainer.strategy", "ddp"),
    )


def running_in(group: int) -> list[str]:
    """Return the names of the processes of a group that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().partition(") ")
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, _, its_group, *_ = rest.split()
        if int(its_group) == group and state != "Z":  # a zombie only waits for its parent
            found.append(name)
    return found


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def validate(checkpoint: Path, root: Path, devices: int, output: Path) -> dict:
    script = Path(__file__).with_name("validating.py")
    command = [sys.executable, script, checkpoint, root, devices, output]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return torch.load(output)


@pytest.mark.parametrize("devices", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("images", [3, 1])
def test_processes_count_every_image_once(
    run_dir: Path, streets_root: Path, tmp_path: Path, devices: int, images: int
) -> None:
    """Also where shares are uneven, and where a process has none."""
    root = tmp_path / "streets"
    shutil.copytree(streets_root, root)
    names = sorted((root / "leftImg8bit" / "val").glob("*/*.png"))
    for path in names[images:]:
        mask = path.name.replace("leftImg8bit", "gtFine_labelIds")
        path.unlink()
        (root / "gtFine" / "val" / path.parent.name / mask).unlink()
    checkpoint = run_dir / "checkpoints" / "last.ckpt"
    task = load_model(checkpoint)
    alone = evaluate(task, get_dataset("streets"), root, "val", num_workers=0).record
    assert alone["images"] == images
    shared = validate(checkpoint, root, devices, tmp_path / "out.pt")
    assert shared["confusion"].tolist() == alone["confusion"]
    assert shared["scores"]["val/miou"] == pytest.approx(alone["miou"], abs=1e-6)


def test_networks_with_unused_stages_train_in_processes(streets_root: Path, tmp_path: Path) -> None:
    """And their checkpoint resumes in one process, with the same groups of the optimizer."""
    more = ["--model.arch", "unet", "--model.encoder_depth", 3, "--model.decoder",
            "{decoder_channels: [16, 16, 16]}", "--wandb.enabled", "false",
            "--ckpt_path", "auto"]  # fmt: skip
    done = run_script("fit", *training(streets_root, tmp_path / "run", 2), *more)
    assert done.returncode == 0, done.stderr
    more += ["--trainer.devices", 1, "--trainer.max_epochs", 2]
    done = run_script("fit", *training(streets_root, tmp_path / "run", 2), *more)
    assert done.returncode == 0, done.stderr
    assert load_model(tmp_path / "run" / "checkpoints" / "last.ckpt").spec["encoder_depth"] == 3


def test_ctrl_c_in_a_job_saves_once_and_leaves_no_process(
    streets_root: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "skseg", "fit", *training(streets_root, tmp_path / "run", 2)]
    command += ["--trainer.max_epochs", "999", "--trainer.check_val_every_n_epoch", "999"]
    command += ["--wandb.enabled", "false"]
    job = subprocess.Popen(
        [*map(str, command)], cwd=REPOSITORY, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    metrics = tmp_path / "run" / "metrics.csv"
    while job.poll() is None and not metrics.is_file():
        time.sleep(0.1)
    os.killpg(job.pid, signal.SIGINT)  # as a terminal does
    output, _ = job.communicate(timeout=200)
    assert job.returncode == 130, output
    assert output.count("SIGINT: saved") == 1
    assert "Traceback" not in output
    assert not running_in(job.pid)
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_process_that_dies_ends_the_others(rank: int, streets_root: Path, tmp_path: Path) -> None:
    callback = {"class_path": "dying.DieInRank", "init_args": {"rank": rank}}
    command = [sys.executable, "-m", "skseg", "fit", *training(streets_root, tmp_path / "run", 2)]
    command += ["--trainer.max_epochs", "999", "--trainer.check_val_every_n_epoch", "999"]
    command += ["--wandb.enabled", "false", "--trainer.callbacks", str([callback])]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    job = subprocess.Popen(
        [*map(str, command)], cwd=REPOSITORY, start_new_session=True, text=True,
        env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    output, _ = job.communicate(timeout=60)
    assert job.returncode not in (0, None), output
    assert not running_in(job.pid)


def test_a_job_has_one_run_folder_and_one_wandb_run(streets_root: Path, tmp_path: Path) -> None:
    done = run_script("fit", *training(streets_root, tmp_path / "run", 2))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained weights, step") == 1
    assert "warn" not in (done.stdout + done.stderr).lower()
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    with (tmp_path / "run" / "metrics.csv").open() as file:
        steps = [row["step"] for row in csv.DictReader(file)]
    assert steps == ["0", "1", "1"]  # two steps and the validation, by process 0 alone
    recorded = read_run(tmp_path / "run")  # fails if there are two
    scored = [row for row in recorded["history"] if "val/miou" in row]
    assert len(scored) == 1
    assert [a["type"] for a in recorded["artifacts"]].count("model") == 1
    # The same as in one process, though one of two shares is filled up.
    task = load_model(tmp_path / "run" / "checkpoints" / "last.ckpt")
    known = mean_attention(task, streets_root)
    assert {key: scored[0][key] for key in known} == pytest.approx(known, abs=1e-5)
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2  # 4 samples, 2 a step, shared by two


def test_a_mistake_ends_all_processes(streets_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "streets"
    shutil.copytree(streets_root, root)
    for picture in (root / "leftImg8bit" / "train").glob("*/*.png"):
        picture.write_bytes(picture.read_bytes()[:300])
    done = run_script("fit", *training(root, tmp_path / "run", 2))
    assert done.returncode != 0
    assert "leftImg8bit/train" in done.stderr


@pytest.mark.slow
def test_torchrun_trains(streets_root: Path, tmp_path: Path, monkeypatch) -> None:
    """With a folder that the first process names: processes that start apart agree on it."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    torchrun += [f"--master_port={free_port()}", str(REPOSITORY / "scripts" / "fit.py")]
    args = training(streets_root, tmp_path, 2)
    at = args.index("--run_dir")
    del args[at : at + 2]
    done = subprocess.run([*torchrun, *args], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs" / "streets").iterdir()
    assert (run / "checkpoints" / "last.ckpt").is_file()
    assert len(read_run(run)["history"]) > 0


def namespaces() -> str:
    """Why there can be no network namespaces here; empty where there can."""
    if shutil.which("ip") is None:
        return "there is no `ip` command"
    made = subprocess.run(["ip", "netns", "add", "skseg-probe"], capture_output=True, text=True)
    if made.returncode:
        return f"`ip netns add` fails: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", "skseg-probe"], check=True)
    return ""


@pytest.mark.slow
def test_two_nodes_with_addresses_of_their_own(streets_root: Path, tmp_path: Path) -> None:
    if reason := namespaces():
        pytest.skip(reason)
    nodes = ["skseg-a", "skseg-b"]
    ip = ["ip", "-n"]
    try:
        for node in nodes:
            subprocess.run(["ip", "netns", "add", node], check=True)
        link = ["link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", nodes[1]]
        subprocess.run([*ip, nodes[0], *link], check=True)
        for i, node in enumerate(nodes):
            address = f"10.199.77.{i + 1}/24"
            subprocess.run([*ip, node, "addr", "add", address, "dev", "veth0"], check=True)
            for device in ("lo", "veth0"):
                subprocess.run([*ip, node, "link", "set", device, "up"], check=True)
        jobs = []
        for rank, node in enumerate(nodes):
            command = ["ip", "netns", "exec", node, sys.executable, "scripts/fit.py"]
            command += training(streets_root, tmp_path / "run", 1)
            environment = os.environ | {
                **{"MASTER_ADDR": "10.199.77.1", "MASTER_PORT": "29500", "NODE_RANK": str(rank)},
                "GLOO_SOCKET_IFNAME": "veth0",
            }
            jobs.append(
                subprocess.Popen(
                    [*command, "--trainer.num_nodes", "2"],
                    cwd=REPOSITORY, env=environment, text=True,
                    stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                )
            )  # fmt: skip
        outputs = [job.communicate(timeout=200) for job in jobs]
    finally:
        for node in nodes:
            subprocess.run(["ip", "netns", "del", node], check=False)
    assert [job.returncode for job in jobs] == [0, 0], outputs
    tables = ["trained weights, step" in out for out, _ in outputs]
    assert tables == [True, False]
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
    read_run(tmp_path / "run")
    assert not list(itertools.chain(*(p.glob("*") for p in tmp_path.iterdir() if p.name != "run")))
