"""Statistics of attention: means with intervals, for `attention.json`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skseg.attention.claims import judge_claims
from skseg.attention.observe import Observations, TargetAttention
from skseg.attention.records import (
    AttentionRecord,
    ChangeRecord,
    ClassGrowthRecord,
    GroupRecord,
    GrowthRecord,
    RiseRecord,
)
from skseg.attention.selection import describe_selection
from skseg.attention.targets import FACTORS
from skseg.metrics.estimates import FEWEST_IMAGES, EstimateRecord, estimate
from skseg.metrics.objects import BIN_NAMES
from skseg.nn import Unit


def summarize_attention(
    observations: Observations, class_names: Sequence[str], seed: int = 0
) -> AttentionRecord:
    """Compute the statistics of observed attention.

    Args:
        observations: Of one network, or of several repetitions of one.
        class_names: K names.
        seed: Seed of the bootstrap.
    """
    units, original = observations.units, observations.original
    by_class = {
        name: _describe_group(original, units, [a.label == i for a in original], seed)
        for i, name in enumerate(class_names)
    }
    by_size = {
        name: _describe_group(original, units, [a.size == i for a in original], seed)
        for i, name in enumerate(BIN_NAMES)
    }
    growth = _describe_growth(observations, class_names, seed)
    beyond = growth["beyond_blur"]
    return {
        "images": len(observations.images),
        "window": observations.window,
        "growth_by": observations.growth,
        "networks": len(original),
        "interval": _interval_name(len(original), len(observations.images)),
        "units": [
            {"name": u.name, "stage": u.stage, "spans": u.spans, "channels": u.channels}
            for u in units
        ],
        "selection": describe_selection(observations.selections, units, seed),
        "by_class": {name: row for name, row in by_class.items() if row},
        "by_size": {name: row for name, row in by_size.items() if row},
        "growth": growth,
        "claims": judge_claims(growth),
        "claims_beyond_blur": judge_claims(beyond) if beyond else None,
    }


def _interval_name(networks: int, images: int) -> str:
    if networks > 1:
        return "95 %, Student's t over networks"
    if images < FEWEST_IMAGES:
        return f"no intervals: one network on fewer than {FEWEST_IMAGES} images"
    return "95 %, bootstrap over the images of one network"


def _describe_group(
    networks: list[TargetAttention], units: list[Unit], chosen: list[NDArray[np.bool_]], seed: int
) -> GroupRecord | None:
    """Describe the attention to the chosen targets; None if there are none."""
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


def _describe_growth(
    observations: Observations, class_names: Sequence[str], seed: int
) -> GrowthRecord:
    networks, units = observations.grown, observations.units
    spans = np.asarray([unit.spans for unit in units])
    span = [(a.weights * spans).sum(-1) for a in networks]  # [N, F, U]
    largest = [np.stack([x.mean(2) for x in a.largest], axis=2) for a in networks]  # [I, F, U]
    by_class: dict[str, ClassGrowthRecord] = {}
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
    blur = beyond_blur = None
    if observations.blurred is not None:
        blurs = [_rises(network) for network in observations.blurred]
        beyond = [
            [x - y for x, y in zip(rise, blurred, strict=True)]
            for rise, blurred in zip(rises, blurs, strict=True)
        ]
        blur = describe_rise(blurs, units, seed)
        beyond_blur = describe_rise(beyond, units, seed)
    return {
        "factors": FACTORS,
        "objects": len(networks[0].image),
        "images": len(largest[0]),
        "largest": estimate(largest, seed).plain(),
        "largest_change": estimate([x - x[:, :1] for x in largest], seed).plain(),
        "span": estimate(of_images, seed).plain(),
        "by_class": by_class,
        **describe_rise(rises, units, seed),
        "blur": blur,
        "beyond_blur": beyond_blur,
    }


def _rises(network: TargetAttention) -> list[NDArray[np.float32]]:
    """Return the rise of the largest kernel's weight from the first factor to the last.

    For each unit [I, C].
    """
    return [weights[:, -1] - weights[:, 0] for weights in network.largest]


def describe_rise(
    rises: Sequence[Sequence[NDArray[np.floating[Any]]]], units: Sequence[Unit], seed: int = 0
) -> RiseRecord:
    """Describe how the largest kernel's weight rises, by unit, stage and group of stages.

    Args:
        rises: For each network and unit, the rise by image and channel [I, C].
        units: The units, by depth.
        seed: Seed of the bootstrap.
    """
    stages = list(dict.fromkeys(unit.stage for unit in units))
    groups = {"low and middle": stages[:-1] or stages, "high": stages[-1:]}

    def describe(members: Sequence[str]) -> ChangeRecord:
        chosen = [i for i, u in enumerate(units) if u.name in members or u.stage in members]
        joined = [np.concatenate([rise[i] for i in chosen], axis=1) for rise in rises]
        rising = estimate(joined, seed, lambda means: (means > 0).mean(-1))
        return {
            "channels": joined[0].shape[1],
            "rise": estimate([r.mean(1) for r in joined], seed).plain(),
            "rising_channels": rising.plain(),
        }

    contrast: EstimateRecord | None = None
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
        "by_unit": {unit.name: describe([unit.name]) for unit in units},
        "by_stage": {stage: describe([stage]) for stage in stages},
        "groups": {
            name: {"stages": members, **describe(members)} for name, members in groups.items()
        },
        "contrast": contrast,
    }


def _image_means(
    image: NDArray[np.int64], values: NDArray[np.floating[Any]]
) -> NDArray[np.float64]:
    """Average rows [N, ...] by image, as objects of one image are not independent: [I, ...]."""
    _, which, count = np.unique(image, return_inverse=True, return_counts=True)
    total = np.zeros((len(count), *values.shape[1:]))
    np.add.at(total, which, values)
    return np.asarray(total / count.reshape(-1, *[1] * (values.ndim - 1)))
