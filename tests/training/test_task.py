from pathlib import Path

import pytest
import torch

from skseg import SegmentationTask, UserError, load_model

CLASSES = {
    "class_names": ["a", "b", "c"],
    "colors": [(255, 0, 0), (0, 255, 0), (0, 0, 255)],
    "mean": (0.4, 0.5, 0.6),
    "std": (0.1, 0.2, 0.3),
}


def save(task: SegmentationTask, path: Path) -> dict:
    checkpoint = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return checkpoint


@pytest.mark.parametrize(
    "model",
    [
        {"arch": "unet", "encoder_name": "sknet_tiny", "encoder_depth": 4},
        {"arch": "deeplabv3plus", "encoder_name": "sknet_tiny_se", "encoder_output_stride": 8},
        {"arch": "fpn", "encoder_name": "tu-resnet10t",
         "decoder": {"decoder_pyramid_channels": 32}},
    ],
    ids=lambda m: m["arch"],
)  # fmt: skip
def test_a_checkpoint_stands_alone(model: dict, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = SegmentationTask(**CLASSES, **model).eval()
    save(task, tmp_path / "x.ckpt")
    loaded = load_model(tmp_path / "x.ckpt")
    assert not loaded.training
    for name in CLASSES:
        assert [*getattr(loaded, name)] == [*CLASSES[name]]
    image = torch.randn(1, 3, 70, 90)
    with torch.inference_mode():
        torch.testing.assert_close(loaded(image), task(image), rtol=0, atol=0)


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return (Path(tmp_path / "ran").touch, ())

    task = SegmentationTask(**CLASSES, encoder_name="sknet_tiny_plain")
    good = save(task, tmp_path / "good.ckpt")
    whole = (tmp_path / "good.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.ckpt").touch()
    (tmp_path / "text.ckpt").write_text("hello")
    torch.save(Evil(), tmp_path / "evil.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    good["skseg"]["format"] = 99
    torch.save(good, tmp_path / "future.ckpt")
    for name, message in {
        "missing": "no such file",
        "cut": "cannot be read safely",
        "empty": "cannot be read safely",
        "text": "cannot be read safely",
        "evil": "cannot be read safely",
        "foreign": "not written by skseg's fit",
        "list": "not written by skseg's fit",
        "future": "format 99",
    }.items():
        with pytest.raises(UserError, match=rf"{name}\.ckpt.*{message}"):
            load_model(tmp_path / f"{name}.ckpt")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UserError, match="no such file"):
        load_model(tmp_path)
