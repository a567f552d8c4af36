"""What a study's rows say, in numbers and in words."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean, stdev
from typing import Any

from skseg.study.matrix import Row, Study
from skseg.study.statistics import Comparison, compare, detectable_difference, pairs_needed

_ALPHA = 0.05

FEWEST_PAIRS = 3
"""Pairs of seeds from which an interval is shown: that of two is so wide that it says nothing."""

ARM_SCORES = {
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "boundary_miou": "boundary IoU",
    "boundary_mean_f": "boundary F",
}
"""The scores of an arm that a report shows, by their columns, with their names."""


def scores(rows: Sequence[Row], arm: str, decoder: str, key: str = "miou") -> dict[int, float]:
    """Return an arm's score for each seed, in percent; undefined ones are left out.

    mIoU is over the classes that occur in truth, which are those that all rows have an IoU of. The
    benchmark's also counts one that does not, as 0, in a run that has taken even a pixel for it.
    """
    chosen = [row for row in rows if row["arm"] == arm and row["decoder"] == decoder]
    classes = [k for k in rows[0] if k.startswith("iou/") and all(row.get(k) for row in rows)]
    if key == "miou" and classes:
        return {int(row["seed"]): 100 * fmean(float(row[k]) for k in classes) for row in chosen}
    return {int(row["seed"]): 100 * float(row[key]) for row in chosen if row.get(key)}


def compare_arms(
    rows: Sequence[Row], pair: Sequence[str], decoder: str, key: str = "miou", level: float = 0.95
) -> Comparison:
    """Compare a score of two arms over the seeds that both have; `level` is the interval's."""
    first, second = (scores(rows, arm, decoder, key) for arm in pair)
    return compare(first, second, level)


def alike(rows: Sequence[Row], pair: Sequence[str], decoder: str) -> int:
    """Count the pairs of seeds whose rows agree on code, torch and kind of CPU.

    Old rows, which have no commit, agree with none. Others pair less well, see
    docs/reproducibility.md.
    """
    first, second = (
        {
            row["seed"]: [row.get(key) for key in ("commit", "torch", "cpu")]
            for row in rows
            if row["arm"] == arm and row["decoder"] == decoder and row.get("commit")
        }
        for arm in pair
    )
    return sum(second.get(seed) == made for seed, made in first.items())


def summarize(
    study: Study, rows: list[Row], p_values: Mapping[str, float | None], tests: int
) -> dict[str, Any]:
    """Put a study into numbers and words.

    Args:
        study: its config.
        rows: its finished runs, of those that it plans.
        p_values: the primary comparison's p-value by decoder, corrected; None while it is
            incomplete.
        tests: number of primary tests that it is corrected for.

    Returns:
        `arms` with mean and deviation of each score, `primary` (None if there is none) and
        `others` as `Comparison`s with the number of pairs made `alike`, `classes`, `sizes` and
        `boundaries` of the study's `pair`, and the `conclusion` in words. Scores are in percent,
        differences in points.
    """
    record: dict[str, Any] = {"question": study.question, "runs": len(rows), "decoders": {}}
    record["hours"] = round(sum(float(row["seconds"]) for row in rows) / 3600, 1)
    for decoder in study.decoders:
        arms = {arm: _arm(rows, arm, decoder) for arm in study.arms}
        # Simultaneous intervals: all others cover their true difference with 95 %.
        level = 1 - _ALPHA / max(1, len(study.others))
        others = [(pair, compare_arms(rows, pair, decoder, level=level)) for pair in study.others]
        primary = compare_arms(rows, study.primary, decoder) if study.primary else None
        record["decoders"][decoder] = {
            "arms": arms,
            "primary": primary
            and {
                "pair": study.primary,
                **asdict(primary),
                "alike": alike(rows, study.primary, decoder),
                "planned_pairs": study.primary_seeds,
                "p_holm": p_values[decoder],
                "tests": tests,
            },
            "others": [
                {"pair": pair, **asdict(found), "alike": alike(rows, pair, decoder)}
                for pair, found in others
            ],
            "classes": by_part(rows, study, decoder, "iou/"),
            "sizes": by_part(rows, study, decoder, "size/"),
            "boundaries": {
                key: asdict(compare_arms(rows, study.pair, decoder, key))
                for key in ("boundary_miou", "boundary_mean_f")
                if study.pair
            },
        }
        if primary:
            words = conclude(study, decoder, primary, p_values[decoder], tests)
        else:
            words = look(decoder, arms, others)
        record["decoders"][decoder]["conclusion"] = words
    return record


def _arm(rows: Sequence[Row], arm: str, decoder: str) -> dict[str, Any]:
    values = {key: list(scores(rows, arm, decoder, key).values()) for key in ARM_SCORES}
    record: dict[str, Any] = {"seeds": len(values["miou"])}
    record |= {key: fmean(found) if found else None for key, found in values.items()}
    record["deviation"] = stdev(values["miou"]) if len(values["miou"]) > 1 else None
    return record


def by_part(
    rows: Sequence[Row], study: Study, decoder: str, prefix: str
) -> dict[str, dict[str, Any]]:
    """Compare the study's `pair` by class ("iou/") or size ("size/"), the prefix of columns.

    Parts that fewer than `FEWEST_PAIRS` pairs of seeds have are left out.
    """
    keys = dict.fromkeys(key for row in rows for key in row if key.startswith(prefix))
    found = {key: compare_arms(rows, study.pair, decoder, key) for key in keys if study.pair}
    return {
        key.removeprefix(prefix): asdict(f) for key, f in found.items() if f.pairs >= FEWEST_PAIRS
    }


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
    alpha = _ALPHA / tests  # Holm's strictest step
    least = detectable_difference(found.deviation, found.pairs, alpha)
    needed = pairs_needed(1.0, found.deviation, alpha)
    spread = (
        f"With this spread between seeds (standard deviation of the difference "
        f"{found.deviation:.2f}), {found.pairs} pairs find a true difference of {least:.2f} points "
        f"with a probability of 80 %{' or more' * (tests > 1)}; a difference of 1 point takes "
        f"{needed if needed else 'more than 1,000'} pairs"
        + (
            f" (each test at 0.05 / {tests}, the strictest that Holm's may be)."
            if tests > 1
            else "."
        )
    )
    assert found.p_value is not None
    if found.p_value >= _ALPHA:
        verdict = (
            f"no difference shown. {numbers}. Any difference inside the interval remains possible."
        )
    elif p_value >= _ALPHA:
        verdict = f"no difference shown, though p is below 0.05 before the correction. {numbers}."
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
    seeds = {arm["seeds"] for arm in arms.values()}
    if len(seeds) == 1 and min(seeds) > 1:
        best = max(arms, key=lambda name: arms[name]["miou"])
        text += f" The highest mean mIoU is {best}'s, {arms[best]['miou']:.2f}."
    else:
        text += f" The arms' numbers of seeds so far: {min(seeds)} to {max(seeds)}."
    apart = [
        f"{first} - {second} ({found.interval[0]:+.2f} to {found.interval[1]:+.2f})"
        for (first, second), found in others
        if found.interval and (found.interval[0] > 0 or found.interval[1] < 0)
    ]
    if others:
        text += " Comparisons whose interval leaves out zero: " + (", ".join(apart) or "none") + "."
    return text
