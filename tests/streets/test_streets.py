import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skseg.data import DATASETS, VOID, SegmentationDataset, eval_transform, get_dataset
from skseg.data.cityscapes import LABEL_IDS
from skseg.errors import UserError
from skseg.streets import Growth, draw_dataset, draw_scene, people, redraw, vehicles
from skseg.streets.canvas import Camera, Canvas
from skseg.streets.place import Draw, Place

THINGS = {24, 25, 26, 27, 28, 32, 33}  # label ids whose instances Cityscapes counts
SMALL = {"train": 3, "val": 2, "height": 64, "width": 128}


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene(seed, 128, 256) for seed in range(40)]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("streets") / "drawn"
    draw_dataset(root, **SMALL, seed=3, workers=0)
    return root


def contents(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("size", [(256, 512), (96, 96), (65, 131)])
def test_a_scene_has_the_asked_size_and_types(size):
    scene = draw_scene(0, *size)
    assert scene.image.shape == (*size, 3)
    assert scene.label_ids.shape == scene.instance_ids.shape == size
    assert scene.image.dtype == scene.label_ids.dtype == np.uint8
    assert scene.instance_ids.dtype == np.uint16


def test_the_seed_decides_the_scene():
    first, again, other = (draw_scene(seed, 64, 128) for seed in (5, 5, 6))
    for name in ("image", "label_ids", "instance_ids"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        assert not np.array_equal(getattr(first, name), getattr(other, name))


def test_scenes_of_a_seed_stay_the_same() -> None:
    """Published runs were trained on them."""
    digest = hashlib.sha256()
    for seed in range(4):
        scene = draw_scene(seed, 64, 128)
        digest.update(scene.label_ids.tobytes())
        digest.update(scene.instance_ids.astype("<u2").tobytes())
    assert digest.hexdigest()[:16] == "7cd43b050e812e15"
    np.testing.assert_allclose(
        draw_scene(0, 64, 128).image.mean((0, 1)), [68.87, 68.05, 62.75], atol=0.05
    )


def test_instances_agree_with_labels(scenes):
    for scene in scenes:
        counted = scene.instance_ids >= 1000
        labels = np.where(counted, scene.instance_ids // 1000, scene.instance_ids)
        np.testing.assert_array_equal(labels, scene.label_ids)
        assert set(np.unique(scene.label_ids[counted])) <= THINGS
        assert not THINGS & set(np.unique(scene.label_ids[~counted]))


def test_each_class_is_in_a_share_of_the_scenes_and_trains_in_none(scenes):
    present = [set(np.unique(scene.label_ids)) for scene in scenes]
    shares = {
        name: np.mean([label in labels for labels in present]) for name, label in LABEL_IDS.items()
    }
    assert shares.pop("train") == 0
    assert {name: share for name, share in shares.items() if share < 0.15} == {}


def test_some_scenes_have_a_void_border_or_hood(scenes):
    hoods = np.mean([1 in scene.label_ids[-3] for scene in scenes])
    assert 0.1 < hoods < 0.9


def test_things_are_seen_in_a_wide_range_of_sizes(scenes):
    heights = []
    for scene in scenes:
        for instance in np.unique(scene.instance_ids[scene.instance_ids >= 1000]):
            rows = np.flatnonzero((scene.instance_ids == instance).any(1))
            heights.append(rows[-1] - rows[0] + 1)
    assert np.quantile(heights, 0.1) < 10
    assert np.quantile(heights, 0.95) > 40


def test_colors_do_not_tell_the_class(scenes):
    # Between cars of different scenes colors differ more than road and car do on the average.
    means = [
        scene.image[scene.label_ids == LABEL_IDS["car"]].mean(0)
        for scene in scenes
        if (scene.label_ids == LABEL_IDS["car"]).any()
    ]
    roads = [scene.image[scene.label_ids == LABEL_IDS["road"]].mean(0) for scene in scenes]
    apart = np.linalg.norm(np.mean(means, 0) - np.mean(roads, 0))
    assert np.linalg.norm(np.std(means, 0)) > apart / 2


def test_edges_of_labels_are_edges_of_the_image(scenes):
    inside, across = [], []
    for scene in scenes:
        gray = scene.image.astype(float).mean(2)
        step = np.abs(np.diff(gray, axis=1))
        edge = np.diff(scene.instance_ids.astype(int), axis=1) != 0
        across.append(step[edge].mean())
        inside.append(step[~edge].mean())
    assert np.mean(across) > 3 * np.mean(inside)


def test_a_drawn_data_set_is_read_back_like_cityscapes(drawn):
    for split, count in (("train", 3), ("val", 2)):
        data = SegmentationDataset(DATASETS["streets"], drawn, split, eval_transform())
        assert [data[i]["name"] for i in range(count)] == [
            f"drawn/drawn_{i:06d}_000019" for i in range(count)
        ]
        assert len(data) == count
        pair = data.pairs[0]
        ids = np.array(Image.open(pair.mask))
        mask = data[0]["mask"].numpy()
        names = DATASETS["streets"].classes.names
        for index in set(np.unique(mask)) - {VOID}:
            assert (ids[mask == index] == LABEL_IDS[names[index]]).all()
        instances = np.array(
            Image.open(str(pair.mask).replace("labelIds", "instanceIds")), dtype=np.uint16
        )
        np.testing.assert_array_equal(
            np.where(instances >= 1000, instances // 1000, instances), ids
        )


def test_no_two_scenes_are_alike(drawn):
    pictures = [p.read_bytes() for p in (drawn / "leftImg8bit").rglob("*.png")]
    assert len(set(pictures)) == 5


def test_workers_change_nothing(drawn, tmp_path):
    draw_dataset(tmp_path / "other", **SMALL, seed=3, workers=2)
    assert contents(tmp_path / "other") == contents(drawn)


def test_a_seed_draws_another_data_set(drawn, tmp_path):
    draw_dataset(tmp_path / "other", **SMALL, seed=4, workers=0)
    assert contents(tmp_path / "other") != contents(drawn)


def test_the_same_call_again_leaves_the_files_alone(drawn):
    (path, *_) = (drawn / "leftImg8bit" / "train" / "drawn").iterdir()
    before = path.stat().st_mtime_ns
    draw_dataset(drawn, **SMALL, seed=3, workers=0)
    assert path.stat().st_mtime_ns == before


def test_other_scenes_in_the_root_are_not_overwritten(drawn):
    before = contents(drawn)
    with pytest.raises(UserError, match=r"already holds scenes drawn with .*\"seed\": 3"):
        draw_dataset(drawn, **SMALL, seed=4, workers=0)
    assert contents(drawn) == before


def test_foreign_files_in_the_root_are_not_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(UserError, match="already holds something else"):
        draw_dataset(tmp_path, **SMALL, workers=0)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_place_of_the_root_is_not_overwritten(tmp_path):
    (tmp_path / "file").write_text("dear")
    with pytest.raises(UserError, match="already holds something else"):
        draw_dataset(tmp_path / "file", **SMALL, workers=0)


def test_an_empty_root_is_filled(tmp_path):
    (tmp_path / "root").mkdir()
    draw_dataset(tmp_path / "root", **SMALL, workers=0)
    assert json.loads((tmp_path / "root" / "streets.json").read_text())["train"] == 3


def test_an_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def stop_at_the_third(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw_scene(*args)

    monkeypatch.setattr("skseg.streets.dataset.draw_scene", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        draw_dataset(tmp_path / "root", **SMALL, workers=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "bad", [{"train": 0}, {"val": -1}, {"height": 8}, {"width": 0}, {"seed": -1}, {"workers": -1}]
)
def test_numbers_out_of_range_are_refused(tmp_path, bad):
    with pytest.raises(UserError, match="cannot draw"):
        draw_dataset(tmp_path / "root", **SMALL | bad)
    assert list(tmp_path.iterdir()) == []


def test_missing_scenes_say_how_to_draw_them(tmp_path):
    with pytest.raises(UserError, match=r"scripts/draw_streets\.py"):
        DATASETS["streets"].pairs(tmp_path, "train")


@pytest.mark.parametrize("draw", [vehicles.car, people.person, people.cyclist])
def test_a_grown_thing_has_its_outline_scaled_about_its_foot(draw: Draw) -> None:
    camera = Camera(focal=1200, center=750, horizon=540, height=1.5, bend=0.001)
    sun = np.array([0.6, 0.8, 0], np.float32)
    boxes, areas = [], []
    for factor in (1.0, 1.5, 2.0):
        canvas = Canvas(1536, 1536, camera, np.random.default_rng(0))
        place = Place(1.0, 9.0, 0.4, sun, 0.5, 7)
        with canvas.enlarged(factor, (place.x, 0, place.z)):
            draw(canvas, np.random.default_rng(1), place)
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
