"""What growing objects say about two claims of Li et al. 2019 (figure 3)."""

from skseg.attention.records import ChangeRecord, ClaimRecord, RiseRecord, Verdict
from skseg.metrics.estimates import EstimateRecord, interval_words


def judge_claims(growth: RiseRecord) -> dict[str, ClaimRecord]:
    """Judge the paper's claims by how the largest kernel's weight changes when objects grow.

    The first claim is "when the target grows, the larger kernel gets more weight in most channels".
    It is judged in the low and middle stages (all but the last), where the second claim places it.
    It is supported if the intervals of the rise and of the share of rising channels lie above 0 and
    one half, and contradicted if either lies below.

    The second claim is that this holds only in low and middle layers. It is supported if the
    weight rises there, by more than in the last stage, and does not rise in the last. It is
    contradicted if the interval of the last stage's rise lies above 0, or that of the contrast
    below 0.

    Args:
        growth: A result of `skseg.attention.summary.describe_rise`.

    Returns:
        The claims "larger_kernel" and "low_and_middle".

    Example:
        >>> change = {"channels": 64, "rise": {"value": 0.02, "low": 0.01, "high": 0.03}}
        >>> change["rising_channels"] = {"value": 0.6, "low": 0.55, "high": 0.65}
        >>> groups = {"low and middle": change, "high": change}
        >>> growth = {"by_unit": {}, "by_stage": {}, "groups": groups, "contrast": None}
        >>> judge_claims(growth)["larger_kernel"]["verdict"]
        'supported'
    """
    groups, contrast = growth["groups"], growth["contrast"]
    low, high = groups["low and middle"], groups["high"]
    rise, share = low["rise"], low["rising_channels"]
    first: Verdict = "neither"
    if _is_above(rise, 0) and _is_above(share, 0.5):
        first = "supported"
    elif _is_below(rise, 0) or _is_below(share, 0.5):
        first = "contradicted"
    second: Verdict = "neither"
    numbers = "There is only one stage"
    if contrast is not None:
        if _is_above(high["rise"], 0) or _is_below(contrast, 0):
            second = "contradicted"
        elif _is_above(rise, 0) and _is_above(contrast, 0):
            second = "supported"
        numbers = (
            f"Last stage: {_change_words(high)}. Low and middle stages minus last: "
            f"{_points(contrast)}"
        )
    return {
        "larger_kernel": {
            "claim": "when the target grows, the larger kernel gets more weight in most channels",
            "verdict": first,
            "numbers": f"Low and middle stages: {_change_words(low)}",
        },
        "low_and_middle": {
            "claim": "this holds only in low and middle layers",
            "verdict": second,
            "numbers": numbers,
        },
    }


def _change_words(change: ChangeRecord) -> str:
    share = change["rising_channels"]
    return (
        f"{_points(change['rise'])}, rising in {100 * share['value']:.1f} % of channels"
        f"{interval_words(share, 100, '.1f')}"
    )


def _points(estimate: EstimateRecord) -> str:
    value = 100 * estimate["value"]
    return f"weight {value:+.2f} points{interval_words(estimate, 100, '+.2f')}"


def _is_above(estimate: EstimateRecord, value: float) -> bool:
    return estimate["low"] is not None and bool(estimate["low"] > value)


def _is_below(estimate: EstimateRecord, value: float) -> bool:
    return estimate["high"] is not None and bool(estimate["high"] < value)
