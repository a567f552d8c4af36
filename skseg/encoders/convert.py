"""Any convolutional encoder with SK units in place of its spatial convolutions."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.base import SegmentationModel
from timm.layers import BatchNormAct2d, Conv2dSame, SelectiveKernel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from skseg.encoders.settings import SKSettings
from skseg.encoders.stages import encoder_stages
from skseg.encoders.tracing import Chain, has_hooks, trace_chains
from skseg.errors import UserError
from skseg.nn import Branch, SKConv2d
from skseg.nn.fused import paths_of
from skseg.nn.optimize import find_example, run

TRUE_KERNELS = (Branch(3), Branch(5))
"""The branches of a conversion, for a 3x3; those of a k x k convolution are k - 3 larger."""

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
            `fuse_norm` "layer", and the rest those of :class:`skseg.SKConv2d`.

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
        raise UserError(f"{type(model).__name__} has SK units already; it cannot be converted")
    before = copy.deepcopy(encoder)
    if example is None:
        example = find_example(copy.deepcopy(encoder).eval().double())
        example = torch.cat([example, example.flip(-1)])  # batch norms train on two
    image = _like(encoder, example)
    chains = trace_chains(encoder, image)
    left: dict[str, str] = {}
    chosen = _choose(encoder, image, chains, settings, left)
    for chain in chosen:
        unit = _make_unit(encoder, chain, settings)
        if not _computes_the_same(encoder.get_submodule(chain.conv), unit):
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
    exact = all(Branch(*branch).dilation == 1 for branch in _branches(settings))
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
    for branch in _branches(settings):
        if len(branch) > 2:
            raise UserError(f"branches: a conversion keeps the groups, got {list(branch)}")
        if branch[0] < 3:
            raise UserError(
                f"branches: kernel sizes are those of a 3x3's branches, so at least 3, got "
                f"{branch[0]}"
            )
    return settings


def _branches(settings: SKSettings) -> Sequence[Sequence[int]]:
    if settings.branches is None:
        return [branch[:2] for branch in TRUE_KERNELS]
    return settings.branches


def _choose(
    encoder: nn.Module,
    image: Tensor,
    chains: dict[str, Chain],
    settings: SKSettings,
    left: dict[str, str],
) -> list[Chain]:
    """Choose what to convert; enter into `left` why each other spatial convolution is not."""
    stages = _stages(encoder, image, chains)
    patterns = settings.modules
    if patterns is not None:
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in chains):
                near = get_close_matches(pattern, list(chains), n=3)
                raise UserError(
                    f"modules: no convolution is called {pattern!r}"
                    f"{'; near: ' + ', '.join(near) if near else ''}"
                )
    if settings.stages is not None:
        present = sorted(set(stages.values()))
        for stage in settings.stages:
            if stage not in present:
                raise UserError(
                    f"stages: no stage {stage}; there are {', '.join(map(str, present))}"
                )
    kernels = [m for m in encoder.modules() if isinstance(m, SelectiveKernel)]
    inside = {id(module) for kernel in kernels for module in kernel.modules()}
    chosen: list[Chain] = []
    for name, chain in chains.items():
        conv = encoder.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        named = patterns is not None and any(fnmatchcase(name, p) for p in patterns)
        if conv.kernel_size == (1, 1) and not named:
            continue
        reason = _why_impossible(conv, chain)
        if reason is None and id(conv) in inside:
            reason = "of a selective kernel already"
        if reason is None and patterns is not None and not named:
            reason = "not in modules"
        if reason is None and settings.stages is not None and stages[name] not in settings.stages:
            reason = "not in stages"
        if reason is None and not named:
            reason = _why_not_by_default(name, conv, image, stages[name], settings)
        if reason is None:
            chosen.append(chain)
        else:
            left[name] = reason
    return chosen


def _why_impossible(conv: nn.Conv2d, chain: Chain) -> str | None:
    if chain.calls != 1:
        return "never runs" if chain.calls == 0 else f"runs {chain.calls} times"
    height, width = conv.kernel_size
    if height != width:
        return "the kernel is not square"
    if height % 2 == 0:
        return "the kernel is even"
    return "has hooks" if has_hooks(conv) else None


def _why_not_by_default(
    name: str, conv: nn.Conv2d, image: Tensor, stage: int, settings: SKSettings
) -> str | None:
    if conv.in_channels == image.shape[1] or (stage == 1 and settings.stages is None):
        return "stem"
    if any(word in name.lower() for word in ("downsample", "shortcut", "skip")):
        return "shortcut"
    return None


def _stages(encoder: nn.Module, image: Tensor, chains: dict[str, Chain]) -> dict[str, int]:
    """The stage of each convolution that runs, counted from 1.

    Those of an smp encoder are told by its features, even if dilated; those of another network
    by the stride of the convolution's output.
    """
    if hasattr(encoder, "output_stride"):
        by_parameter = encoder_stages(encoder, image)
        return {
            name: by_parameter[f"{name}.weight"]
            for name in chains
            if f"{name}.weight" in by_parameter
        }
    side = image.shape[-2]
    return {
        name: max(1, round(math.log2(side / chain.side)))
        for name, chain in chains.items()
        if chain.side
    }


def _make_unit(encoder: nn.Module, chain: Chain, settings: SKSettings) -> SKConv2d:
    """Build the unit of a chain with the chain's weights, norm statistics, mode and device."""
    conv = encoder.get_submodule(chain.conv)
    assert isinstance(conv, nn.Conv2d)
    norm: nn.Module = nn.Identity()
    act: nn.Module = nn.Identity()
    if chain.norm is not None:
        norm, act = _split(encoder.get_submodule(chain.norm))
    if chain.act is not None:
        act = encoder.get_submodule(chain.act)
    own = conv.kernel_size[0]
    branches = [Branch(*branch) for branch in _branches(settings)]
    branches = [b._replace(kernel_size=own + b.kernel_size - 3) for b in branches]
    options = {"fuse_norm": "layer", **settings.unit_arguments(), "branches": branches}
    unit = SKConv2d(
        conv.in_channels,
        conv.out_channels,
        stride=conv.stride[0],
        groups=conv.groups,
        norm_layer=lambda channels: copy.deepcopy(norm),
        act_layer=partial(copy.deepcopy, act),
        **options,
    )
    for branch, path in zip(branches, paths_of(unit), strict=True):
        path.conv = _grow(conv, branch)
    if unit.attn is not None:
        unit.attn.to(conv.weight.device, conv.weight.dtype)
    return unit.train(conv.training)


def _split(norm: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The norm and the activation of a timm norm that has both; other norms as they are."""
    if not isinstance(norm, BatchNormAct2d):
        return norm, nn.Identity()
    plain = nn.BatchNorm2d(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
    )
    plain.to(next(iter(norm.state_dict().values())).device)
    plain.load_state_dict(norm.state_dict())
    for mine, other in zip(plain.parameters(), norm.parameters(), strict=True):
        mine.data = other.data.clone()  # of its type, too
        mine.requires_grad_(other.requires_grad)
    plain.running_mean, plain.running_var = norm.running_mean, norm.running_var
    return plain.train(norm.training), norm.act


def _grow(conv: nn.Conv2d, branch: Branch) -> nn.Conv2d:
    """Copy a convolution with a kernel that starts as the old one amid zeros, centred alike."""
    grown = copy.deepcopy(conv)
    old = conv.kernel_size[0]
    border = (branch.kernel_size - old) // 2
    grown.weight = nn.Parameter(
        F.pad(conv.weight.detach(), [border] * 4), requires_grad=conv.weight.requires_grad
    )
    grown.kernel_size = (branch.kernel_size, branch.kernel_size)
    grown.dilation = (conv.dilation[0] * branch.dilation, conv.dilation[1] * branch.dilation)
    if not isinstance(conv, Conv2dSame) and not isinstance(conv.padding, str):  # those see to it
        vertical, horizontal = (
            padding + branch.kernel_size // 2 * new - old // 2 * dilation
            for padding, new, dilation in zip(
                conv.padding, grown.dilation, conv.dilation, strict=True
            )
        )
        grown.padding = (vertical, horizontal)
    return grown


@torch.no_grad()
def _computes_the_same(conv: nn.Module, unit: SKConv2d) -> bool:
    """Whether the undilated branches convolve as before, and all give outputs of that size.

    Tried on even and odd sizes: TensorFlow's padding depends on them, and so might that of a kind
    of convolution unknown here; others standardise their weights.
    """
    assert isinstance(conv, nn.Conv2d)
    old = copy.deepcopy(conv).double()
    generator = torch.Generator().manual_seed(0)
    for height, width in ((32, 33), (34, 35)):
        x = torch.randn(1, conv.in_channels, height, width, generator=generator).to(
            conv.weight.device, torch.float64
        )
        expected = old(x)
        for path in paths_of(unit):
            got = copy.deepcopy(path.conv).double()(x)
            if got.shape != expected.shape:
                return False
            same = (got - expected).abs().max() <= _TOLERANCE * expected.abs().max()
            if path.conv.dilation == conv.dilation and not same:
                return False
    return True


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
