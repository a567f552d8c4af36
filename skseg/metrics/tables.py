"""Records of scores as tables for the terminal."""

import re
from typing import Literal, cast

from rich.table import Table
from rich.text import Text

from skseg.metrics.records import (
    ByClass,
    ComparisonRecord,
    EvaluationRecord,
    PixelRecord,
    Score,
)

ClassScore = Literal["iou", "precision", "recall", "f1", "boundary_iou", "boundary_f"]

COLUMNS: dict[ClassScore, str] = {
    "iou": "IoU",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "boundary_iou": "boundary IoU",
    "boundary_f": "boundary F",
}
"""The scores by class of a record, and the titles of their columns."""

_MARKDOWN = re.compile(r"[\\`*<\[\]|~$&#!]|\b_|_\b")  # not a `_` inside a word


def iou_table(record: PixelRecord, title: str) -> Table:
    """Tabulate a record of scores by class, in percent; a dash where undefined.

    Args:
        record: A result of `skseg.metrics.pixel_record` or `full_record`, or the record of an
            evaluation.
        title: Title of the table.
    """
    found = cast(EvaluationRecord, record)  # of which a smaller record lacks some keys
    columns: dict[ClassScore, ByClass] = {key: found[key] for key in COLUMNS if key in found}
    means: dict[ClassScore, Score] = {
        "iou": found["miou"],
        "recall": found["mean_accuracy"],
        "boundary_iou": found.get("boundary_miou"),
        "boundary_f": found.get("boundary_mean_f"),
    }
    table = Table(title=Text(title, "table.title"))  # a `str` would be read as rich's markup
    table.add_column("class", overflow="fold")
    for key in columns:
        table.add_column(f"{COLUMNS[key]} %", justify="right")
    for name in found["iou"]:
        table.add_row(Text(name), *(percent(values[name]) for values in columns.values()))
    table.add_section()
    cells = (percent(means[key]) if key in means else "" for key in columns)
    table.add_row("mean", *cells, style="bold")
    table.caption = f"pixel accuracy {percent(found['pixel_accuracy'])} %"
    if interval := found.get("miou_interval"):
        low, high = map(percent, interval)
        table.caption += f", 95 % interval of mIoU {low} to {high}"
    return table


def comparison_table(comparison: ComparisonRecord) -> Table:
    """Tabulate two models' IoU by class, in percent, with the interval of the difference.

    Args:
        comparison: A result of `skseg.evaluation.evaluate.compare`.
    """
    table = Table(title="IoU %")
    table.add_column("class", overflow="fold")
    for name in ("other", "this", "difference"):
        table.add_column(name, justify="right")
    for name, (first, second) in comparison["iou"].items():
        table.add_row(Text(name), percent(first), percent(second), difference(first, second))
    table.add_section()
    first, second = comparison["miou"]
    means = (percent(first), percent(second), difference(first, second))
    table.add_row("mean", *means, style="bold")
    if comparison["interval"]:
        low, high = comparison["interval"]
        table.caption = (
            f"95 % interval of the difference {100 * low:+.2f} to {100 * high:+.2f}, "
            f"p = {comparison['p_value']:.4f} (paired bootstrap over images)"
        )
    return table


def markdown_text(text: str) -> str:
    r"""Escape text such that a Markdown table shows it as it is.

    Example:
        >>> print(markdown_text("traffic light"), markdown_text("a|b"), markdown_text("<i>"))
        traffic light a\|b \<i>
    """
    return _MARKDOWN.sub(r"\\\g<0>", text)


def percent(value: float | None) -> str:
    """Format a fraction in percent, a dash where undefined.

    Example:
        >>> percent(0.12345), percent(None)
        ('12.35', '-')
    """
    return "-" if value is None else f"{100 * value:.2f}"


def difference(first: float | None, second: float | None) -> str:
    """Format second minus first in percentage points, a dash where undefined.

    Example:
        >>> difference(0.5, 0.475), difference(None, 0.5)
        ('-2.50', '-')
    """
    return "-" if first is None or second is None else f"{100 * (second - first):+.2f}"
