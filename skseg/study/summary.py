"""The results of a study, in numbers and in words."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from skseg.study.matrix import Row, Study
from skseg.study.records import (
    ArmRecord,
    DecoderRecord,
    DifferenceRecord,
    PairRecord,
    PrimaryRecord,
    ScoreName,
    StudySummary,
)
from skseg.study.statistics import Comparison, compare_paired, detectable_difference, pairs_needed

_ALPHA = 0.05

FEWEST_PAIRS = 3
"""Fewest pairs of seeds with a reported interval; that of two pairs is too wide to be useful."""

ARM_SCORES: dict[ScoreName, str] = {
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "boundary_miou": "boundary IoU",
    "boundary_mean_f": "boundary F",
}
"""Display names of an arm's scores."""

_BOUNDARY_SCORES: tuple[ScoreName, ...] = ("boundary_miou", "boundary_mean_f")


def scores_by_seed(
    rows: Sequence[Row], arm: str, decoder: str, key: str = "miou"
) -> dict[int, float]:
    """Return an arm's score for each seed, in percent, without undefined ones.

    mIoU is the mean over the classes that occur in the ground truth, which are those with an IoU in
    all rows. The benchmark's mean also counts an absent class, as 0, if even one pixel is predicted
    as it.
    """
    chosen = [row for row in rows if row["arm"] == arm and row["decoder"] == decoder]
    classes = [k for k in rows[0] if k.startswith("iou/") and all(row.get(k) for row in rows)]
    if key == "miou" and classes:
        return {int(row["seed"]): 100 * fmean(float(row[k]) for k in classes) for row in chosen}
    return {int(row["seed"]): 100 * float(row[key]) for row in chosen if row.get(key)}


def compare_arms(
    rows: Sequence[Row],
    pair: Sequence[str],
    decoder: str,
    key: str = "miou",
    confidence: float = 0.95,
) -> Comparison:
    """Compare a score of two arms over the seeds that both have, in percentage points."""
    first, second = (scores_by_seed(rows, arm, decoder, key) for arm in pair)
    return compare_paired(first, second, confidence)


def matched_pairs(rows: Sequence[Row], pair: Sequence[str], decoder: str) -> int:
    """Count the pairs of seeds whose rows agree on commit, torch version and CPU type.

    Rows without a commit, as early versions wrote them, match none. Unmatched pairs differ by more
    than their arms, see docs/reproducibility.md.
    """
    first, second = (
        {
            row["seed"]: [row.get(key) for key in ("commit", "torch", "cpu")]
            for row in rows
            if row["arm"] == arm and row["decoder"] == decoder and row.get("commit")
        }
        for arm in pair
    )
    return sum(second.get(seed) == environment for seed, environment in first.items())


def summarize(
    study: Study, rows: list[Row], p_values: Mapping[str, float | None], tests: int
) -> StudySummary:
    """Summarize a study in numbers and words.

    Args:
        study: The study's config.
        rows: The finished runs among those that it plans.
        p_values: Holm-corrected p-value of the primary comparison by decoder; None while pairs are
            missing.
        tests: Number of planned tests that they are corrected for.

    Returns:
        The content of `summary.json`. Scores are in percent, differences in percentage points.
    """
    return {
        "question": study.question,
        "runs": len(rows),
        "decoders": {
            decoder: _summarize_decoder(study, rows, decoder, p_values.get(decoder), tests)
            for decoder in study.decoders
        },
        "hours": round(sum(float(row["seconds"]) for row in rows) / 3600, 1),
    }


def _summarize_decoder(
    study: Study, rows: list[Row], decoder: str, p_value: float | None, tests: int
) -> DecoderRecord:
    arms = {arm: _arm(rows, arm, decoder) for arm in study.arms}
    # Bonferroni: all of these intervals together cover their true differences with 95 %.
    level = 1 - _ALPHA / max(1, len(study.others))
    others = [
        _pair(rows, pair, decoder, compare_arms(rows, pair, decoder, confidence=level))
        for pair in study.others
    ]
    primary: PrimaryRecord | None = None
    if study.primary:
        found = compare_arms(rows, study.primary, decoder)
        primary = {
            **_pair(rows, study.primary, decoder, found),
            "planned_pairs": study.primary_seeds,
            "p_holm": p_value,
            "tests": tests,
        }
        conclusion = _conclude_primary(study, decoder, found, p_value, tests)
    else:
        conclusion = _conclude_exploratory(decoder, arms, others)
    return {
        "arms": arms,
        "primary": primary,
        "others": others,
        "classes": compare_parts(rows, study, decoder, "iou/"),
        "sizes": compare_parts(rows, study, decoder, "size/"),
        "boundaries": {
            key: _record(compare_arms(rows, study.pair, decoder, key))
            for key in _BOUNDARY_SCORES
            if study.pair
        },
        "conclusion": conclusion,
    }


def _record(found: Comparison) -> DifferenceRecord:
    return {
        "pairs": found.pairs,
        "difference": found.difference,
        "interval": found.interval,
        "confidence": found.confidence,
        "deviation": found.deviation,
        "p_value": found.p_value,
        "p_wilcoxon": found.p_wilcoxon,
    }


def _pair(rows: Sequence[Row], pair: list[str], decoder: str, found: Comparison) -> PairRecord:
    return {"pair": pair, **_record(found), "alike": matched_pairs(rows, pair, decoder)}


def _arm(rows: Sequence[Row], arm: str, decoder: str) -> ArmRecord:
    values = {key: list(scores_by_seed(rows, arm, decoder, key).values()) for key in ARM_SCORES}
    means = {key: fmean(found) if found else None for key, found in values.items()}
    return {
        "seeds": len(values["miou"]),
        "miou": means["miou"],
        "pixel_accuracy": means["pixel_accuracy"],
        "boundary_miou": means["boundary_miou"],
        "boundary_mean_f": means["boundary_mean_f"],
        "deviation": stdev(values["miou"]) if len(values["miou"]) > 1 else None,
    }


def compare_parts(
    rows: Sequence[Row], study: Study, decoder: str, prefix: str
) -> dict[str, DifferenceRecord]:
    """Compare the study's detailed pair by class or by size of object.

    Args:
        rows: The finished runs.
        study: The study's config.
        decoder: One of its decoders.
        prefix: Of the columns: "iou/" for classes, "size/" for sizes.

    Returns:
        A comparison for each part that at least `FEWEST_PAIRS` pairs of seeds have.
    """
    keys = dict.fromkeys(key for row in rows for key in row if key.startswith(prefix))
    found = {key: compare_arms(rows, study.pair, decoder, key) for key in keys if study.pair}
    return {
        key.removeprefix(prefix): _record(f) for key, f in found.items() if f.pairs >= FEWEST_PAIRS
    }


def _conclude_primary(
    study: Study, decoder: str, found: Comparison, p_value: float | None, tests: int
) -> str:
    """Describe the planned comparison, and which differences it can detect."""
    first, second = study.primary
    if found.pairs < study.primary_seeds or found.difference is None or p_value is None:
        so_far = "" if found.difference is None else f" ({found.difference:+.2f} points so far)"
        return (
            f"With the {decoder} decoder, {found.pairs} of {study.primary_seeds} planned pairs of "
            f"{first} and {second} are done{so_far}. The test is made when all are done."
        )
    assert found.interval is not None
    assert found.deviation is not None
    assert found.p_value is not None
    assert found.p_wilcoxon is not None
    several = tests > 1
    if found.p_value >= _ALPHA:
        verdict = f"{first} and {second} do not differ significantly"
        remark = " Any difference inside the interval remains plausible."
    elif p_value >= _ALPHA:
        verdict = f"{first} and {second} do not differ significantly after Holm's correction"
        remark = " The uncorrected p-value is below 0.05."
    else:
        verdict = (
            f"{first} is significantly {'better' if found.difference > 0 else 'worse'} than "
            f"{second}"
        )
        remark = ""
    low, high = found.interval
    corrected = f", Holm-corrected for {tests} tests p = {p_value:.2g}" * several
    alpha = _ALPHA / tests  # the strictest level of Holm's method
    least = detectable_difference(found.deviation, found.pairs, alpha)
    needed = pairs_needed(1.0, found.deviation, alpha)
    return (
        f"With the {decoder} decoder, {verdict}: {first} - {second} is {found.difference:+.2f} "
        f"points of mIoU (95 % CI {low:+.2f} to {high:+.2f}; {found.pairs} pairs of seeds; paired "
        f"t-test p = {found.p_value:.2g}{corrected}; Wilcoxon signed-rank test "
        f"p = {found.p_wilcoxon:.2g}).{remark} Power: with this spread (standard deviation of the "
        f"paired differences {found.deviation:.2f}), {found.pairs} pairs detect a true difference "
        f"of {least:.2f} points with a probability of {'at least ' * several}80 %; detecting 1 "
        f"point requires {needed or 'more than 1,000'} pairs"
        + f" (at a level of 0.05 / {tests}, the strictest of Holm's method)" * several
        + "."
    )


def _conclude_exploratory(
    decoder: str, arms: Mapping[str, ArmRecord], others: Sequence[PairRecord]
) -> str:
    """Describe a study without a planned comparison."""
    text = (
        f"Exploratory (with the {decoder} decoder): this study planned no comparison, so nothing "
        "is tested."
    )
    seeds = {arm["seeds"] for arm in arms.values()}
    if len(seeds) == 1 and min(seeds) > 1:
        means = {name: arm["miou"] or 0.0 for name, arm in arms.items()}
        best = max(means, key=lambda name: means[name])
        text += f" The highest mean mIoU is that of {best}, {means[best]:.2f}."
    else:
        text += f" Arms have {min(seeds)} to {max(seeds)} seeds so far, so they are not ranked."
    nonzero = [
        f"{' - '.join(row['pair'])} ({row['interval'][0]:+.2f} to {row['interval'][1]:+.2f})"
        for row in others
        if row["interval"] and (row["interval"][0] > 0 or row["interval"][1] < 0)
    ]
    if others:
        text += f" Comparisons whose interval excludes zero: {', '.join(nonzero) or 'none'}."
    return text
