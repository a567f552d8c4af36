"""The content of `attention.json`.

Where an `EstimateRecord` holds nested lists, its field gives their shape: U units ordered by depth,
M branches of a unit, F factors of growth. Weights are from 0 to 1, spans in pixels.
"""

from typing import Literal, TypedDict

from skseg.metrics.estimates import EstimateRecord

GrowthMethod = Literal["redraw", "crop"]
"""How objects grow: drawn again in a larger size, or cropped and resized as in the paper."""

Verdict = Literal["supported", "contradicted", "neither"]


class UnitRecord(TypedDict):
    """An SK unit, see `skseg.nn.Unit`."""

    name: str
    stage: str
    spans: tuple[int, ...]
    channels: int


class GroupRecord(TypedDict):
    """Attention to the objects of one class or size, at their original size.

    Attributes:
        objects: Number of objects.
        images: Number of images that they are on.
        weights: [U, M], weight of each branch.
        span: [U], expected span of the kernels under these weights.
    """

    objects: int
    images: int
    weights: EstimateRecord
    span: EstimateRecord


class ClassGrowthRecord(TypedDict):
    """How the expected span [U] changes when the objects of one class grow."""

    objects: int
    images: int
    span_change: EstimateRecord


class ChangeRecord(TypedDict):
    """How the weight of the largest kernel changes in a group of channels.

    Attributes:
        channels: Number of channels.
        rise: Mean change over channels and images.
        rising_channels: Share of channels whose mean change over images is positive.
    """

    channels: int
    rise: EstimateRecord
    rising_channels: EstimateRecord


class StagesRecord(ChangeRecord):
    """The same for several stages, which it names."""

    stages: list[str]


class RiseRecord(TypedDict):
    """How the weight of the largest kernel changes, by depth.

    Attributes:
        by_unit: By the unit's name.
        by_stage: By the stage's name.
        groups: "low and middle", all stages but the last, and "high", the last.
        contrast: Rise in the low and middle stages minus that in the last; None if there is only
            one stage.
    """

    by_unit: dict[str, ChangeRecord]
    by_stage: dict[str, ChangeRecord]
    groups: dict[str, StagesRecord]
    contrast: EstimateRecord | None


class GrowthRecord(RiseRecord):
    """What happens when objects grow; rises are from the first factor to the last.

    Attributes:
        factors: F sizes of an object, relative to its original one.
        objects: Number of objects.
        images: Number of images that they are on.
        largest: [F, U], weight of the largest kernel.
        largest_change: [F, U], its change from the first factor.
        span: [F, U], expected span of the kernels.
        by_class: Change of the span, by class.
        blur: The same rises when objects are only blurred as much as enlarging blurs them; None
            where growing does not blur.
        beyond_blur: The rises minus those of `blur`.
    """

    factors: tuple[float, ...]
    objects: int
    images: int
    largest: EstimateRecord
    largest_change: EstimateRecord
    span: EstimateRecord
    by_class: dict[str, ClassGrowthRecord]
    blur: RiseRecord | None
    beyond_blur: RiseRecord | None


class VariationRecord(TypedDict):
    """Standard deviations of the largest kernel's weight in one stage.

    Attributes:
        over_images: Of one channel over images (root mean square over channels).
        over_channels: Of the channels' means over images.
    """

    over_images: EstimateRecord
    over_channels: EstimateRecord


class SelectionRecord(TypedDict):
    """How much attention depends on the image, and what that dependence is worth.

    Attributes:
        variation: By the stage's name.
        miou: mIoU, 0 to 1, over the classes that occur in the ground truth.
        miou_fixed: The same with each unit's attention fixed at its mean over the images.
        difference: `miou` minus `miou_fixed`.
    """

    variation: dict[str, VariationRecord]
    miou: EstimateRecord
    miou_fixed: EstimateRecord
    difference: EstimateRecord


class ClaimRecord(TypedDict):
    """A claim of the paper, the verdict on it and its numbers in words."""

    claim: str
    verdict: Verdict
    numbers: str


class AttentionRecord(TypedDict):
    """The results for one network, or for several repetitions of one.

    Attributes:
        images: Number of images.
        window: Side in pixels of the windows around objects.
        growth_by: How objects grow.
        networks: Number of networks.
        interval: What the intervals are, in words.
        units: The SK units.
        selection: How much attention depends on the image.
        by_class: Attention to the objects of each class.
        by_size: Attention to the objects of each size.
        growth: What happens when objects grow.
        claims: What that says about the paper's claims.
        claims_beyond_blur: What remains of it beyond the effect of blur; None without that control.
    """

    images: int
    window: int
    growth_by: GrowthMethod
    networks: int
    interval: str
    units: list[UnitRecord]
    selection: SelectionRecord
    by_class: dict[str, GroupRecord]
    by_size: dict[str, GroupRecord]
    growth: GrowthRecord
    claims: dict[str, ClaimRecord]
    claims_beyond_blur: dict[str, ClaimRecord] | None


class AttentionFile(AttentionRecord):
    """The content of `attention.json`: the results, and what they are of.

    Attributes:
        data: Name of the data set.
        split: Name of the split.
        scale: Factor on the sides of the images.
        checkpoints: Paths of the networks.
    """

    data: str
    split: str
    scale: float
    checkpoints: list[str]
