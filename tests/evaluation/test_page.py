"""The HTML report, read with a parser and, where there is one, in a browser."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from running import run_script

VOID_TAGS = {"meta", "img", "line", "rect", "circle", "br"}


class Page(HTMLParser):
    """Texts by id and data-key, sources of pictures, and whether tags nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.sources: list[str] = []
        self.open: list[tuple[str, str | None]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = dict(attrs)
        assert not {"href", "srcset"} & given.keys()
        if "src" in given:
            self.sources.append(given["src"])
        if tag not in VOID_TAGS:
            self.open.append((tag, given.get("data-key") or given.get("id")))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID_TAGS:
            assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1][1]:
            self.texts[self.open[-1][1]] = data.strip()


@pytest.fixture(scope="module")
def results(run_dir: Path, streets_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of an evaluation compared with itself, mirrored."""
    output = tmp_path_factory.mktemp("evaluation")
    ckpt = run_dir / "checkpoints" / "last.ckpt"
    done = run_script(
        "evaluate",
        *("--ckpt_path", ckpt, "--compare", ckpt, "--data.name", "streets"),
        *("--data.root", streets_root, "--output", output, "--flip", "--window", 48),
    )
    assert done.returncode == 0, done.stderr
    assert "p = 1.0000" in " ".join(done.stdout.split())
    return output


def expected_texts(results: Path) -> dict[str, str]:
    record = json.loads((results / "evaluation.json").read_text())
    texts = {f"iou/{name}": value for name, value in record["iou"].items()}
    texts |= {f"boundary_f/{name}": value for name, value in record["boundary_f"].items()}
    texts |= {key: record[key] for key in ("miou", "pixel_accuracy", "calibration_error")}
    return {key: "-" if x is None else f"{100 * x:.2f}" for key, x in texts.items()}


def test_the_page_stands_alone_and_has_the_records_values(results: Path) -> None:
    html = (results / "report.html").read_text(encoding="utf-8")
    page = Page(html)
    assert page.open == []
    for key, text in expected_texts(results).items():
        assert page.texts[key] == text
    assert page.texts["difference"] == "+0.00"
    assert not re.findall(r"https?://|url\(|@import|<script|<link", html)
    assert len(page.sources) == 6 * 4  # three best and worst, each as four pictures
    for source in page.sources:
        assert source.startswith("data:image/")
    sizes = json.loads((results / "evaluation.json").read_text())["objects"]
    assert all(f"{entry['objects']} objects" in html for entry in sizes.values())


def test_settings_and_tables_say_how_it_was_made(results: Path) -> None:
    record = json.loads((results / "evaluation.json").read_text())
    assert record["inference"]["window"] == [48, 48]
    assert record["inference"]["flip"] is True
    assert set(record["seconds"]) == {"loading", "network", "metrics"}
    assert record["versions"]["torch"]
    low, high = record["miou_interval"]
    assert low <= record["miou"] <= high
    markdown = (results / "evaluation.md").read_text()
    assert f"| road | {100 * record['iou']['road']:.2f} |" in markdown
    assert len((results / "images.csv").read_text().splitlines()) == 1 + record["images"]
    comparison = json.loads((results / "comparison.json").read_text())
    assert comparison["difference"] == 0
    assert comparison["interval"] == [0, 0]


@pytest.mark.parametrize("width", [1200, 390])
def test_a_browser_shows_it(results: Path, width: int, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium")
    command = [
        browser,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--hide-scrollbars",
    ]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1500"]
    address = (results / "report.html").as_uri()
    dumped = subprocess.run([*command, "--dump-dom", address], capture_output=True, text=True)
    texts = Page(dumped.stdout).texts
    for key, text in expected_texts(results).items():
        assert texts[key] == text
    shot = tmp_path / "shot.png"
    subprocess.run([*command, f"--screenshot={shot}", address], capture_output=True, check=True)
    pixels = cv2.imread(str(shot))
    assert pixels.shape[1] == width
    # Nothing reaches into the margin, and what lies between is more than a blank page.
    assert (pixels[:, -4:] == pixels[0, -1]).all()
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
