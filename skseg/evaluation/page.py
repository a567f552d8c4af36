"""The HTML page of an evaluation: one file that needs no other."""

import base64
from collections.abc import Sequence
from typing import TypedDict

import cv2
import jinja2

from skseg.evaluation.evaluate import Evaluation, Ranked
from skseg.metrics import ComparisonRecord, EvaluationRecord
from skseg.metrics.tables import COLUMNS, difference, percent
from skseg.types import Image
from skseg.viz import Colors, colorize, paint_errors, shrink

_LONGEST = 640  # pixels of a side of a picture


def render_page(
    evaluation: Evaluation,
    class_names: Sequence[str],
    colors: Colors,
    comparison: ComparisonRecord | None = None,
) -> str:
    """Render an evaluation as HTML that contains its style and pictures.

    Args:
        evaluation: The results.
        class_names: K names.
        colors: An RGB color for each class.
        comparison: A result of `skseg.evaluation.evaluate.compare` whose second model this is.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("skseg.evaluation"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["percent"] = percent
    record = evaluation.record
    seconds = record["seconds"]
    return environment.get_template("report.html").render(
        r=record,
        source=evaluation.source,
        columns=COLUMNS,
        css_colors={
            name: f"rgb({color[0]} {color[1]} {color[2]})"
            for name, color in zip(class_names, colors, strict=True)
        },
        truth_share=_truth_share(record, class_names),
        confusion=_shares_of_truth(record["confusion"]),
        time_share={part: value / sum(seconds.values()) for part, value in seconds.items()},
        groups={
            "Best images": [_show(ranked, colors) for ranked in evaluation.best],
            "Worst images": [_show(ranked, colors) for ranked in evaluation.worst],
        },
        comparison=comparison,
        difference=difference,
    )


def _truth_share(record: EvaluationRecord, class_names: Sequence[str]) -> dict[str, float]:
    rows = [sum(row) for row in record["confusion"]]
    return {name: row / max(sum(rows), 1) for name, row in zip(class_names, rows, strict=True)}


def _shares_of_truth(confusion: list[list[int]]) -> list[list[float]]:
    return [[count / max(sum(row), 1) for count in row] for row in confusion]


class _Shot(TypedDict):
    """An image as the page shows it, with its pictures by title as data URIs."""

    name: str
    miou: float
    pictures: dict[str, str]


def _show(ranked: Ranked, colors: Colors) -> _Shot:
    sample = shrink(ranked.sample, _LONGEST)
    return {
        "name": sample.name,
        "miou": ranked.miou,
        "pictures": {
            "image": _data_uri(sample.image, "jpeg"),
            "truth": _data_uri(colorize(sample.truth, colors), "png"),
            "prediction": _data_uri(colorize(sample.prediction, colors), "png"),
            "errors": _data_uri(paint_errors(sample), "png"),
        },
    }


def _data_uri(pixels: Image, kind: str) -> str:
    is_written, data = cv2.imencode(f".{kind}", pixels[..., ::-1])
    assert is_written
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}"
