"""Any convolutional encoder, with SK units in place of its spatial convolutions."""

import copy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from segmentation_models_pytorch.base import SegmentationModel
from torch import Tensor, nn

from skseg.convert.choose import choose_chains
from skseg.convert.grow import branches_of, convolves_alike, make_unit, place_unit
from skseg.convert.trace import Chain, find_example, run, trace
from skseg.encoders.settings import SKSettings
from skseg.errors import UserError, near_names
from skseg.nn import Branch, SKConv2d
from skseg.nn.inspect import multiply_adds

_TOLERANCE = 1e-9  # of the largest output, in float64


class Change(NamedTuple):
    """A number before and after the conversion."""

    before: int
    after: int


@dataclass
class Conversion:
    """What `convert_to_sk` did to a network, the attribute `conversion` of its result.

    Attributes:
        converted: The convolution that each unit replaces, with its norm and activation.
        left: Why each other spatial convolution was left, by its name.
        parameters: Of the network, or of the encoder of an smp model.
        multiply_adds: Likewise, for an image of 224x224.
        difference: The largest difference of an output, relative to the largest output, in
            float64, in "eval" and in "train" mode.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1))
        >>> convert_to_sk(network, modules=["1"]).conversion.parameters
        Change(before=616, after=3056)
    """

    converted: list[Chain]
    left: dict[str, str]
    parameters: Change
    multiply_adds: Change
    difference: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """Summarize in a few lines."""
        lines = [f"converted {len(self.converted)} convolutions to SK units"]
        for title, (before, after), unit in (
            ("parameters", self.parameters, 1e6),
            ("multiply-adds at 224x224", self.multiply_adds, 1e9),
        ):
            letter = "M" if unit == 1e6 else "G"
            growth = 100 * (after / before - 1)
            lines.append(
                f"  {title}: {before / unit:.2f} {letter} -> {after / unit:.2f} {letter} "
                f"({growth:+.1f} %)"
            )
        worst = ", ".join(f"{value:.1e} in {mode}" for mode, value in self.difference.items())
        lines.append(f"  largest difference of an output, relative: {worst}")
        reasons: dict[str, list[str]] = {}
        for name, reason in self.left.items():
            reasons.setdefault(reason, []).append(name)
        lines += [f"  left ({reason}): {', '.join(names)}" for reason, names in reasons.items()]
        return "\n".join(lines)


def convert_to_sk(model: nn.Module, *, example: Tensor | None = None, **options: Any) -> nn.Module:
    """Copy a network with SK units in place of its spatial convolutions.

    A unit replaces a convolution, the batch norm that alone uses its output, and the activation
    that alone uses the norm's; shared activations and functions stay outside. By default the copy
    computes what the network computed, in training and evaluation: a k x k convolution becomes the
    branches k and k + 2, the larger kernel starting as the old one surrounded by zeros. The
    branches are equal at first, so the attention has no gradient in the first step; the border of
    the larger kernel has one, so from the second step on the attention learns. Dilated branches
    start from the old weights too, which changes what is computed; the report says by how much.

    Convolutions of the image, those of stage 1 (stride 2), shortcuts and 1x1 kernels stay unless
    `modules` names them. Even kernels have no center and always stay.

    The copy has the attribute `conversion`, a :class:`Conversion`: what was converted, what was
    left and why, and what that costs. It is not part of the `state_dict`; copies of the network
    keep it.

    Args:
        model: A network of timm, an encoder of smp, or a whole smp model, whose encoder is
            converted. It is not changed.
        example: An input of the network or encoder to try, [B, C, H, W], B at least 2; random
            images if None.
        **options: Fields of :class:`SKSettings`. `branches` are those of a 3x3 convolution; for a
            k x k one the kernels are k - 3 larger. Defaults are `branches` [[3], [5]], `fuse_norm`
            "layer", and those of :class:`skseg.SKConv2d`. `stages`, `depthwise`, `reduction` and
            `min_attention_width` keep the growth small.

    Returns:
        The copy, of the same type.

    Raises:
        UserError: An option is unknown or makes no sense here; or the network has SK units
            already, has nothing to convert, or does not run.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1))
        >>> converted = convert_to_sk(network, modules=["1"])
        >>> [chain.conv for chain in converted.conversion.converted]
        ['1']
        >>> image = torch.rand(1, 3, 16, 16)
        >>> torch.allclose(network(image), converted(image), atol=1e-6)
        True
    """
    settings = _check_options(options)
    converted = copy.deepcopy(model)
    encoder = _encoder_of(converted)
    before = copy.deepcopy(encoder)
    example = _make_example(encoder) if example is None else example

    image = _like(encoder, example)
    chains, left = choose_chains(encoder, image, trace(encoder, image).chains, settings)
    replaced = [chain for chain in chains if _replace(encoder, chain, settings, left)]
    if not replaced:
        raise UserError(f"{type(encoder).__name__}: {_nothing(left)}")

    difference = _differences(before, encoder, example)
    _check_differences(encoder, settings, difference)
    channels = example.shape[1]
    vars(converted)["conversion"] = Conversion(  # nn.Module's own are tensors and modules
        replaced,
        left,
        Change(_parameters(before), _parameters(encoder)),
        Change(multiply_adds(before, channels), multiply_adds(encoder, channels)),
        difference,
    )
    return converted


def _encoder_of(model: nn.Module) -> nn.Module:
    """Return what to convert: the encoder of a whole smp model, else the model."""
    is_whole = isinstance(model, SegmentationModel)
    encoder = model.get_submodule("encoder") if is_whole else model
    if any(isinstance(module, SKConv2d) for module in encoder.modules()):
        raise UserError(f"{type(encoder).__name__} has SK units already; it cannot be converted")
    return encoder


def _make_example(encoder: nn.Module) -> Tensor:
    """Return two random images: batch norms cannot train on one."""
    example = find_example(copy.deepcopy(encoder).eval().double())
    return torch.cat([example, example.flip(-1)])


def _replace(encoder: nn.Module, chain: Chain, settings: SKSettings, left: dict[str, str]) -> bool:
    """Put a unit in the place of a chain; if that is impossible, enter the reason in `left`."""
    unit = make_unit(encoder, chain, settings)
    if not convolves_alike(encoder.get_submodule(chain.conv), unit, settings):
        left[chain.conv] = "a larger kernel does not keep its output"
        return False
    place_unit(encoder, chain, unit)
    return True


def _check_options(options: dict[str, Any]) -> SKSettings:
    known = SKSettings.__dataclass_fields__
    for key in options:
        if key not in known:
            raise UserError(f"convert_to_sk has no option {key!r}{near_names(key, known)}")
    settings = SKSettings(**options)
    if settings.select == "sum":
        raise UserError(
            "select='sum' would multiply the outputs of a converted encoder by its number of "
            "branches; select='mean' is the control without attention"
        )
    for branch in branches_of(settings):
        if not 1 <= len(branch) <= 2:
            raise UserError(
                "branches must be [kernel size, dilation], the last optional, since a conversion "
                f"keeps the groups; got {list(branch)}"
            )
        if branch[0] < 3:
            raise UserError(
                "kernel sizes of branches must be at least 3, as they replace a 3x3 convolution; "
                f"got {branch[0]}"
            )
    return settings


def _differences(before: nn.Module, after: nn.Module, example: Tensor) -> dict[str, float]:
    """Return the largest difference of an output by mode, relative to the largest, in float64."""
    found: dict[str, float] = {}
    for mode in ("eval", "train"):
        results = []
        for network in (before, after):
            copied = copy.deepcopy(network).double().train(mode == "train")
            with torch.random.fork_rng():  # the same dropout for both
                torch.manual_seed(0)
                results.append(run(copied, example))
        pairs = [(a, b) for a, b in zip(*results, strict=True) if a.numel()]
        largest = [float((a - b).abs().max() / a.abs().max().clamp(min=1e-30)) for a, b in pairs]
        found[mode] = max(largest)
    return found


def _check_differences(
    encoder: nn.Module, settings: SKSettings, difference: dict[str, float]
) -> None:
    """Raise UserError if a conversion that must be exact is not."""
    is_exact = all(Branch(*branch).dilation == 1 for branch in branches_of(settings))
    if is_exact and max(difference.values()) > _TOLERANCE:
        raise UserError(
            f"{type(encoder).__name__} cannot be converted: its outputs change by "
            f"{max(difference.values()):.1e} of the largest"
        )


def _parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _like(network: nn.Module, example: Tensor) -> Tensor:
    """Return the example with the device and dtype of the network's parameters."""
    parameter = next(network.parameters())
    return example.to(parameter.device, parameter.dtype)


def _nothing(left: dict[str, str]) -> str:
    if not left:
        return "nothing to convert, since it has no spatial convolutions"
    listed = [f"{name} ({reason})" for name, reason in list(left.items())[:5]]
    return f"nothing to convert; left: {', '.join(listed)}{', ...' if len(left) > 5 else ''}"
