"""Statistics of attention: means with intervals, and what they say of the article's claims."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skseg.attention.observe import Attention, Observations
from skseg.attention.selection import describe_selection
from skseg.attention.targets import FACTORS
from skseg.metrics.estimates import FEWEST_IMAGES, EstimateRecord, estimate, interval_words
from skseg.metrics.objects import BIN_NAMES
from skseg.nn import Unit


def attention_record(
    seen: Observations, class_names: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """Turn observations into the plain values of `attention.json`.

    Args:
        seen: of one network, or of several that are repetitions of each other.
        class_names: K names.
        seed: of the bootstrap.

    Returns:
        Arrays are ordered as `units`, by depth. `by_class` and `by_size` have, for objects as they
        are, `weights` of the branches and their expected `span` in pixels. `growth` has, at each of
        `factors`, the weight of the `largest` kernel, its change over the first and the `span`; and
        all of `describe_rise` from the first factor to the last. Where objects grew by cropping it
        also has `blur`, the same for the control whose windows are only blurred, and `beyond_blur`,
        the rise beyond that control's, by image and channel. `claims` says what growth says of the
        article's claims, and `claims_beyond_blur` what is left of it. `selection` says how far
        attention follows the image, and what that is worth, see `describe_selection`.
    """
    units = seen.units
    by_class = {
        name: _still(seen.still, units, [a.label == i for a in seen.still], seed)
        for i, name in enumerate(class_names)
    }
    by_size = {
        name: _still(seen.still, units, [a.size == i for a in seen.still], seed)
        for i, name in enumerate(BIN_NAMES)
    }
    growth = _growth(seen, class_names, seed)
    beyond = growth["beyond_blur"]
    return {
        "images": len(seen.images),
        "window": seen.side,
        "growth_by": seen.growing,
        "networks": len(seen.still),
        "interval": _interval_name(len(seen.still), len(seen.images)),
        "units": [
            {"name": u.name, "stage": u.stage, "spans": u.spans, "channels": u.channels}
            for u in units
        ],
        "selection": describe_selection(seen.selections, units, seed),
        "by_class": {name: row for name, row in by_class.items() if row},
        "by_size": {name: row for name, row in by_size.items() if row},
        "growth": growth,
        "claims": judge(growth),
        "claims_beyond_blur": beyond and judge(beyond),
    }


def _interval_name(networks: int, images: int) -> str:
    if networks > 1:
        return "95 %, Student's t over networks"
    if images < FEWEST_IMAGES:
        return f"no intervals, of one network on fewer than {FEWEST_IMAGES} images"
    return "95 %, bootstrap over images of this one network"


def _still(
    networks: list[Attention], units: list[Unit], chosen: list[NDArray[np.bool_]], seed: int
) -> dict[str, Any] | None:
    """Describe the attention to chosen targets as they are; None where there is none."""
    if not chosen[0].any():
        return None
    weights = [
        _image_means(a.image[c], a.weights[c, 0]) for a, c in zip(networks, chosen, strict=True)
    ]
    spans = np.asarray([unit.spans for unit in units])
    return {
        "objects": int(chosen[0].sum()),
        "images": len(weights[0]),
        "weights": estimate(weights, seed).plain(),
        "span": estimate([(w * spans).sum(-1) for w in weights], seed).plain(),
    }


def _growth(seen: Observations, class_names: Sequence[str], seed: int) -> dict[str, Any]:
    networks, units = seen.grown, seen.units
    spans = np.asarray([unit.spans for unit in units])
    span = [(a.weights * spans).sum(-1) for a in networks]  # [N, F, U]
    largest = [np.stack([x.mean(2) for x in a.largest], axis=2) for a in networks]  # [I, F, U]
    by_class = {}
    for i, name in enumerate(class_names):
        chosen = [a.label == i for a in networks]
        if chosen[0].any():
            change = [
                _image_means(a.image[c], (s[:, -1] - s[:, 0])[c])
                for a, c, s in zip(networks, chosen, span, strict=True)
            ]
            by_class[name] = {
                "objects": int(chosen[0].sum()),
                "images": len(change[0]),
                "span_change": estimate(change, seed).plain(),
            }
    of_images = [_image_means(a.image, s) for a, s in zip(networks, span, strict=True)]
    rises = [_rises(network) for network in networks]
    record = {
        "factors": FACTORS,
        "objects": len(networks[0].image),
        "images": len(largest[0]),
        "largest": estimate(largest, seed).plain(),
        "largest_change": estimate([x - x[:, :1] for x in largest], seed).plain(),
        "span": estimate(of_images, seed).plain(),
        "by_class": by_class,
        **describe_rise(rises, units, seed),
        "blur": None,
        "beyond_blur": None,
    }
    if seen.blurred is not None:
        blurs = [_rises(network) for network in seen.blurred]
        beyond = [
            [x - y for x, y in zip(rise, blur, strict=True)]
            for rise, blur in zip(rises, blurs, strict=True)
        ]
        record["blur"] = describe_rise(blurs, units, seed)
        record["beyond_blur"] = describe_rise(beyond, units, seed)
    return record


def _rises(network: Attention) -> list[NDArray[np.float32]]:
    """The rise of the largest kernel's weight, by unit [I, C]."""
    return [weights[:, -1] - weights[:, 0] for weights in network.largest]


def describe_rise(
    rises: Sequence[Sequence[NDArray[np.floating[Any]]]], units: Sequence[Unit], seed: int = 0
) -> dict[str, Any]:
    """Describe how the largest kernel's weight rises, by unit, stage and group of stages.

    Args:
        rises: for each network and unit, the rise by image and channel [I, C].
        units: by depth.
        seed: of the bootstrap.

    Returns:
        `by_unit`, `by_stage` and `groups` ("low and middle", all stages but the last, and "high"),
        each with the mean `rise` over channels, and `rising_channels`, the share of channels whose
        mean over images is above 0; and `contrast`, the rise in low and middle stages over that in
        the high one, None where there is one stage only.
    """
    stages = list(dict.fromkeys(unit.stage for unit in units))
    groups = {"low and middle": stages[:-1] or stages, "high": stages[-1:]}

    def of(members: Sequence[str]) -> dict[str, Any]:
        chosen = [i for i, u in enumerate(units) if u.name in members or u.stage in members]
        joined = [np.concatenate([rise[i] for i in chosen], axis=1) for rise in rises]
        rising = estimate(joined, seed, lambda means: (means > 0).mean(-1))
        return {
            "channels": joined[0].shape[1],
            "rise": estimate([r.mean(1) for r in joined], seed).plain(),
            "rising_channels": rising.plain(),
        }

    contrast = None
    if len(stages) > 1:
        difference = []
        for rise in rises:
            deep = [r for r, unit in zip(rise, units, strict=True) if unit.stage == stages[-1]]
            rest = [r for r, unit in zip(rise, units, strict=True) if unit.stage != stages[-1]]
            difference.append(
                np.concatenate(rest, axis=1).mean(1) - np.concatenate(deep, axis=1).mean(1)
            )
        contrast = estimate(difference, seed).plain()
    return {
        "by_unit": {unit.name: of([unit.name]) for unit in units},
        "by_stage": {stage: of([stage]) for stage in stages},
        "groups": {name: {"stages": members, **of(members)} for name, members in groups.items()},
        "contrast": contrast,
    }


def _image_means(
    image: NDArray[np.int64], values: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Average rows [N, ...] by image: [I, ...]. Objects of one image are not independent."""
    _, which, count = np.unique(image, return_inverse=True, return_counts=True)
    total = np.zeros((len(count), *values.shape[1:]))
    np.add.at(total, which, values)
    return np.asarray(total / count.reshape(-1, *[1] * (values.ndim - 1)))


def judge(growth: dict[str, Any]) -> dict[str, Any]:
    """Say what growth says of the article's claims.

    The first, "when the target grows, the larger kernel gets more weight in most channels", is
    looked at in the low and middle stages, where the second places it: all but the last. It is
    supported where the intervals of the rise and of the share of rising channels lie above 0 and
    one half, contradicted where either lies below.

    The second, "only in low and middle layers", is supported where the weight rises there, by more
    than in the last stage, and not in the last; contradicted where the interval of the last
    stage's rise lies above 0, or that of the contrast below 0.

    Args:
        growth: a result of `describe_rise`.

    Returns:
        For each claim its `claim`, a `verdict` ("supported", "contradicted" or "neither") and the
        `numbers` in words.
    """
    groups, contrast = growth["groups"], growth["contrast"]
    low, high = groups["low and middle"], groups["high"]
    rise, share = low["rise"], low["rising_channels"]
    first = "neither"
    if _above(rise, 0) and _above(share, 0.5):
        first = "supported"
    elif _below(rise, 0) or _below(share, 0.5):
        first = "contradicted"
    second, numbers = "neither", "one stage only"
    if contrast is not None:
        if _above(high["rise"], 0) or _below(contrast, 0):
            second = "contradicted"
        elif _above(rise, 0) and _above(contrast, 0):
            second = "supported"
        numbers = f"last stage: {_words(high)}; low and middle over last: {_signed(contrast)}"
    return {
        "larger_kernel": {
            "claim": "when the target grows, the larger kernel gets more weight in most channels",
            "verdict": first,
            "numbers": f"low and middle stages: {_words(low)}",
        },
        "low_and_middle": {
            "claim": "only in low and middle layers",
            "verdict": second,
            "numbers": numbers,
        },
    }


def _words(change: dict[str, Any]) -> str:
    rise, share = change["rise"], change["rising_channels"]
    return (
        f"{_signed(rise)}, and up in {100 * share['value']:.1f} % of channels"
        f"{interval_words(share, 100, '.1f')}"
    )


def _signed(e: EstimateRecord) -> str:
    return f"weight {100 * e['value']:+.2f} points{interval_words(e, 100, '+.2f')}"


def _above(e: dict[str, Any], value: float) -> bool:
    return e["low"] is not None and bool(e["low"] > value)


def _below(e: dict[str, Any], value: float) -> bool:
    return e["high"] is not None and bool(e["high"] < value)
