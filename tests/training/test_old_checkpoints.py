"""Checkpoints of earlier versions load and give the logits that they gave then."""

import json
from pathlib import Path

import pytest
import torch
from old_checkpoints.make import drawn_state, image, sampled

from skseg import SegmentationTask, SKConv2d, load_model
from skseg.encoders import SKSettings

FOLDER = Path(__file__).parent / "old_checkpoints"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


def assert_logits(task: torch.nn.Module, name: str) -> None:
    expected = torch.tensor(EXPECTED["logits"][name])
    assert expected.std() > 0.01
    # Other CPUs round differently.
    torch.testing.assert_close(torch.tensor(sampled(task(image()))), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "units"), [("plain", 0), ("converted", 10)])
def test_trained_networks(name: str, units: int) -> None:
    task = load_model(FOLDER / f"{name}.ckpt")
    assert sum(isinstance(module, SKConv2d) for module in task.modules()) == units
    assert task.spec["sk"] == (None if units == 0 else dict.fromkeys(task.spec["sk"]))
    assert_logits(task, name)


def test_an_sk_encoder_with_settings(tmp_path: Path) -> None:
    native = EXPECTED["native"]
    task = SegmentationTask(**{**native["task"], "sk": SKSettings(**native["task"]["sk"])})
    assert sorted(task.state_dict()) == native["names"]
    entry = {"format": native["format"], "task": native["task"]}
    checkpoint = {"skseg": entry, "state_dict": drawn_state(task.state_dict())}
    torch.save(checkpoint, tmp_path / "native.ckpt")
    assert_logits(load_model(tmp_path / "native.ckpt"), "native")
