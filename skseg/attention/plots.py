"""Figures of what SK units attend to."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from skseg.attention.observe import ImageAttention
from skseg.attention.records import AttentionRecord, RiseRecord, UnitRecord
from skseg.metrics.estimates import EstimateRecord
from skseg.nn import Unit
from skseg.types import VOID
from skseg.viz import Colors, class_patches, colorize, figure_text

_Array = NDArray[np.float64]

_BLUES = ("#9ecae1", "#4292c6", "#08306b")
_BRANCHES = ("#fdbf6f", "#1f78b4", "#6a3d9a", "#33a02c", "#b15928")


def plot_growth(record: AttentionRecord) -> Figure:
    """Plot how the largest kernel's weight changes, and in what share of channels it rises."""
    units, growth = record["units"], record["growth"]
    figure = Figure(figsize=(_width(units), 6.2), dpi=100, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    x = np.arange(len(units))
    shape = np.shape(growth["largest_change"]["value"])  # [F, U]
    change = [np.broadcast_to(end, shape) for end in _percent(growth["largest_change"])]
    top.axhline(0, color="gray", linewidth=1, linestyle="--")
    for i, factor in list(enumerate(growth["factors"]))[1:]:
        value, low, high = (end[i] for end in change)
        top.errorbar(
            x + 0.15 * (i - 2), value, _error_bars(value, low, high),
            fmt="o", color=_BLUES[i % len(_BLUES)], markersize=5, capsize=2, label=f"{factor:g}x",
        )  # fmt: skip
    if growth["blur"]:
        value, low, high = _by_unit(growth["blur"], units, "rise")
        top.errorbar(
            x + 0.15, value, _error_bars(value, low, high),
            fmt="x", color="#d95f02", markersize=5, capsize=2, label="blurred only",
        )  # fmt: skip
    top.set_ylabel("change of the largest kernel's\nweight from 1x, points")
    top.legend(fontsize=9, frameon=False, loc="best")
    share, low, high = _by_unit(growth, units, "rising_channels")
    bottom.axhline(50, color="gray", linewidth=1, linestyle="--")
    bottom.bar(x, share - 50, bottom=50, color=["#4292c6" if s > 50 else "#bbbbbb" for s in share])
    bottom.errorbar(x, share, _error_bars(share, low, high), fmt="none", ecolor="black", capsize=2)
    bottom.set_ylim(0, 100)
    bottom.set_ylabel(f"channels in which it rises, %\n(from 1x to {growth['factors'][-1]:g}x)")
    weights = [f"{100 * w:.0f} %" for w in growth["largest"]["value"][0]]
    _name_units(bottom, units, weights)
    bottom.set_xlabel("unit, and the largest kernel's weight at 1x", fontsize=9)
    _separate_stages(top, units)
    _separate_stages(bottom, units)
    how = "redrawn in larger sizes" if record["growth_by"] == "redraw" else "cropped and resized"
    figure.suptitle(
        f"{growth['objects']} objects on {growth['images']} images, {how}; {record['interval']}",
        fontsize=9,
    )
    return figure


def plot_groups(record: AttentionRecord, key: Literal["by_class", "by_size"], title: str) -> Figure:
    """Plot the largest kernel's weight by class or by size of object as a heat map.

    Colors show a weight's difference from its unit's mean. All units share one color scale, which
    spans at least one point to each side, so that noise stays pale.

    Args:
        record: The results.
        key: Which groups to show.
        title: Title of the figure.
    """
    units, groups = record["units"], record[key]
    largest = [int(np.argmax(unit["spans"])) for unit in units]
    table = np.array(
        [
            [group["weights"]["value"][u][branch] for u, branch in enumerate(largest)]
            for group in groups.values()
        ]
    )
    centered = 100 * (table - table.mean(0))
    limit = max(1.0, float(np.abs(centered).max()))
    size = (_width(units) + 1, 1.6 + 0.3 * len(groups))
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(centered, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    for row, column in np.ndindex(*table.shape):
        dark = abs(centered[row, column]) > 0.6 * limit
        axes.text(
            column, row, f"{100 * table[row, column]:.1f}", ha="center", va="center",
            fontsize=8, color="white" if dark else "black",
        )  # fmt: skip
    axes.set_yticks(
        range(len(groups)),
        [f"{figure_text(name)} ({group['objects']})" for name, group in groups.items()],
        fontsize=9,
    )
    _name_units(axes, units)
    figure.colorbar(shown, ax=axes, label="difference from the unit's mean, points", pad=0.01)
    axes.set_title(title, fontsize=9)
    return figure


def plot_images(
    images: Sequence[ImageAttention],
    units: Sequence[Unit],
    class_names: Sequence[str],
    colors: Colors,
) -> Figure:
    """Show images, predictions and ground truth with the branches' weights in each stage.

    Args:
        images: One or more, shown in rows.
        units: Units of the network.
        class_names: K names.
        colors: K RGB colors, 0 to 255.
    """
    height, width = images[0].sample.truth.shape
    stages = list(dict.fromkeys(unit.stage for unit in units))
    row = max(3.2 * min(height / width, 3.0), 0.28 * len(stages) + 0.3)
    figure = Figure(figsize=(13, len(images) * (row + 0.25) + 0.9), dpi=80, layout="constrained")
    axes = figure.subplots(len(images), 4, squeeze=False)
    for line, (sample, weights) in zip(axes, images, strict=True):
        titled = (
            (figure_text(sample.name), sample.image),
            ("prediction", colorize(sample.prediction, colors)),
            ("truth", colorize(sample.truth, colors)),
        )
        for axis, (title, picture) in zip(line, titled, strict=False):
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


def stage_weights(weights: NDArray[np.float32], units: Sequence[Unit]) -> dict[str, list[float]]:
    """Return the branches' weights [U, M] averaged over the units of each stage: M numbers each.

    Example:
        >>> units = [Unit(f"layer1.{i}", "layer1", (3, 5), 64) for i in range(2)]
        >>> stage_weights(np.array([[0.25, 0.75], [0.75, 0.25]], np.float32), units)
        {'layer1': [0.5, 0.5]}
    """
    stages = dict.fromkeys(unit.stage for unit in units)
    return {
        stage: weights[[unit.stage == stage for unit in units]].mean(0).tolist() for stage in stages
    }


def branch_names(units: Sequence[Unit]) -> list[str]:
    """Name each branch by the span of its kernel, or by the smallest and largest over all units.

    Example:
        >>> units = [Unit("layer1.0", "layer1", (3, 5), 64), Unit("layer2.0", "layer2", (3, 7), 64)]
        >>> branch_names(units)
        ['3x3', '5x5 to 7x7']
    """
    names = []
    for spans in zip(*(unit.spans for unit in units), strict=True):
        low, high = min(spans), max(spans)
        names.append(f"{low}x{low}" + (f" to {high}x{high}" if high > low else ""))
    return names


def _bar_stages(axis: Axes, stages: list[str], weights: dict[str, list[float]]) -> None:
    """Draw one stacked bar per stage, the first on top, labeled with the largest weight."""
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


def _width(units: Sequence[UnitRecord]) -> float:
    return 4.5 + 0.55 * len(units)  # inches


def _percent(estimate: EstimateRecord) -> tuple[_Array, _Array, _Array]:
    """Return value, low and high end in percent; an end that is None becomes NaN."""
    value, low, high = (
        100 * np.asarray(end, dtype=np.float64)
        for end in (estimate["value"], estimate["low"], estimate["high"])
    )
    return value, low, high


def _by_unit(
    change: RiseRecord, units: Sequence[UnitRecord], key: Literal["rise", "rising_channels"]
) -> tuple[_Array, _Array, _Array]:
    """Return value, low and high end of each unit [U], in percent."""
    ends = [_percent(change["by_unit"][unit["name"]][key]) for unit in units]
    value, low, high = np.transpose(ends)
    return value, low, high


def _name_units(axis: Axes, units: Sequence[UnitRecord], more: Sequence[str] | None = None) -> None:
    names = [_short(unit["name"]) for unit in units]
    if more is not None:
        names = [f"{name}, {text}" for name, text in zip(names, more, strict=True)]
    axis.set_xticks(range(len(units)), names, fontsize=8, rotation=40, ha="right")


def _separate_stages(axis: Axes, units: Sequence[UnitRecord]) -> None:
    for i in range(1, len(units)):
        if units[i]["stage"] != units[i - 1]["stage"]:
            axis.axvline(i - 0.5, color="lightgray", linewidth=1)


def _short(name: str) -> str:
    """Return the name of a unit or stage without the parts that all units share."""
    return name.removeprefix("encoder.").removeprefix("model.").removesuffix(".conv2")


def _error_bars(value: _Array, low: _Array, high: _Array) -> _Array:
    """Return the distances [2, U] to both ends of the intervals, 0 where there is none."""
    return np.nan_to_num(np.stack([value - low, high - value])).clip(0)
