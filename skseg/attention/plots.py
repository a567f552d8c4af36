"""Pictures of what SK units attend to."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from skseg.attention.observe import Whole
from skseg.nn import Unit
from skseg.types import VOID
from skseg.viz import Colors, class_patches, colorize

_BLUES = ("#9ecae1", "#4292c6", "#08306b")
_BRANCHES = ("#fdbf6f", "#1f78b4", "#6a3d9a", "#33a02c", "#b15928")


def plot_growth(record: dict[str, Any]) -> Figure:
    """Draw how the largest kernel's weight changes, and in what share of channels it rises.

    Args:
        record: a result of `skseg.attention.claims.attention_record`.
    """
    units, growth = record["units"], record["growth"]
    figure = Figure(figsize=(_width(units), 6.2), dpi=100, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    x = np.arange(len(units))
    value = growth["largest_change"]["value"]
    change = {
        key: 100 * np.broadcast_to(_array(growth["largest_change"][key]), np.shape(value))
        for key in ("value", "low", "high")
    }
    top.axhline(0, color="grey", linewidth=1, linestyle="--")
    for i, factor in list(enumerate(growth["factors"]))[1:]:
        value, low, high = (change[key][i] for key in ("value", "low", "high"))
        top.errorbar(
            x + 0.15 * (i - 2), value, _bars(value, low, high),
            fmt="o", color=_BLUES[i % len(_BLUES)], markersize=5, capsize=2, label=f"{factor:g}x",
        )  # fmt: skip
    if growth["blur"]:
        value, low, high = _by_unit(growth["blur"], units, "rise")
        top.errorbar(
            x + 0.15, value, _bars(value, low, high),
            fmt="x", color="#d95f02", markersize=5, capsize=2, label="blurred only",
        )  # fmt: skip
    top.set_ylabel("change of the largest kernel's\nweight over 1x, points")
    top.legend(fontsize=9, frameon=False, loc="best")
    share, low, high = _by_unit(growth, units, "rising_channels")
    bottom.axhline(50, color="grey", linewidth=1, linestyle="--")
    bottom.bar(x, share - 50, bottom=50, color=["#4292c6" if s > 50 else "#bbbbbb" for s in share])
    bottom.errorbar(x, share, _bars(share, low, high), fmt="none", ecolor="black", capsize=2)
    bottom.set_ylim(0, 100)
    bottom.set_ylabel(f"channels in which it rises, %\n({growth['factors'][-1]:g}x over 1x)")
    weights = [f"{100 * w:.0f} %" for w in growth["largest"]["value"][0]]
    _name_units(bottom, units, weights)
    bottom.set_xlabel("unit, and the largest kernel's weight at 1x", fontsize=9)
    _part_stages(top, units)
    _part_stages(bottom, units)
    how = "drawn again, larger" if record["growth_by"] == "redraw" else "cropped and resized"
    figure.suptitle(
        f"{growth['objects']} objects on {growth['images']} images, {how}; {record['interval']}",
        fontsize=9,
    )
    return figure


def plot_groups(record: dict[str, Any], key: str, title: str) -> Figure:
    """Draw the larger kernel's weight by class or by size of object, coloured by unit.

    A colour is how far a weight is from its unit's mean, on one scale for all units that is not
    narrower than a point, so that noise is pale.

    Args:
        record: a result of `skseg.attention.claims.attention_record`.
        key: "by_class" or "by_size".
        title: of the picture.
    """
    units, groups = record["units"], record[key]
    largest = [int(np.argmax(unit["spans"])) for unit in units]
    table = np.array(
        [
            [group["weights"]["value"][u][branch] for u, branch in enumerate(largest)]
            for group in groups.values()
        ]
    )
    centred = 100 * (table - table.mean(0))
    limit = max(1.0, float(np.abs(centred).max()))
    size = (_width(units) + 1, 1.6 + 0.3 * len(groups))
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(centred, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    for row, column in np.ndindex(*table.shape):
        dark = abs(centred[row, column]) > 0.6 * limit
        axes.text(
            column, row, f"{100 * table[row, column]:.1f}", ha="center", va="center",
            fontsize=8, color="white" if dark else "black",
        )  # fmt: skip
    axes.set_yticks(
        range(len(groups)),
        [f"{name} ({group['objects']})" for name, group in groups.items()],
        fontsize=9,
    )
    _name_units(axes, units)
    figure.colorbar(shown, ax=axes, label="over the unit's mean, points", pad=0.01)
    axes.set_title(title, fontsize=9)
    return figure


def plot_images(
    images: Sequence[Whole], units: Sequence[Unit], class_names: Sequence[str], colors: Colors
) -> Figure:
    """Draw image, prediction and truth of each, and the branches' weights in each stage.

    Args:
        images: one or more, in rows.
        units: of the network.
        class_names: K names.
        colors: K RGB colours, 0 to 255.
    """
    height, width = images[0].sample.truth.shape
    stages = list(dict.fromkeys(unit.stage for unit in units))
    row = max(3.2 * height / width, 0.28 * len(stages) + 0.3)
    figure = Figure(figsize=(13, len(images) * (row + 0.25) + 0.9), dpi=80, layout="constrained")
    axes = figure.subplots(len(images), 4, squeeze=False)
    for line, (sample, weights) in zip(axes, images, strict=True):
        titled = {
            sample.name: sample.image,
            "prediction": colorize(sample.prediction, colors),
            "truth": colorize(sample.truth, colors),
        }
        for axis, (title, picture) in zip(line, titled.items(), strict=False):
            axis.imshow(picture, interpolation="nearest")
            axis.set_title(title, fontsize=9)
            axis.set_axis_off()
        _bar_stages(line[3], stages, stage_weights(weights, units))
    seen = {int(i) for s, _ in images for part in (s.truth, s.prediction) for i in np.unique(part)}
    patches = class_patches(sorted(seen - {VOID}), class_names, colors)
    kernels = [
        Patch(color=_BRANCHES[i % len(_BRANCHES)], label=name)
        for i, name in enumerate(branch_names(units))
    ]
    figure.legend(
        handles=[*kernels, *patches], loc="outside lower center", ncols=9, fontsize=9, frameon=False
    )
    return figure


def stage_weights(
    weights: np.ndarray[Any, np.dtype[np.float32]], units: Sequence[Unit]
) -> dict[str, list[float]]:
    """Average the branches' weights [U, M] over the units of each stage."""
    stages = dict.fromkeys(unit.stage for unit in units)
    return {
        stage: weights[[unit.stage == stage for unit in units]].mean(0).tolist() for stage in stages
    }


def branch_names(units: Sequence[Unit]) -> list[str]:
    """Name the branches by the spans of their kernels, where they vary from the first to last."""
    names = []
    for spans in zip(*(unit.spans for unit in units), strict=True):
        low, high = min(spans), max(spans)
        names.append(f"{low}x{low}" + (f" to {high}x{high}" if high > low else ""))
    return names


def _bar_stages(axis: Axes, stages: list[str], weights: dict[str, list[float]]) -> None:
    """One stacked bar a stage, the first on top; the preferred kernel's share is written in it."""
    for y, stage in enumerate(stages):
        shares = weights[stage]
        preferred = int(np.argmax(shares))
        for i, share in enumerate(shares):
            left = sum(shares[:i])
            axis.barh(y, share, left=left, color=_BRANCHES[i % len(_BRANCHES)], height=0.75)
            if i == preferred:
                axis.text(
                    left + share / 2,
                    y,
                    f"{100 * share:.0f} %",
                    ha="center",
                    va="center",
                    fontsize=9,
                )
    axis.axvline(0.5, color="black", linewidth=0.6, linestyle=":")
    axis.set_yticks(range(len(stages)), [_short(stage) for stage in stages], fontsize=9)
    axis.set_xlim(0, 1)
    axis.set_ylim(len(stages) - 0.5, -0.5)
    axis.set_xticks([])
    axis.set_title("weights by stage", fontsize=9)
    for side in axis.spines.values():
        side.set_visible(False)


def _width(units: Sequence[dict[str, Any]]) -> float:
    return 4.5 + 0.55 * len(units)  # inches


def _by_unit(change: dict[str, Any], units: Sequence[dict[str, Any]], what: str) -> Any:
    """Value, low and high end of each unit, in percent."""
    rows = [change["by_unit"][unit["name"]][what] for unit in units]
    return (100 * _array([row[key] for row in rows]) for key in ("value", "low", "high"))


def _name_units(
    axis: Axes, units: Sequence[dict[str, Any]], more: Sequence[str] | None = None
) -> None:
    names = [_short(unit["name"]) for unit in units]
    if more is not None:
        names = [f"{name}, {text}" for name, text in zip(names, more, strict=True)]
    axis.set_xticks(range(len(units)), names, fontsize=8, rotation=40, ha="right")


def _part_stages(axis: Axes, units: Sequence[dict[str, Any]]) -> None:
    for i in range(1, len(units)):
        if units[i]["stage"] != units[i - 1]["stage"]:
            axis.axvline(i - 0.5, color="lightgrey", linewidth=1)


def _short(name: str) -> str:
    """A unit's or a stage's name without what all units share."""
    return name.removeprefix("encoder.").removeprefix("model.").removesuffix(".conv2")


def _array(values: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(values, dtype=np.float64)  # None, an unknown end, becomes NaN


def _bars(value: Any, low: Any, high: Any) -> Any:
    return np.nan_to_num(np.stack([value - low, high - value])).clip(0)
