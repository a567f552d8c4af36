"""The normalization that pretrained weights expect, without a network."""

import json
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
from huggingface_hub import constants
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from skseg.encoders import LITE_NORMALIZATION, Normalization, weights_normalization

IMAGENET = Normalization(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    ("encoder_name", "weights", "expected"),
    [
        ("sknet50", "imagenet", IMAGENET),
        ("efficientnet_lite0", "imagenet", LITE_NORMALIZATION),
        ("tu-resnet10t", "imagenet", IMAGENET),
        ("tu-tf_efficientnetv2_s.in21k", "imagenet", Normalization((0.5,) * 3, (0.5,) * 3)),
        ("resnet18", "imagenet", None),  # smp records it beside the weights
        ("sknet50", "own/weights.pth", None),
        ("sknet101", "imagenet", None),  # has no such weights
    ],
)
def test_what_is_recorded(encoder_name: str, weights: str, expected: Normalization | None) -> None:
    assert weights_normalization(encoder_name, weights) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}, Normalization((0.5,) * 3, (0.5,) * 3)),
        ({"mean": [0.5, 0.5, 0.5], "std": [1, 1, 1], "input_range": [0, 255]}, None),
        ({"mean": [0.5, 0.5, 0.5], "std": [1, 1, 1], "input_space": "BGR"}, None),
        ({"architecture": "resnet18"}, None),
    ],
)
def test_what_smp_downloaded(config: dict, expected: Normalization | None, tmp_path: Path) -> None:
    settings = smp.encoders.encoders["resnet18"]["pretrained_settings"]["imagenet"]
    repository = tmp_path / f"models--{settings['repo_id'].replace('/', '--')}"
    snapshot = repository / "snapshots" / settings["revision"]
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(config))
    assert weights_normalization("resnet18", "imagenet") == expected


def test_roundings_agree() -> None:
    assert IMAGENET.agrees((124 / 255, 117 / 255, 104 / 255), (0.234, 0.234, 0.234))  # DPN's
    assert not IMAGENET.agrees((0.5, 0.5, 0.5), IMAGENET.std)
    assert not IMAGENET.agrees(IMAGENET.mean, (0.5, 0.5, 0.5))
