"""Attention of networks whose attention is known."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from running import run_script
from scipy.special import expit

from skseg import SegmentationTask
from skseg.attention.files import check_output, write_attention
from skseg.attention.observe import compute_attention, observe_attention, selecting_units
from skseg.attention.records import GrowthMethod
from skseg.attention.summary import summarize_attention
from skseg.data import get_dataset, read_image
from skseg.encoders import SKSettings
from skseg.errors import UserError
from skseg.inference import resize
from skseg.nn import SKConv2d
from skseg.nn.attention import SKAttention
from skseg.streets import draw_dataset


def task_of(
    encoder: str = "sknet_tiny", sk: SKSettings | None = None, arch: str = "fpn"
) -> SegmentationTask:
    torch.manual_seed(0)
    spec = get_dataset("streets")
    names, colors = list(spec.classes.names), list(spec.classes.colors)
    half = (0.5, 0.5, 0.5)
    return SegmentationTask(names, colors, half, half, arch, encoder, sk=sk).eval()


class Brightness(SKAttention):
    """Weighs the second of two kernels by the logistic function of each pooled feature."""

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        weight = pooled.sigmoid()
        return torch.stack([1 - weight, weight], dim=1)


def follow_brightness(task: SegmentationTask) -> list[torch.Tensor]:
    """Make all units attend by `Brightness`; return the list that pooled features go to."""
    pooled: list[torch.Tensor] = []
    for unit in task.model.modules():
        if isinstance(unit, SKConv2d):
            unit.attn = Brightness(unit.out_channels, 2, 32)
            unit.attn.register_forward_hook(lambda m, args, out: pooled.append(args[0].clone()))
    return pooled


def test_units_have_their_stage_and_spans() -> None:
    units = selecting_units(task_of(sk=SKSettings(branches=[[3], [3, 2], [7]])).model)
    assert [unit.stage for unit in units] == [f"encoder.layer{i}" for i in (1, 1, 2, 2, 3, 3, 4, 4)]
    assert {unit.spans for unit in units} == {(3, 5, 7)}
    assert {unit.largest for unit in units} == {2}
    assert [unit.channels for unit in units] == [32, 32, 64, 64, 128, 128, 256, 256]


@pytest.mark.parametrize("window", [None, 4])
def test_attention_is_read_as_it_is(window: int | None) -> None:
    """Averaged over regions where units attend by region."""
    task = task_of(sk=SKSettings(pool_window=window or 0))
    pooled = follow_brightness(task)
    pictures = list(np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), np.uint8))
    units = selecting_units(task.model)
    read = compute_attention(task, pictures, units)
    for a, features in zip(read, pooled, strict=True):
        assert features.ndim == (4 if window else 2)
        known = expit(features.numpy().reshape(*features.shape[:2], -1)).mean(2)
        np.testing.assert_allclose(a[:, 1], known, rtol=1e-5)
        np.testing.assert_allclose(a.sum(1), 1, rtol=1e-5)
    assert len({a.tobytes() for a in read}) == len(units)


def test_the_script_writes_all(run_dir: Path, streets_root: Path, tmp_path: Path) -> None:
    checkpoint = run_dir / "checkpoints" / "last.ckpt"
    data = ["--data.name", "streets", "--data.root", streets_root]
    output = tmp_path / "out"
    command = ["attention", "--ckpt_path", checkpoint, *data, "--output", output, "--window", 64]
    done = run_script(*command, "--growth", "crop")
    assert done.returncode == 0, done.stderr
    record = json.loads((output / "attention.json").read_text())
    assert record["images"] == 3
    assert record["growth"]["blur"]["contrast"]["value"] is not None
    worth = 100 * record["selection"]["difference"]["value"]
    assert f"is worth {worth:+.2f} points" in " ".join(done.stdout.split())
    for claim in (*record["claims"].values(), *record["claims_beyond_blur"].values()):
        assert claim["numbers"] in done.stdout
    names = {path.name for path in output.iterdir()}
    assert names == {
        *("attention.json", "images.csv"),
        *("growth.png", "by_class.png", "by_size.png", "images.png"),
    }
    with (output / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 4
    for row in rows:
        assert float(row["3x3"]) + float(row["5x5"]) == pytest.approx(1)
        assert row["preferred"] == max(("3x3", "5x5"), key=lambda kernel: float(row[kernel]))
    check_output(output, overwrite=True)
    with pytest.raises(UserError, match="already exists"):
        check_output(output, overwrite=False)
    with pytest.raises(UserError, match="is a file"):
        check_output(output / "images.csv", overwrite=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"growth": "redraw", "name": "camvid"}, "`growth` .* not for camvid; use 'crop'"),
        ({"window": 50}, "`window` .* multiple of 32, at least 32, not 50"),
        ({"window": 96}, "`window` .* 96: .* 128x64 pixels$"),
        ({"window": 32}, "`window` of 32 pixels"),
        ({"max_images": 0}, "`max_images` must be at least 1, not 0"),
        ({"scale": 0.0}, "`scale` must be above 0, not 0"),
        ({"scale": 0.5, "window": 64}, "`window` .* scaled by 0.5"),
        ({"encoder": "sknet_tiny_plain"}, "no SK unit"),
        ({"sk": SKSettings(branches=[[3], [3, 1]])}, "no SK unit"),
    ],
)
def test_mistakes(arguments: dict, message: str, streets_root: Path, camvid_root: Path) -> None:
    task = task_of(arguments.pop("encoder", "sknet_tiny"), arguments.pop("sk", None))
    name = arguments.pop("name", "streets")
    spec = get_dataset(name)
    if name == "camvid":
        task.class_names = list(spec.classes.names)
    root = camvid_root if name == "camvid" else streets_root
    with pytest.raises(UserError, match=message):
        observe_attention([task], spec, root, "val", **arguments)


def test_units_that_a_shallow_decoder_leaves_out_are_left_out(
    streets_root: Path, tmp_path: Path
) -> None:
    task = task_of(arch="pspnet")
    assert [unit.stage for unit in selecting_units(task.model)][-1] == "encoder.layer4"
    root = tmp_path / "streets"
    draw_dataset(root, train=1, val=1, height=128, width=256, seed=0, workers=0)
    task.class_names = list(get_dataset("streets").classes.names)
    observed = observe_attention([task], get_dataset("streets"), root, "val")
    assert {unit.stage for unit in observed.units} == {"encoder.layer1", "encoder.layer2"}


@pytest.mark.parametrize("growth", ["crop", "redraw"])
def test_images_are_seen_at_the_scale(growth: GrowthMethod, tmp_path: Path) -> None:
    root, spec = tmp_path / "streets", get_dataset("streets")
    draw_dataset(root, train=1, val=2, height=128, width=256, seed=3, workers=0)
    task = task_of()
    observed = observe_attention([task], spec, root, "val", growth, window=64, scale=0.5)
    assert observed.blurred is None
    names: list[str] = []
    for pair, whole in zip(spec.pairs(root, "val"), observed.whole, strict=True):
        halved = resize(read_image(pair.image), 64, 128)
        read = compute_attention(task, [halved], observed.units)
        np.testing.assert_allclose(whole.weights, [a[0].mean(1) for a in read], rtol=1e-6)
        assert whole.sample.prediction.shape == (128, 256)
        of_image = [unit[len(names)] for unit in observed.selections[0].largest]
        np.testing.assert_allclose(np.stack([a.mean() for a in of_image]), whole.weights[:, 1])
        names.append(pair.name)
    assert observed.images == names
    whole_size = observe_attention([task], spec, root, "val", growth, window=64)
    assert len(observed.original[0].image) == len(whole_size.original[0].image)
    np.testing.assert_array_equal(observed.original[0].size, whole_size.original[0].size)
    assert not np.allclose(observed.original[0].weights, whole_size.original[0].weights)
    assert len(observed.grown[0].image) >= len(whole_size.grown[0].image)  # more of them fit


def test_one_image_has_no_intervals_and_is_drawn(tmp_path: Path) -> None:
    root, spec = tmp_path / "streets", get_dataset("streets")
    draw_dataset(root, train=1, val=1, height=128, width=256, seed=3, workers=0)
    task = task_of()
    observed = observe_attention([task], spec, root, "val", "redraw", window=64)
    record = summarize_attention(observed, task.class_names)
    assert record["growth"]["largest_change"]["low"] is None
    assert record["interval"].startswith("no intervals")
    write_attention(tmp_path / "out", record, observed, task, pictures=1)
    assert json.loads((tmp_path / "out" / "attention.json").read_text())["images"] == 1


def test_networks_must_be_alike(streets_root: Path) -> None:
    tasks = [task_of(), task_of(sk=SKSettings(branches=[[3], [5]]))]
    assert selecting_units(tasks[0].model) == selecting_units(tasks[1].model)  # both span 3 and 5
    for other, what in (tasks[1], "sk"), (task_of(arch="unet"), "arch"):
        with pytest.raises(UserError, match=f"one network and data set; they differ in {what}"):
            observe_attention([tasks[0], other], get_dataset("streets"), streets_root, "val")


def test_one_run_is_no_two_networks(run_dir: Path, streets_root: Path, tmp_path: Path) -> None:
    checkpoints = run_dir / "checkpoints"
    for twice in (["last.ckpt", "best.ckpt"], ["last.ckpt", "../checkpoints/last.ckpt"]):
        paths = [str(checkpoints / name) for name in twice]
        options = ["--data.name", "streets", "--data.root", str(streets_root)]
        done = run_script(
            "attention", "--ckpt_path", *paths, *options, "--output", tmp_path / "out"
        )
        assert done.returncode == 2
        assert f"--ckpt_path {paths[0]}: another is of the same run" in done.stderr
