"""Figures of a study."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from skseg.study.matrix import Row, Study
from skseg.study.records import DifferenceRecord
from skseg.study.summary import compare_parts, scores_by_seed


def plot_arms(study: Study, rows: Sequence[Row]) -> Figure:
    """Plot each run's mIoU by arm, with lines between equal seeds of the primary pair."""
    ran = {row["arm"] for row in rows}
    order = [*study.primary, *(arm for arm in study.arms if arm not in study.primary)]
    order = [arm for arm in order if arm in ran]
    figure = Figure(figsize=(1.6 + 1.0 * len(order), 3.6 * len(study.decoders)), dpi=100)
    figure.set_layout_engine("constrained")
    axes = figure.subplots(len(study.decoders), 1, squeeze=False)[:, 0]
    for axis, decoder in zip(axes, study.decoders, strict=True):
        for place, arm in enumerate(order):
            values = scores_by_seed(rows, arm, decoder)
            color = "tab:blue" if arm in study.primary else "tab:gray"
            axis.plot(
                [place] * len(values), list(values.values()), "o", color=color, alpha=0.6, ms=5
            )
            if values:
                mean = fmean(values.values())
                axis.hlines(mean, place - 0.25, place + 0.25, color="black", lw=2)
        pair = [scores_by_seed(rows, arm, decoder) for arm in study.primary]
        for seed in set.intersection(*map(set, pair)) if pair else ():  # that both arms have
            axis.plot([0, 1], [found[seed] for found in pair], color="tab:blue", lw=0.6, alpha=0.4)
        axis.set_xticks(range(len(order)), order, rotation=20, ha="right")
        axis.set_xlim(-0.6, len(order) - 0.4)
        axis.set_ylabel("mIoU, %")
        axis.set_title(f"{study.data['name']} {study.data['split']}, {decoder}", fontsize=10)
        axis.grid(axis="y", alpha=0.3)
    return figure


def plot_differences(study: Study, rows: Sequence[Row]) -> Figure:
    """Plot the detailed pair's difference by class and by size of object, with 95 % intervals."""
    titles = {"iou/": "by class, IoU", "size/": "by size of object, mIoU"}
    figure = Figure(figsize=(10, 4.6 * len(study.decoders)), dpi=100, layout="constrained")
    parts = figure.subfigures(len(study.decoders), 1, squeeze=False)[:, 0]
    for part, decoder in zip(parts, study.decoders, strict=True):
        part.suptitle(f"{' - '.join(study.pair)}, {decoder}", fontsize=11)
        groups = {title: compare_parts(rows, study, decoder, key) for key, title in titles.items()}
        shown = {title: found for title, found in groups.items() if found}
        axes = part.subplots(1, max(1, len(shown)), squeeze=False)[0]
        for axis, (title, found) in zip(axes, shown.items(), strict=False):
            _plot_intervals(axis, found)
            axis.set_title(title, fontsize=10)
            axis.set_xlabel("points, 95 % interval over seeds")
    return figure


def _plot_intervals(axis: Axes, found: Mapping[str, DifferenceRecord]) -> None:
    names = list(found)[::-1]
    for place, name in enumerate(names):
        row = found[name]
        # `compare_parts` leaves out parts with too few pairs for an interval.
        assert row["difference"] is not None
        assert row["interval"] is not None
        axis.hlines(place, *row["interval"], color="tab:blue", lw=2)
        axis.plot([row["difference"]], [place], "o", color="tab:blue", ms=5)
    axis.axvline(0, color="black", lw=0.8)
    axis.set_yticks(range(len(names)), names, parse_math=False)
    axis.grid(axis="x", alpha=0.3)
