"""Any convolutional encoder with SK units in place of its spatial convolutions."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch
from segmentation_models_pytorch.base import SegmentationModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from skseg.convert.choose import choose_chains
from skseg.convert.fold import find_example, run
from skseg.convert.grow import branches_of, convolves_alike, make_unit
from skseg.convert.trace import Chain, trace_chains
from skseg.encoders.settings import SKSettings
from skseg.errors import UserError
from skseg.nn import Branch, SKConv2d

_TOLERANCE = 1e-9  # of the largest output, in float64
_FLOPS_SIDE = 224  # pixels


class Change(NamedTuple):
    """A figure before and after."""

    before: int
    after: int


@dataclass
class Conversion:
    """What became of a network.

    Attributes:
        converted: the convolution, and the norm and activation taken along, of each unit.
        left: why each other spatial convolution was left, by name.
        parameters: of the network, or of the encoder of an smp model.
        multiply_adds: likewise, for an image of 224x224.
        difference: largest difference of an output, over the largest output, in float64, in
            "eval" and in "train" mode.
    """

    converted: list[Chain]
    left: dict[str, str]
    parameters: Change
    multiply_adds: Change
    difference: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """A few lines for people."""
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


def convert_to_sk(
    model: nn.Module,
    *,
    example: Tensor | None = None,
    report: Callable[[Conversion], object] | None = print,
    **options: Any,
) -> nn.Module:
    """Copy a network with SK units in place of its spatial convolutions.

    A unit takes the place of a convolution, of the batch norm that alone takes its output, and of
    the activation that alone takes the norm's; shared activations and functions stay outside.
    By default the network computes what it did, in training and evaluation: a k x k convolution
    gets the branches k and k + 2, the larger kernel starting as the old one amid zeros, and the
    weights of equal branches, whatever they are, sum to 1. Attention learns from the second step
    on: in the first, the branches are equal and the larger kernel's border alone makes them
    differ. Dilated branches start from the old weights too, which changes what is computed; the
    report says by how much.

    Convolutions that take the image, those of stage 1 (stride 2), shortcuts, 1x1 and even kernels
    stay unless `modules` names them; even kernels have no centre and stay always.

    Args:
        model: a network of timm, an encoder or a whole model of smp, of which the encoder is
            converted; left as it is.
        example: an input of the network or encoder to try, [B, C, H, W], B at least 2; random
            images when None.
        report: called with a :class:`Conversion`; None for silence.
        **options: fields of :class:`SKSettings`. `branches` are those of a 3x3: a k x k
            convolution gets kernels k - 3 larger. Where unset, `branches` are [[3], [5]],
            `fuse_norm` "layer", and the rest those of :class:`skseg.SKConv2d`. `stages`,
            `depthwise`, `reduction` and `min_attention_width` keep the growth small.

    Returns:
        The copy, of the same type.

    Raises:
        UserError: an option that is unknown or makes no sense here, a network with SK units
            already, with nothing to convert, or that cannot be run.
    """
    settings = _check_options(options)
    converted = copy.deepcopy(model)
    whole = isinstance(converted, SegmentationModel)
    encoder = converted.get_submodule("encoder") if whole else converted
    if any(isinstance(module, SKConv2d) for module in encoder.modules()):
        raise UserError(f"{type(encoder).__name__} has SK units already; it cannot be converted")
    before = copy.deepcopy(encoder)
    if example is None:
        example = find_example(copy.deepcopy(encoder).eval().double())
        example = torch.cat([example, example.flip(-1)])  # batch norms train on two
    image = _like(encoder, example)
    chains = trace_chains(encoder, image)
    left: dict[str, str] = {}
    chosen = choose_chains(encoder, image, chains, settings, left)
    for chain in chosen:
        unit = make_unit(encoder, chain, settings)
        if not convolves_alike(encoder.get_submodule(chain.conv), unit, settings):
            left[chain.conv] = "a larger kernel does not keep its output"
            continue
        for name in (chain.norm, chain.act):
            if name is not None:
                encoder.set_submodule(name, nn.Identity())
        encoder.set_submodule(chain.conv, unit)
    chosen = [chain for chain in chosen if chain.conv not in left]
    if not chosen:
        raise UserError(f"{type(encoder).__name__}: {_nothing(left)}")
    difference = _differences(before, encoder, example)
    exact = all(Branch(*branch).dilation == 1 for branch in branches_of(settings))
    if exact and max(difference.values()) > _TOLERANCE:
        raise UserError(
            f"{type(encoder).__name__} cannot be converted: its outputs change by "
            f"{max(difference.values()):.1e} of the largest"
        )
    if report is not None:
        report(
            Conversion(
                chosen,
                left,
                Change(_parameters(before), _parameters(encoder)),
                Change(_multiply_adds(before, example), _multiply_adds(encoder, example)),
                difference,
            )
        )
    return converted


def _check_options(options: dict[str, Any]) -> SKSettings:
    known = list(SKSettings.__dataclass_fields__)
    for key in options:
        if key not in known:
            near = get_close_matches(key, known, n=3) or known
            raise UserError(f"convert_to_sk has no option {key!r}; it has {', '.join(near)}")
    settings = SKSettings(**options)
    if settings.select == "sum":
        raise UserError(
            "select: sum would multiply what a converted encoder computes by its number of "
            "branches; mean is the control without attention"
        )
    for branch in branches_of(settings):
        if not 1 <= len(branch) <= 2:
            raise UserError(
                "branches: a conversion keeps the groups and takes [kernel size, dilation], the "
                f"last optional, got {list(branch)}"
            )
        if branch[0] < 3:
            raise UserError(
                f"branches: kernel sizes are those of a 3x3's branches, so at least 3, got "
                f"{branch[0]}"
            )
    return settings


def _differences(before: nn.Module, after: nn.Module, example: Tensor) -> dict[str, float]:
    """The largest difference of outputs by mode, over the largest output, in float64."""
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


def _parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _multiply_adds(network: nn.Module, example: Tensor) -> int:
    image = torch.empty(1, example.shape[1], _FLOPS_SIDE, _FLOPS_SIDE, device="meta")
    copied = copy.deepcopy(network).to("meta", torch.float32).eval()
    with FlopCounterMode(display=False) as counter:
        copied(image)
    return int(counter.get_total_flops()) // 2


def _like(network: nn.Module, example: Tensor) -> Tensor:
    """The example as the network's parameters are."""
    parameter = next(network.parameters())
    return example.to(parameter.device, parameter.dtype)


def _nothing(left: dict[str, str]) -> str:
    if not left:
        return "nothing to convert, since it has no spatial convolutions"
    listed = [f"{name} ({reason})" for name, reason in list(left.items())[:5]]
    return f"nothing to convert; left: {', '.join(listed)}{', ...' if len(left) > 5 else ''}"
