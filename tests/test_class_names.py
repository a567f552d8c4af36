"""A class name, and a path, is only text, wherever it goes."""

import csv
import io
import itertools
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import rich
import yaml
from markdown_it import MarkdownIt
from PIL import Image
from running import run_script
from wandb_file import read_run

from skseg import SegmentationTask, UserError
from skseg.data import get_dataset
from skseg.metrics.tables import COLUMNS
from skseg.progress import track

NAMES = [
    *(
        "[/]",
        "[road]",
        "[bold]x",
        ":smile:",
        "$5 $x^$",
        "\\frac",
        "a|b",
        "<script>x</script>",
        "&lt;",
    ),
    *("=1+1", "dataloader_idx_0", "a/b", "a.b", "*b*", "_c_", "`d`", "50%", "{x}", "Road", "road"),
    *("\U0001f697", "שלום", "道路", "n" * 200),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training and two validation images with every class, in the folder `data [b]`."""
    root = tmp_path_factory.mktemp("names") / "data [b]"
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for i in range(2):
            order = generator.permutation(len(NAMES)).reshape(4, 6).astype(np.uint8)
            mask = np.kron(order, np.ones((16, 16), np.uint8))
            image = np.stack([mask * 10, 255 - mask * 10, mask * 5], axis=-1)
            Image.fromarray(image).save(root / split / "images" / f"{i}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{i}.png")
    content = yaml.safe_dump({"names": NAMES}, allow_unicode=True)
    (root / "classes.yaml").write_text(content, encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "exp [a]"
    done = run_script(
        *("fit", "--config", "configs/folder.yaml", "--data.root", root, "--run_dir", run),
        *("--data.batch_size", 2, "--data.crop_size", "[64,64]", "--data.num_workers", 0),
        *("--model.encoder_name", "sknet_tiny", "--model.encoder_weights", "null"),
        *("--trainer.max_epochs", 1, "--trainer.check_val_every_n_epoch", 1),
    )
    assert done.returncode == 0, done.stderr
    (run / "stdout.txt").write_text(done.stdout, encoding="utf-8")
    assert "cannot be recorded" not in done.stderr, done.stderr
    return run


def first_cells(printed: str) -> str:
    """The first column of a printed table; a name that takes several lines in one piece."""
    return "".join(line.split("│")[1].strip() for line in printed.splitlines() if "│" in line)


def test_fit_logs_and_prints_them(run: Path) -> None:
    printed = (run / "stdout.txt").read_text(encoding="utf-8")
    assert f"run folder {run}\n" in printed
    cells = first_cells(printed)
    assert cells.endswith("".join(NAMES) + "mean")
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        keys = next(csv.reader(file))
    assert {key for key in keys if key.startswith("val/iou/")} == {f"val/iou/{n}" for n in NAMES}


def test_wandb_has_them(run: Path) -> None:
    history = read_run(run)["history"]
    (scored,) = [row for row in history if "val/miou" in row]
    assert {f"val/iou/{name}" for name in NAMES} <= scored.keys()
    (shown,) = [row for row in history if "val/classes.path" in row]
    (files,) = run.glob("wandb/offline-run-*/files")
    table = json.loads((files / shown["val/classes.path"]).read_text(encoding="utf-8"))
    assert [row[0] for row in table["data"]] == NAMES


class Texts(HTMLParser):
    """The texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_evaluate_writes_and_prints_them(run: Path) -> None:
    done = run_script("evaluate", run, "--compare", run)
    assert done.returncode == 0, done.stderr
    assert "".join(NAMES) in first_cells(done.stdout)
    folder = run / "evaluation-val"
    assert f"report     {folder / 'report.html'}\n" in done.stdout
    record = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert list(record["iou"]) == NAMES
    with (folder / "evaluation.csv").open(newline="", encoding="utf-8") as file:
        assert [row["class"] for row in csv.DictReader(file)] == NAMES
    page = Texts((folder / "report.html").read_text(encoding="utf-8"))
    assert set(NAMES) <= set(page.texts)
    assert "script" not in page.tags
    markdown = (folder / "evaluation.md").read_text(encoding="utf-8")
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown)
    after = [b for a, b in itertools.pairwise(tokens) if a.type == "td_open"]
    cells = ["".join(part.content for part in token.children) for token in after]
    assert cells[:: 1 + len(COLUMNS)] == NAMES


def test_check_data_prints_them(root: Path) -> None:
    done = run_script("check_data", "--data.name", "folder", "--data.root", root)
    assert "Traceback" not in done.stderr
    assert "".join(NAMES[:-1]) in first_cells(done.stdout)


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\tb", "\x1b[1m", "\ud800", "a\u2028b", "road"])
def test_names_that_cannot_be_printed_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "train" / "images").mkdir(parents=True)
    # JSON is YAML, with any character escaped.
    (tmp_path / "classes.yaml").write_text(json.dumps({"names": ["road", name]}))
    if name != "\ud800":  # which a data set replaces
        with pytest.raises(UserError) as caught:
            get_dataset("folder", tmp_path)
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(UserError, match=r"^class name "):
        SegmentationTask(["road", name], [(0, 0, 0)] * 2, (0.5,) * 3, (0.5,) * 3,
                         encoder_name="sknet_tiny")  # fmt: skip


def test_a_progress_bar_of_any_name() -> None:
    stream, console = io.StringIO(), rich.get_console()
    before = dict(vars(console))
    try:
        rich.reconfigure(file=stream, force_terminal=True, width=80)
        assert list(track([1], "data [/] val")) == [1]
    finally:
        vars(console).update(before)
    assert "data [/] val" in stream.getvalue()
