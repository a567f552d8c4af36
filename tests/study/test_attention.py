"""Attention of networks whose attention is known, and growth whose size is known."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from running import run_script
from scipy.special import expit

from skseg import SegmentationTask
from skseg.contract import VOID
from skseg.data import get_dataset, read_image
from skseg.data.streets import Growth, draw_dataset, draw_scene, people, redraw, vehicles
from skseg.data.streets.canvas import Camera, Canvas
from skseg.data.streets.objects import _draw_grown
from skseg.data.streets.place import Draw, Place
from skseg.encoders import SKSettings
from skseg.errors import UserError
from skseg.inference import resize
from skseg.nn import SKConv2d, Unit
from skseg.nn.attention import SKAttention
from skseg.study.attention import (
    Attention,
    Growing,
    Observations,
    find_units,
    observe,
    read_attention,
)
from skseg.study.attention_record import (
    attention_record,
    describe_rise,
    judge,
)
from skseg.study.attention_results import check_output, write_attention
from skseg.study.estimates import estimate
from skseg.study.selection import Selection
from skseg.study.targets import (
    FACTORS,
    blurred_targets,
    cropped_targets,
    find_things,
    growth_blurs,
    redrawn_targets,
    still_targets,
    window_around,
)


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
    units = find_units(task_of(sk=SKSettings(branches=[[3], [3, 2], [7]])).model)
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
    units = find_units(task.model)
    read = read_attention(task, pictures, units)
    for a, features in zip(read, pooled, strict=True):
        assert features.ndim == (4 if window else 2)
        known = expit(features.numpy().reshape(*features.shape[:2], -1)).mean(2)
        np.testing.assert_allclose(a[:, 1], known, rtol=1e-5)
        np.testing.assert_allclose(a.sum(1), 1, rtol=1e-5)
    assert len({a.tobytes() for a in read}) == len(units)


def test_objects_are_components_of_a_class() -> None:
    mask = np.full((100, 120), VOID, np.uint8)
    mask[10:30, 5:25] = 3
    mask[30:50, 25:45] = 3  # touches at a corner
    mask[60:90, 60:100] = 3
    mask[60:70, 0:20] = 7  # too small
    assert sorted(find_things(mask)) == [
        (3, 800, (10, 5, 40, 40)),
        (3, 1200, (60, 60, 30, 40)),
    ]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((40, 50, 10, 20), (29, 61, 44, 76)),
        ((0, 0, 4, 4), (0, 32, 0, 32)),
        ((96, 116, 4, 4), (68, 100, 88, 120)),
    ],
)
def test_windows_stay_inside(box: tuple[int, ...], expected: tuple[int, ...]) -> None:
    rows, columns = window_around(box, 32, (100, 120, 3))
    assert (rows.start, rows.stop, columns.start, columns.stop) == expected


def test_cropped_objects_grow_and_large_ones_are_left_out() -> None:
    image = np.zeros((160, 160, 3), np.uint8)
    mask = np.zeros((160, 160), np.uint8)
    image[60:84, 70:90], mask[60:84, 70:90] = 255, 5
    (target,) = cropped_targets(image, mask, 96)  # class 0 fills the window and cannot grow
    assert (target.label, target.size) == (5, 1)
    areas = [(window[..., 0] > 127).sum() for window in target.windows]
    assert areas[0] == 24 * 20
    for area, factor in zip(areas, FACTORS, strict=True):
        assert area == pytest.approx(24 * 20 * factor**2, rel=0.05)
    assert len(still_targets(image, mask, 96)) == 2


def test_targets_of_a_scaled_picture() -> None:
    """At half the size a window holds twice as much, and growth by 2 is the picture's pixels."""
    image = np.random.default_rng(0).integers(0, 256, (160, 200, 3), np.uint8)
    mask = np.zeros((160, 200), np.uint8)
    mask[64:88, 80:100] = 5
    _, thing = still_targets(image, mask, 64, 0.5)
    assert (thing.label, thing.size) == (5, 1)  # sizes are those of the picture as it is
    halved = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(thing.windows[0], halved[38 - 32 : 38 + 32, 45 - 32 : 45 + 32])
    (grown,) = cropped_targets(image, mask, 64, 0.5)
    np.testing.assert_array_equal(grown.windows[0], thing.windows[0])
    np.testing.assert_array_equal(grown.windows[-1], image[76 - 32 : 76 + 32, 90 - 32 : 90 + 32])
    assert not growth_blurs(0.5)
    for scale in (0.75, 1.0, 1.5):
        assert growth_blurs(scale)
        (control,) = blurred_targets(image, mask, 96, scale)
        sharp, blurred = (window.astype(int) for window in control.windows)
        assert np.abs(np.diff(blurred, axis=1)).mean() < 0.8 * np.abs(np.diff(sharp, axis=1)).mean()


@pytest.mark.parametrize("draw", [vehicles.car, people.person, people.cyclist])
def test_a_grown_thing_has_its_outline_scaled_about_its_foot(draw: Draw) -> None:
    camera = Camera(focal=1200, center=750, horizon=540, height=1.5, bend=0.001)
    sun = np.array([0.6, 0.8, 0], np.float32)
    boxes, areas = [], []
    for factor in (1.0, 1.5, 2.0):
        canvas = Canvas(1536, 1536, camera, np.random.default_rng(0))
        place = Place(1.0, 9.0, 0.4, sun, 0.5, 7)
        _draw_grown(draw, canvas, np.random.default_rng(1), place, factor)
        assert canvas.camera is camera
        rows, columns = np.nonzero(canvas.instances)
        boxes.append([rows.min(), rows.max() + 1, columns.min(), columns.max() + 1])
        areas.append(len(rows))
    column, row = camera.project([[1, 0, 9]])[0]
    foot = np.array([row, row, column, column])
    for box, area, factor in zip(boxes, areas, (1.0, 1.5, 2.0), strict=True):
        np.testing.assert_allclose(box - foot, factor * (np.array(boxes[0]) - foot), atol=3.5)
        assert area == pytest.approx(factor**2 * areas[0], rel=0.1)  # strokes are whole pixels wide


def test_nothing_but_the_grown_thing_changes() -> None:
    scene = draw_scene(0, 128, 256)
    instances = np.unique(scene.instance_ids[scene.instance_ids >= 1000]).tolist()
    for instance in instances[::3]:
        grown = draw_scene(0, 128, 256, Growth(instance % 1000, 2.0))
        numbers = [
            np.where(s.instance_ids < 1000, -1, s.instance_ids % 1000) for s in (scene, grown)
        ]
        kept = (numbers[0] != instance % 1000) & (numbers[1] != instance % 1000)
        assert (scene.instance_ids[kept] == grown.instance_ids[kept]).all()
        assert (numbers[1] == instance % 1000).sum() > (numbers[0] == instance % 1000).sum()
    assert len(instances) > 5
    again = draw_scene(0, 128, 256, Growth(instances[0] % 1000, 1.0))
    np.testing.assert_array_equal(again.image, scene.image)


def test_redrawing_gives_the_files_of_a_data_set(streets_root: Path, camvid_root: Path) -> None:
    spec = get_dataset("streets")
    for pair in spec.pairs(streets_root, "val"):
        scene = redraw(streets_root, "val", pair.name)
        sample = spec.read_mask(pair.mask)
        np.testing.assert_array_equal(scene.label_ids == 26, sample == 13)
    with pytest.raises(UserError, match=r"streets\.json"):
        redraw(camvid_root, "val", "drawn/drawn_000000_000019")


def test_the_central_thing_grows_in_a_window_that_stays(tmp_path: Path) -> None:
    draw_dataset(tmp_path / "drawn", train=1, val=5, height=128, width=256, seed=1, workers=0)
    found = 0
    for pair in get_dataset("streets").pairs(tmp_path / "drawn", "val"):
        for target in redrawn_targets(tmp_path / "drawn", "val", pair.name, 96):
            found += 1
            assert target.label in (11, 12, 13, 14, 15, 17, 18)  # what is counted
            image = read_image(pair.image)
            places = np.lib.stride_tricks.sliding_window_view(image, (96, 96, 3))[:, :, 0]
            assert (places == target.windows[0]).all((2, 3, 4)).any()
            first, *others = target.windows
            changed = [(first != other).any(2).mean() for other in others]
            assert 0 < changed[0] < changed[1] < 0.9
    assert found >= 1


def known_attention(seed: int, rise: float) -> Attention:
    """40 targets on 20 images; the larger kernel's weight rises by `rise` in layer1 only."""
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(20), 2)
    base = rng.uniform(0.4, 0.6, (20, 1, 6)) + np.zeros((20, 3, 6))
    steps = np.array([0, 0.5, 1])[None, :, None]
    first = base + rise * steps * np.array([1, 1, 1, 1, 1, -0.5])
    largest = [first, base]
    means = np.stack([x.mean(2) for x in largest], axis=2)[image]  # [N, F, U]
    label, size = np.tile([0, 1], 20), np.full(40, 2)
    return Attention(image, label, size, np.stack([1 - means, means], axis=3), largest)


UNITS = [Unit("layer1.0", "layer1", (3, 5), 6), Unit("layer2.0", "layer2", (3, 7), 6)]


def record_of(*networks: Attention) -> dict:
    names = [str(i) for i in range(20)]
    counts = np.full((20, 3, 3), [1, 2, 2])
    selections = [
        Selection([unit[:, 0] for unit in network.largest], counts, counts) for network in networks
    ]
    known = list(networks)
    seen = Observations(UNITS, "redraw", 64, names, known, known, None, [], selections)
    return attention_record(seen, ["a", "b", "c"])


def test_numbers_of_known_attention() -> None:
    known = known_attention(0, 0.1)
    record = record_of(known)
    assert list(record["by_class"]) == ["a", "b"]
    assert list(record["by_size"]) == ["32² to 64²"]
    assert record["by_class"]["a"]["objects"] == 20
    weight = known.weights[::2, 0].mean(0)
    np.testing.assert_allclose(record["by_class"]["a"]["weights"]["value"], weight)
    np.testing.assert_allclose(
        record["by_class"]["a"]["span"]["value"],
        [3 * weight[0, 0] + 5 * weight[0, 1], 3 * weight[1, 0] + 7 * weight[1, 1]],
    )
    first, second = record["growth"]["by_unit"].values()
    assert first["rise"]["value"] == pytest.approx(0.1 * 4.5 / 6)
    assert first["rising_channels"]["value"] == pytest.approx(5 / 6)
    assert second["rise"] == {"value": 0, "low": 0, "high": 0}
    change = record["growth"]["largest_change"]["value"]
    np.testing.assert_allclose(change, [[0, 0], [0.0375, 0], [0.075, 0]], atol=1e-12)
    assert [c["verdict"] for c in record["claims"].values()] == ["supported", "supported"]
    json.dumps(record, allow_nan=False)


def test_several_networks_are_what_is_repeated() -> None:
    rises = [0.1, 0.12, 0.02]
    record = record_of(*(known_attention(i, rise) for i, rise in enumerate(rises)))
    found = record["growth"]["by_unit"]["layer1.0"]["rise"]
    values = 0.75 * np.asarray(rises)
    half = 4.3027 * values.std(ddof=1) / np.sqrt(3)  # Student's t, 2 degrees of freedom
    assert found["value"] == pytest.approx(values.mean())
    assert found["low"] == pytest.approx(values.mean() - half, rel=1e-4)
    assert found["high"] == pytest.approx(values.mean() + half, rel=1e-4)
    assert record["claims"]["larger_kernel"]["verdict"] == "neither"
    assert "networks" in record["interval"]


def test_the_bootstrap_is_over_images() -> None:
    rng = np.random.default_rng(0)
    sample = rng.normal(3, 2, (50, 4))
    found = estimate([sample])
    drawn = sample[rng.integers(50, size=(4000, 50))].mean(1)  # the same, image by image
    np.testing.assert_allclose(found.low, np.quantile(drawn, 0.025, axis=0), atol=0.06)
    np.testing.assert_allclose(found.high, np.quantile(drawn, 0.975, axis=0), atol=0.06)
    assert estimate([sample[:1]]).low is None


@pytest.mark.parametrize(
    ("low", "high", "verdicts"),
    [
        (0.1, 0.0, ["supported", "supported"]),
        (0.1, -0.1, ["supported", "supported"]),
        (0.1, 0.1, ["supported", "contradicted"]),
        (-0.1, 0.0, ["contradicted", "contradicted"]),
        (-0.1, -0.1, ["contradicted", "neither"]),
        (0.0, 0.0, ["neither", "neither"]),
    ],
)
def test_verdicts(low: float, high: float, verdicts: list[str]) -> None:
    noise = np.random.default_rng(0).normal(0, 1e-3, (2, 30, 41))
    noise -= noise.mean(1, keepdims=True)
    alternating = np.where(np.arange(41) % 2, 1e-4, -1e-4)
    rises = [noise[0] + low + alternating * (low == 0), noise[1] + high + alternating * (high == 0)]
    claims = judge(describe_rise([rises], UNITS))
    assert [claim["verdict"] for claim in claims.values()] == verdicts


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
    with pytest.raises(UserError, match="exists already"):
        check_output(output, overwrite=False)
    with pytest.raises(UserError, match="is a file"):
        check_output(output / "images.csv", overwrite=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"growing": "redraw", "name": "camvid"}, "not camvid"),
        ({"side": 50}, "multiples of 32"),
        ({"side": 96}, "has only 128x64 pixels"),
        ({"side": 32}, "give a larger --window"),
        ({"max_images": 0}, "at least 1"),
        ({"scale": 0.0}, "--scale is above 0"),
        ({"scale": 0.5, "side": 64}, "before it is scaled by 0.5"),
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
        observe([task], spec, root, "val", **arguments)


def test_units_that_a_shallow_decoder_leaves_out_are_left_out(
    streets_root: Path, tmp_path: Path
) -> None:
    task = task_of(arch="pspnet")
    assert [unit.stage for unit in find_units(task.model)][-1] == "encoder.layer4"
    root = tmp_path / "streets"
    draw_dataset(root, train=1, val=1, height=128, width=256, seed=0, workers=0)
    task.class_names = list(get_dataset("streets").classes.names)
    seen = observe([task], get_dataset("streets"), root, "val")
    assert {unit.stage for unit in seen.units} == {"encoder.layer1", "encoder.layer2"}


@pytest.mark.parametrize("growing", ["crop", "redraw"])
def test_images_are_seen_at_the_scale(growing: Growing, tmp_path: Path) -> None:
    root, spec = tmp_path / "streets", get_dataset("streets")
    draw_dataset(root, train=1, val=2, height=128, width=256, seed=3, workers=0)
    task = task_of()
    seen = observe([task], spec, root, "val", growing, side=64, scale=0.5)
    assert seen.blurred is None
    seen_images: list[str] = []
    for pair, whole in zip(spec.pairs(root, "val"), seen.whole, strict=True):
        halved = resize(read_image(pair.image), 64, 128)
        read = read_attention(task, [halved], seen.units)
        np.testing.assert_allclose(whole.weights, [a[0].mean(1) for a in read], rtol=1e-6)
        assert whole.sample.prediction.shape == (128, 256)
        of_image = [unit[len(seen_images)] for unit in seen.selections[0].largest]
        np.testing.assert_allclose(np.stack([a.mean() for a in of_image]), whole.weights[:, 1])
        seen_images.append(pair.name)
    assert seen.images == seen_images
    whole_size = observe([task], spec, root, "val", growing, side=64)
    assert len(seen.still[0].image) == len(whole_size.still[0].image)
    np.testing.assert_array_equal(seen.still[0].size, whole_size.still[0].size)
    assert not np.allclose(seen.still[0].weights, whole_size.still[0].weights)
    assert len(seen.grown[0].image) >= len(whole_size.grown[0].image)  # more of them fit


def test_one_image_has_no_intervals_and_is_drawn(tmp_path: Path) -> None:
    root, spec = tmp_path / "streets", get_dataset("streets")
    draw_dataset(root, train=1, val=1, height=128, width=256, seed=3, workers=0)
    task = task_of()
    seen = observe([task], spec, root, "val", "redraw", side=64)
    record = attention_record(seen, task.class_names)
    assert record["growth"]["largest_change"]["low"] is None
    write_attention(tmp_path / "out", record, seen, task, pictures=1)
    assert json.loads((tmp_path / "out" / "attention.json").read_text())["images"] == 1


def test_networks_must_be_alike(streets_root: Path) -> None:
    tasks = [task_of(), task_of(sk=SKSettings(branches=[[3], [5]]))]
    assert find_units(tasks[0].model) == find_units(tasks[1].model)  # both span 3 and 5
    tasks[1] = task_of(sk=SKSettings(branches=[[3], [7]]))
    with pytest.raises(UserError, match="different SK units"):
        observe(tasks, get_dataset("streets"), streets_root, "val")
