"""What a study shows, in numbers, words and figures, from its rows alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from skseg.study.matrix import Row, Study, check_rows, read_rows, read_study
from skseg.study.statistics import (
    Comparison,
    compare,
    detectable_difference,
    holm,
    pairs_needed,
)

_ALPHA = 0.05
_ARM_SCORES = {
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "boundary_miou": "boundary IoU",
    "boundary_mean_f": "boundary F",
}


def write_reports(configs: Sequence[Path], results: Path) -> list[Path]:
    """Make the reports of all studies that have rows, and an index of them.

    All at once, because their primary tests are corrected for their number (Holm).

    Args:
        configs: the studies' YAML files.
        results: folder with NAME/runs.csv for each, and NAME/attention where `scripts/attention.py`
            has put its results; gets NAME/report.md, NAME/summary.json, NAME/*.png and README.md.

    Returns:
        The reports' paths.

    Raises:
        UserError: a config is not one, or its rows are of another version of it.
    """
    studies: dict[str, tuple[Study, list[Row]]] = {}
    for config in configs:
        table = results / config.stem / "runs.csv"
        if rows := read_rows(table):
            study = read_study(config)
            check_rows(study, rows, table)
            studies[config.stem] = study, rows
    primaries = {
        (name, decoder): _compare(rows, study.primary, decoder)
        for name, (study, rows) in studies.items()
        if study.primary
        for decoder in study.decoders
    }
    complete = {
        key: found.p_value
        for key, found in primaries.items()
        if found.p_value is not None and found.pairs >= studies[key[0]][0].primary_seeds
    }
    adjusted = dict(zip(complete, holm(list(complete.values())), strict=True))
    index = ["# Results of the studies", "", "Made by `python scripts/study.py --report`.", ""]
    written = []
    for name, (study, rows) in studies.items():
        folder = results / name
        p_values = {d: adjusted.get((name, d)) for d in study.decoders}
        summary = summarize(study, rows, p_values, len(complete))
        (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        plot_arms(study, rows).savefig(folder / "arms.png")
        if study.pair:
            plot_differences(study, rows).savefig(folder / "differences.png")
        text = markdown(study, summary) + "\n".join(_attention(folder / "attention"))
        (folder / "report.md").write_text(text, encoding="utf-8")
        written.append(folder / "report.md")
        index += [f"## [{study.question}]({name}/report.md)", ""]
        index += [*summary["conclusions"], ""]
    (results / "README.md").write_text("\n".join(index), encoding="utf-8")
    return written


def scores(rows: Sequence[Row], arm: str, decoder: str, key: str = "miou") -> dict[int, float]:
    """Return an arm's score for each seed, in percent; undefined ones are left out.

    mIoU is over the classes that occur in truth. The benchmark's also counts one that does not, as
    0, in a run that has taken even a pixel for it; such a class is one that another run has
    undefined.
    """
    chosen = [row for row in rows if row["arm"] == arm and row["decoder"] == decoder]
    classes = [k for k in rows[0] if k.startswith("iou/") and all(row.get(k) for row in rows)]
    if key == "miou" and classes:
        return {int(row["seed"]): 100 * fmean(float(row[k]) for k in classes) for row in chosen}
    return {int(row["seed"]): 100 * float(row[key]) for row in chosen if row.get(key)}


def _compare(
    rows: Sequence[Row], pair: Sequence[str], decoder: str, key: str = "miou", level: float = 0.95
) -> Comparison:
    first, second = (scores(rows, arm, decoder, key) for arm in pair)
    return compare(first, second, level)


def summarize(
    study: Study, rows: list[Row], p_values: Mapping[str, float | None], tests: int
) -> dict[str, Any]:
    """Put a study into numbers and words.

    Args:
        study: its config.
        rows: its finished runs.
        p_values: the primary comparison's p-value by decoder, corrected; None while it is
            incomplete.
        tests: number of primary tests that it is corrected for.

    Returns:
        `arms` with mean and deviation of each score, `primary` (None if there is none) and
        `others` as `Comparison`s, `classes`, `sizes` and `boundaries` of the study's `pair`, and
        `conclusions` in words. Scores are in percent, differences in points.
    """
    record: dict[str, Any] = {"question": study.question, "runs": len(rows), "decoders": {}}
    record["hours"] = round(sum(float(row["seconds"]) for row in rows) / 3600, 1)
    conclusions = []
    for decoder in study.decoders:
        arms = {arm: _arm(rows, arm, decoder) for arm in study.arms}
        # Simultaneous intervals: all others cover their true difference with 95 %.
        level = 1 - _ALPHA / max(1, len(study.others))
        others = [(pair, _compare(rows, pair, decoder, level=level)) for pair in study.others]
        primary = _compare(rows, study.primary, decoder) if study.primary else None
        record["decoders"][decoder] = {
            "arms": arms,
            "primary": primary
            and {
                "pair": study.primary,
                **asdict(primary),
                "planned_pairs": study.primary_seeds,
                "p_holm": p_values[decoder],
                "tests": tests,
            },
            "others": [{"pair": pair, **asdict(found)} for pair, found in others],
            "classes": _by(rows, study, decoder, "iou/"),
            "sizes": _by(rows, study, decoder, "size/"),
            "boundaries": {
                key: asdict(_compare(rows, study.pair, decoder, key))
                for key in ("boundary_miou", "boundary_mean_f")
                if study.pair
            },
        }
        if primary:
            conclusions.append(conclude(study, decoder, primary, p_values[decoder], tests))
        else:
            conclusions.append(look(decoder, arms, others))
    record["conclusions"] = conclusions
    return record


def _arm(rows: Sequence[Row], arm: str, decoder: str) -> dict[str, Any]:
    values = {key: list(scores(rows, arm, decoder, key).values()) for key in _ARM_SCORES}
    record: dict[str, Any] = {"seeds": len(values["miou"])}
    record |= {key: fmean(found) if found else None for key, found in values.items()}
    record["deviation"] = stdev(values["miou"]) if len(values["miou"]) > 1 else None
    return record


def _by(rows: Sequence[Row], study: Study, decoder: str, prefix: str) -> dict[str, dict[str, Any]]:
    keys = dict.fromkeys(key for row in rows for key in row if key.startswith(prefix))
    found = {key: _compare(rows, study.pair, decoder, key) for key in keys if study.pair}
    return {key.removeprefix(prefix): asdict(f) for key, f in found.items() if f.pairs}


def conclude(
    study: Study, decoder: str, found: Comparison, p_value: float | None, tests: int
) -> str:
    """Say what the primary comparison shows, and what it cannot."""
    first, second = study.primary
    what = f"{first} against {second} under {decoder}: "
    if found.pairs < study.primary_seeds or found.difference is None or p_value is None:
        so_far = "" if found.difference is None else f", {found.difference:+.2f} points so far"
        return (
            f"{what}{found.pairs} of {study.primary_seeds} planned pairs of seeds are done"
            f"{so_far}. The test is made when all are."
        )
    assert found.interval is not None
    assert found.deviation is not None
    low, high = found.interval
    numbers = (
        f"{found.difference:+.2f} points of mIoU (95 % interval {low:+.2f} to {high:+.2f}, "
        f"{found.pairs} pairs of seeds, paired t-test p = {found.p_value:.2g}"
        + (f", {p_value:.2g} after Holm's correction for {tests} tests" if tests > 1 else "")
        + f"; Wilcoxon p = {found.p_wilcoxon:.2g})"
    )
    least = detectable_difference(found.deviation, found.pairs)
    needed = pairs_needed(1.0, found.deviation)
    spread = (
        f"With this spread between seeds (standard deviation of the difference "
        f"{found.deviation:.2f}), {found.pairs} pairs find a true difference of {least:.2f} points "
        f"with a probability of 80 %; a difference of 1 point takes "
        f"{needed if needed else 'more than 1,000'} pairs."
    )
    if p_value >= _ALPHA:
        verdict = f"no difference shown. {numbers}. Not excluded is what the interval holds."
    elif found.difference > 0:
        verdict = f"{first} is better. {numbers}."
    else:
        verdict = f"{first} is worse. {numbers}."
    return f"{what}{verdict} {spread}"


def look(
    decoder: str,
    arms: Mapping[str, Mapping[str, Any]],
    others: Sequence[tuple[Sequence[str], Comparison]],
) -> str:
    """Say what a study shows that planned no comparison."""
    text = f"Under {decoder} no comparison was planned, so this is to look at, not a test."
    done = {name: arm for name, arm in arms.items() if arm["seeds"]}
    if done:
        best = max(done, key=lambda name: done[name]["miou"])
        text += (
            f" The highest mean mIoU is {best}'s, {done[best]['miou']:.2f} over "
            f"{done[best]['seeds']} seed(s); {len(done)} of {len(arms)} arms have runs."
        )
    apart = [
        f"{first} - {second} ({found.interval[0]:+.2f} to {found.interval[1]:+.2f})"
        for (first, second), found in others
        if found.interval and (found.interval[0] > 0 or found.interval[1] < 0)
    ]
    if others:
        text += " Comparisons whose interval leaves out zero: " + (", ".join(apart) or "none") + "."
    return text


def markdown(study: Study, summary: Mapping[str, Any]) -> str:
    """Write the report of a study."""
    at = f" at {', '.join(f'{s:g}' for s in study.scales)} of its size" * (study.scales != [1.0])
    lines = [f"# {study.question}", ""]
    lines += [
        f"{summary['runs']} runs, {summary['hours']} hours of runs, pauses included. All arms have "
        f"the same schedule, augmentation and seeds (`{study.fit}`); weights are the last epoch's; "
        f"scores are of {study.data['name']}'s {study.data['split']} split{at}, in percent. "
        "What is concluded holds for networks of this size, this schedule and these data.",
        "",
    ]
    for decoder, record in summary["decoders"].items():
        if len(summary["decoders"]) > 1:
            lines += [f"# {decoder}", ""]
        lines += ["## Conclusion", "", *summary["conclusions"], "", "![arms](arms.png)", ""]
        lines += ["## Arms", "", f"| arm | seeds | {' | '.join(_ARM_SCORES.values())} |"]
        lines += ["|---|---:|" + "---:|" * len(_ARM_SCORES)]
        for arm, values in record["arms"].items():
            cells = [_number(values[key]) for key in _ARM_SCORES]
            if values["deviation"] is not None:
                cells[0] += f" ± {values['deviation']:.2f}"
            lines.append(f"| {arm} | {values['seeds']} | {' | '.join(cells)} |")
        lines += ["", "± is the standard deviation over seeds.", ""]
        lines += _others(record["others"])
        if not study.pair:
            continue
        first, second = study.pair
        lines += [
            f"## {first} - {second}, by class, size of object and at boundaries",
            "",
            "Exploratory: each interval covers with 95 % by itself, so of 20 one misses by chance.",
            "",
            "![differences](differences.png)",
            "",
            *_difference_table(record["classes"], "class, IoU"),
            *_difference_table(record["sizes"], "size of object, mIoU"),
            *_difference_table(
                {_ARM_SCORES[key]: found for key, found in record["boundaries"].items()},
                "boundaries, mean over classes",
            ),
        ]
    lines += ["Made by `python scripts/study.py --report` from `runs.csv`.", ""]
    return "\n".join(lines)


def _attention(folder: Path) -> list[str]:
    """Sum up what `scripts/attention.py` found in a study's networks, if it was run."""
    if not (folder / "attention.json").is_file():
        return []
    record = json.loads((folder / "attention.json").read_text(encoding="utf-8"))
    lines = [
        "",
        "## Attention",
        "",
        f"Of {record['networks']} networks on {record['images']} images ({record['interval']}), by "
        "`python scripts/attention.py`; more in [attention](attention).",
        "",
    ]
    for claim in record["claims"].values():
        lines.append(f'- "{claim["claim"]}": {claim["verdict"]}; {claim["numbers"]}.')
    return [*lines, "", "![growth](attention/growth.png)", ""]


def _others(found: Sequence[Mapping[str, Any]]) -> list[str]:
    if not found:
        return []
    level = 100 * found[0]["confidence"]
    lines = ["## Other comparisons", ""]
    lines += [
        f"With few seeds, so with intervals alone: of {level:.1f} % each, so that all "
        f"{len(found)} cover with 95 %.",
        "",
        "| comparison | pairs | difference, points | interval |",
        "|---|---:|---:|---|",
    ]
    for row in found:
        lines.append(f"| {row['pair'][0]} - {row['pair'][1]} | {_difference(row)} |")
    return [*lines, ""]


def _difference_table(found: Mapping[str, Mapping[str, Any]], title: str) -> list[str]:
    lines = [f"| {title} | pairs | difference, points | interval |", "|---|---:|---:|---|"]
    lines += [f"| {name} | {_difference(row)} |" for name, row in found.items()]
    return [*lines, ""]


def _difference(row: Mapping[str, Any]) -> str:
    interval = "-"
    if row["interval"] is not None:
        interval = "{:+.2f} to {:+.2f}".format(*row["interval"])
    value = "-" if row["difference"] is None else f"{row['difference']:+.2f}"
    return f"{row['pairs']} | {value} | {interval}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def plot_arms(study: Study, rows: Sequence[Row]) -> Figure:
    """Draw each run's mIoU by arm, with lines between the equal seeds of a primary pair."""
    figure = Figure(figsize=(1.6 + 1.0 * len(study.arms), 3.6 * len(study.decoders)), dpi=100)
    figure.set_layout_engine("constrained")
    axes = figure.subplots(len(study.decoders), 1, squeeze=False)[:, 0]
    for axis, decoder in zip(axes, study.decoders, strict=True):
        order = [*study.primary, *(arm for arm in study.arms if arm not in study.primary)]
        for place, arm in enumerate(order):
            values = scores(rows, arm, decoder)
            color = "tab:blue" if arm in study.primary else "tab:gray"
            axis.plot(
                [place] * len(values), list(values.values()), "o", color=color, alpha=0.6, ms=5
            )
            if values:
                mean = fmean(values.values())
                axis.hlines(mean, place - 0.25, place + 0.25, color="black", lw=2)
        pair = [scores(rows, arm, decoder) for arm in study.primary]
        for seed in set.intersection(*map(set, pair)) if pair else ():
            axis.plot([0, 1], [found[seed] for found in pair], color="tab:blue", lw=0.6, alpha=0.4)
        axis.set_xticks(range(len(order)), order, rotation=20, ha="right")
        axis.set_xlim(-0.6, len(order) - 0.4)
        axis.set_ylabel("mIoU, %")
        axis.set_title(f"{study.data['name']} {study.data['split']}, {decoder}", fontsize=10)
        axis.grid(axis="y", alpha=0.3)
    return figure


def plot_differences(study: Study, rows: Sequence[Row]) -> Figure:
    """Draw the difference of the study's pair by class and by size, with intervals."""
    groups = {"iou/": "by class, IoU", "size/": "by size of object, mIoU"}
    figure = Figure(figsize=(10, 4.4 * len(study.decoders)), dpi=100, layout="constrained")
    axes = figure.subplots(len(study.decoders), 2, squeeze=False)
    for line, decoder in zip(axes, study.decoders, strict=True):
        for axis, (prefix, title) in zip(line, groups.items(), strict=True):
            _plot_intervals(axis, _by(rows, study, decoder, prefix))
            axis.set_title(f"{' - '.join(study.pair)}, {title}, {decoder}", fontsize=10)
            axis.set_xlabel("points, 95 % interval over seeds")
    return figure


def _plot_intervals(axis: Axes, found: Mapping[str, Mapping[str, Any]]) -> None:
    names = list(found)[::-1]
    for place, name in enumerate(names):
        row = found[name]
        low, high = row["interval"] or (row["difference"],) * 2
        axis.hlines(place, low, high, color="tab:blue", lw=2)
        axis.plot([row["difference"]], [place], "o", color="tab:blue", ms=5)
    axis.axvline(0, color="black", lw=0.8)
    axis.set_yticks(range(len(names)), names)
    axis.grid(axis="x", alpha=0.3)
