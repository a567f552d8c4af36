"""The content of `summary.json`, and what a report reads of `attention.json`."""

from typing import Literal, TypedDict

from skseg.metrics.estimates import EstimateRecord

ScoreName = Literal["miou", "pixel_accuracy", "boundary_miou", "boundary_mean_f"]
"""A score of an arm: its column in `runs.csv` and its key in `summary.json`."""


class DifferenceRecord(TypedDict):
    """A `skseg.study.statistics.Comparison`; differences are in percentage points."""

    pairs: int
    difference: float | None
    interval: tuple[float, float] | None
    confidence: float
    deviation: float | None
    p_value: float | None
    p_wilcoxon: float | None


class PairRecord(DifferenceRecord):
    """A comparison of two arms.

    Attributes:
        pair: The two arms, first minus second.
        alike: Number of matched pairs, see `skseg.study.summary.matched_pairs`.
    """

    pair: list[str]
    alike: int


class PrimaryRecord(PairRecord):
    """The planned comparison.

    Attributes:
        planned_pairs: Number of pairs of seeds that the study plans.
        p_holm: Holm-corrected p-value of the t-test; None until all planned pairs are done.
        tests: Number of planned tests that it is corrected for.
    """

    planned_pairs: int
    p_holm: float | None
    tests: int


class ArmRecord(TypedDict):
    """An arm's mean scores in percent; `deviation` is the standard deviation of mIoU over seeds."""

    seeds: int
    miou: float | None
    pixel_accuracy: float | None
    boundary_miou: float | None
    boundary_mean_f: float | None
    deviation: float | None


class DecoderRecord(TypedDict):
    """All results with one decoder.

    Attributes:
        arms: By name.
        primary: None for a study that plans no comparison.
        others: In the order of the config.
        classes: The detailed pair's comparison by class (IoU).
        sizes: The detailed pair's comparison by size of object (mIoU).
        boundaries: The detailed pair's comparison of the boundary scores.
        conclusion: In words.
    """

    arms: dict[str, ArmRecord]
    primary: PrimaryRecord | None
    others: list[PairRecord]
    classes: dict[str, DifferenceRecord]
    sizes: dict[str, DifferenceRecord]
    boundaries: dict[ScoreName, DifferenceRecord]
    conclusion: str


class StudySummary(TypedDict):
    """The content of `summary.json`.

    Attributes:
        question: What the study asks.
        runs: Number of finished runs.
        decoders: Results by decoder.
        hours: Total time of the runs.
    """

    question: str
    runs: int
    decoders: dict[str, DecoderRecord]
    hours: float


class AttentionEffect(TypedDict):
    """`selection` of `attention.json`: the mIoU (0 to 1) that image-dependent attention adds."""

    difference: EstimateRecord


class ClaimRecord(TypedDict):
    """A claim of the paper, the verdict on it and its numbers in words."""

    claim: str
    verdict: str
    numbers: str


class AttentionFindings(TypedDict):
    """The part of `attention.json` that a study's report shows."""

    networks: int
    images: int
    interval: str
    selection: AttentionEffect
    claims: dict[str, ClaimRecord]
    claims_beyond_blur: dict[str, ClaimRecord] | None
