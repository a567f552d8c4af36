"""Damaged and foreign checkpoints: each takes one line, or loads the very same weights."""

import copy
import random
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from skseg import SegmentationTask, UserError, load_model
from skseg.training.checkpoints import read_checkpoint

SMALL = Path(__file__).parent / "old_checkpoints" / "plain.ckpt"


def damaged(content: bytes, generator: random.Random) -> tuple[str, bytes]:
    """Damage a file as disks and networks do; return what was done too."""
    data = bytearray(content)
    at = generator.randrange(len(data))
    until = min(len(data), at + generator.choice([1, 8, 512, 4096, 65536]))
    match generator.choice(["flip", "cut", "zero", "repeat", "lose", "swap"]):
        case "flip":
            data[at] ^= 1 << generator.randrange(8)
            done = "a flipped bit"
        case "cut":
            del data[at:]
            done = "a lost end"
        case "zero":
            data[at:until] = bytes(until - at)
            done = "zeros"
        case "repeat":
            data[at:at] = data[at:until]
            done = "a part twice"
        case "lose":
            del data[at:until]
            done = "a lost part"
        case _:
            other = generator.randrange(len(data))
            data[at], data[other] = data[other], data[at]
            done = "two swapped bytes"
    return f"{done} at {at} of {len(content)}", bytes(data)


def load(file: Path) -> SegmentationTask | str:
    """Load a model, or return the message of the error, which must name the file in one line."""
    try:
        return load_model(file)
    except UserError as error:
        message = str(error)
    assert message.startswith(f"checkpoint {file}: ")
    assert len(message.splitlines()) == 1
    return message


@pytest.fixture(scope="module")
def original() -> dict[str, torch.Tensor]:
    return load_model(SMALL).state_dict()


@pytest.mark.parametrize("seed", range(60))
def test_random_damage_is_refused_or_harmless(
    seed: int, tmp_path: Path, original: dict[str, torch.Tensor]
) -> None:
    done, content = damaged(SMALL.read_bytes(), random.Random(seed))
    file = tmp_path / "damaged.ckpt"
    file.write_bytes(content)
    task = load(file)
    if isinstance(task, str):
        return
    state = task.state_dict()
    assert state.keys() == original.keys()
    for name, value in original.items():
        assert torch.equal(state[name], value), f"{name} after {done}"


@pytest.mark.parametrize("mmap", [False, True])
def test_a_flipped_bit_in_the_weights_is_found(tmp_path: Path, mmap: bool) -> None:
    content = bytearray(SMALL.read_bytes())
    weights = torch.load(SMALL, weights_only=True)["state_dict"]
    largest = max(weights.values(), key=lambda value: value.numel())
    content[content.index(bytes(largest.untyped_storage())) + 3] ^= 1
    (tmp_path / "x.ckpt").write_bytes(content)
    torch.load(tmp_path / "x.ckpt", weights_only=True)  # which does not notice
    with pytest.raises(UserError, match=r"x\.ckpt.*differs from its checksum"):
        read_checkpoint(tmp_path / "x.ckpt", mmap=mmap)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["conv_stem.0.weight", "running_var"])
def test_weights_and_buffers_that_are_not_finite(tmp_path: Path, value: float, name: str) -> None:
    checkpoint = torch.load(SMALL, weights_only=True)
    state = checkpoint["state_dict"]
    key = next(key for key in state if key.endswith(name) or name.endswith("weight"))
    state[key][(0,) * state[key].ndim] = value
    torch.save(checkpoint, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=rf"x\.ckpt.*{key} has values that are not finite"):
        load_model(tmp_path / "x.ckpt")


class Code:
    """Runs code where it is unpickled carelessly."""

    def __reduce__(self) -> tuple:
        return (print, ("code ran",))


ODD = [None, True, -1, 1.5, float("nan"), "x", b"x", [], [1], ["x"], [[1]], {}, {"x": 1}, {1: 2}]


@pytest.mark.parametrize("key", [
    "class_names", "colors", "mean", "std", "arch", "encoder_name", "encoder_depth",
    "encoder_output_stride", "decoder", "sk", "encoder_weights", "optimizer", "unknown",
])  # fmt: skip
def test_a_foreign_description_takes_one_line(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, original: dict[str, torch.Tensor]
) -> None:
    """And nothing is fetched from a network."""

    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    checkpoint = torch.load(SMALL, weights_only=True)
    values: list[Any] = [*ODD, "imagenet", "tu-nothing", "resnet18", "tu-resnet18.hf-hub:a/b"]
    values += [{"encoder_weights": "imagenet"}, {"weights": "imagenet"}, {"classes": 3}]
    values += [{"decoder_channels": "imagenet"}, {"decoder": {"encoder_weights": "imagenet"}}]
    for value in values:
        changed = copy.deepcopy(checkpoint)
        changed["skseg"]["task"][key] = value
        torch.save(changed, tmp_path / "x.ckpt")
        task = load(tmp_path / "x.ckpt")
        if isinstance(task, str):
            continue
        is_default = (
            value is None or value == {} or value is True
        )  # which do not change the network
        assert is_default, f"{key}: {value!r} was accepted"
        for name, weight in original.items():
            assert torch.equal(task.state_dict()[name], weight)


@pytest.mark.parametrize("path", [
    ["skseg"], ["skseg", "format"], ["skseg", "task"], ["skseg", "task", "mean"], ["state_dict"],
], ids="/".join)  # fmt: skip
def test_missing_and_wrong_parts_take_one_line(path: list[str], tmp_path: Path) -> None:
    for value in ("missing", *ODD):
        checkpoint = torch.load(SMALL, weights_only=True)
        *outer, key = path
        part = checkpoint
        for name in outer:
            part = part[name]
        if value == "missing":
            del part[key]
        else:
            part[key] = value
        torch.save(checkpoint, tmp_path / "x.ckpt")
        if path[-1] == "format" and value in (True, -1):
            continue  # a number of a version before
        assert isinstance(load(tmp_path / "x.ckpt"), str)


def test_files_that_are_no_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    state = torch.load(SMALL, weights_only=True)["state_dict"]
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("hello")
    for name, content in {
        "number": 1,
        "tensor": torch.ones(2),
        "state": state,
        "module": torch.nn.Linear(2, 2),
        "code": Code(),
        "code inside": {"state_dict": state, "skseg": Code()},
        "other": {"state_dict": {"weight": torch.ones(2)}, "skseg": "yes"},
    }.items():
        torch.save(content, tmp_path / name)
    torch.save({"state_dict": state}, tmp_path / "old", _use_new_zipfile_serialization=False)
    for file in tmp_path.iterdir():
        assert isinstance(load(file), str)
    assert "code ran" not in capsys.readouterr().out


def test_the_source_of_the_weights(tmp_path: Path) -> None:
    assert SegmentationTask(["a", "b"], [(0, 0, 0)] * 2, (0.5,) * 3, (0.5,) * 3,
                            encoder_name="sknet_tiny").source is None  # fmt: skip
    checkpoint = torch.load(SMALL, weights_only=True)
    source = load_model(SMALL).source
    assert source == (SMALL, "trained", checkpoint["epoch"], checkpoint["global_step"])
    checkpoint["averaging_state"] = {}
    torch.save(checkpoint, tmp_path / "x.ckpt")
    assert load_model(tmp_path / "x.ckpt").source.weights == "averaged"
