"""Label maps for the benchmark, and its own scripts' opinion of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from running import run_script

from skseg.data import LABEL_IDS, VOID, get_dataset, read_pair
from skseg.errors import UserError
from skseg.evaluation.submission import Submission
from skseg.metrics import count_image, full_record

STREETS = get_dataset("streets")
CITYSCAPES = get_dataset("cityscapes")
# numpy 2.4 has dropped `in1d`, which cityscapesscripts 2.3 calls; `isin` is its successor.
OFFICIAL = """
import runpy, numpy
numpy.in1d = numpy.isin
runpy.run_module(
    "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling", run_name="__main__"
)
"""


def official_scores(root: Path, predictions: Path, export: Path) -> dict:
    """Run cityscapesscripts' evaluation of the val split in a process of its own."""
    pytest.importorskip("cityscapesscripts")
    export.mkdir()
    places = {"DATASET": root, "RESULTS": predictions, "EXPORT_DIR": export}
    done = subprocess.run(
        [sys.executable, "-c", OFFICIAL],
        env=os.environ | {f"CITYSCAPES_{key}": str(path) for key, path in places.items()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((export / "resultPixelLevelSemanticLabeling.json").read_text())


def assert_same(record: dict, official: dict) -> None:
    def check(ours: dict, theirs: dict) -> None:
        assert set(ours) == set(theirs)
        for name, value in ours.items():
            expected = np.nan if value is None else value
            assert theirs[name] == pytest.approx(expected, abs=1e-9, nan_ok=True), name

    check(record["iou"], {name: official["classScores"][name] for name in LABEL_IDS})
    check(record["category_iou"], {k: v for k, v in official["categoryScores"].items() if v == v})
    assert record["miou"] == pytest.approx(official["averageScoreClasses"], abs=1e-9)
    assert record["category_miou"] == pytest.approx(official["averageScoreCategories"], abs=1e-9)


def test_classes_and_categories_are_the_official_ones() -> None:
    official = pytest.importorskip("cityscapesscripts.helpers.labels").name2label
    classes = CITYSCAPES.classes
    for name, category in zip(classes.names, classes.categories, strict=True):
        label = official[name]
        assert (label.id, label.category) == (LABEL_IDS[name], category)
        assert not label.ignoreInEval


def test_scores_of_label_ids_are_cityscapesscripts(streets_root: Path, tmp_path: Path) -> None:
    """Predictions of every class, right more often than not, on masks of real label ids."""
    generator = np.random.default_rng(0)
    submission = Submission(STREETS, streets_root, "val", tmp_path / "labels")
    assert submission.has_truth
    total = None
    for pair in STREETS.pairs(streets_root, "val"):
        _, truth = read_pair(STREETS, pair)
        is_wrong = (truth == VOID) | (generator.random(truth.shape) < 0.3)
        prediction = np.where(is_wrong, generator.integers(0, 19, truth.shape), truth)
        prediction = prediction.astype(np.uint8)
        submission.write(pair.name, prediction)
        counts = count_image(truth, prediction, np.ones(truth.shape, np.float32), 19)
        total = counts if total is None else total + counts
    record = full_record(total, STREETS.classes.names, STREETS.classes.categories)
    official = official_scores(streets_root, tmp_path / "labels", tmp_path / "export")
    assert_same(record, official)
    assert 0.1 < record["miou"] < record["category_miou"] < 1
    assert official["classInstScores"]["car"] == official["classInstScores"]["car"]  # a number


def test_evaluate_agrees_with_cityscapesscripts(
    run_dir: Path, streets_root: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels"
    done = run_script(
        "evaluate",
        *("--ckpt_path", run_dir / "checkpoints" / "last.ckpt", "--num_workers", 0),
        *("--data.name", "streets", "--data.root", streets_root),
        *("--output", tmp_path / "out", "--submission", labels),
    )
    assert done.returncode == 0, done.stderr
    assert str(labels) in done.stdout
    names = {pair.name.split("/")[1] for pair in STREETS.pairs(streets_root, "val")}
    assert {p.name for p in labels.iterdir()} == {f"{n}_pred_labelIds.png" for n in names}
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert_same(record, official_scores(streets_root, labels, tmp_path / "export"))


def test_a_split_without_masks_is_written_and_not_scored(
    run_dir: Path, streets_root: Path, tmp_path: Path
) -> None:
    image = next((streets_root / "leftImg8bit" / "val").glob("*/*.png"))
    folder = tmp_path / "data" / "leftImg8bit" / "val" / "bern"
    folder.mkdir(parents=True)
    (folder / "bern_000000_000019_leftImg8bit.png").write_bytes(image.read_bytes())
    done = run_script(
        "evaluate",
        *("--ckpt_path", run_dir / "checkpoints" / "last.ckpt", "--num_workers", 0),
        *("--data.name", "streets", "--data.root", tmp_path / "data"),
        *("--output", tmp_path / "out", "--submission", tmp_path / "labels"),
    )
    assert done.returncode == 0, done.stderr
    assert "no masks to score with" in done.stdout
    assert not (tmp_path / "out").exists()
    (written,) = (tmp_path / "labels").iterdir()
    assert written.name == "bern_000000_000019_pred_labelIds.png"
    labels = cv2.imread(str(written), cv2.IMREAD_UNCHANGED)
    assert labels.shape == (64, 128)
    assert set(np.unique(labels)) <= set(LABEL_IDS.values())


def blank_test_split(root: Path, number: int, odd: tuple[int, int] | None = None) -> Path:
    """Blank images named as the benchmark's, the last of another size."""
    folder = root / "leftImg8bit" / "test" / "berlin"
    folder.mkdir(parents=True)
    size = (1024, 2048)
    first = folder / "berlin_000000_000019_leftImg8bit.png"
    cv2.imwrite(str(first), np.zeros((*size, 3), np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 9])
    for i in range(1, number):
        (folder / f"berlin_{i:06}_000019_leftImg8bit.png").hardlink_to(first)
    if odd is not None:
        other = folder / f"berlin_{number - 1:06}_000019_leftImg8bit.png"
        other.unlink()
        cv2.imwrite(str(other), np.zeros((*odd, 3), np.uint8))
    return root


def test_the_official_number_and_size_pass_and_others_do_not(tmp_path: Path) -> None:
    number, folder = get_dataset("cityscapes").official.counts["test"], tmp_path / "labels"
    complete = Submission(CITYSCAPES, blank_test_split(tmp_path / "a", number), "test", folder)
    assert len(complete.images) == 1525
    assert not complete.has_truth
    with pytest.raises(UserError, match=r"berlin_000000.*1023"):
        complete.write("berlin/berlin_000000_000019", np.zeros((1023, 2048), np.uint8))
    assert not folder.exists()
    with pytest.raises(UserError, match=r"1524 images.* 1525"):
        Submission(CITYSCAPES, blank_test_split(tmp_path / "b", number - 1), "test", folder)
    with pytest.raises(UserError, match=r"berlin_001524.*has 1024x512 pixels.*2048x1024"):
        Submission(
            CITYSCAPES, blank_test_split(tmp_path / "c", number, (512, 1024)), "test", folder
        )


def test_what_is_no_submission(streets_root: Path, camvid_root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="camvid has others"):
        Submission(get_dataset("camvid"), camvid_root, "val", tmp_path / "x")
    with pytest.raises(UserError, match="`split` must be val or test, got train"):
        Submission(STREETS, streets_root, "train", tmp_path / "x")
    with pytest.raises(UserError, match="no streets images for split 'test'"):
        Submission(STREETS, streets_root, "test", tmp_path / "x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "old.png").touch()
    with pytest.raises(UserError, match="full: exists and is not an empty"):
        Submission(STREETS, streets_root, "val", tmp_path / "full")
