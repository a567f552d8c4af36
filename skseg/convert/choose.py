"""Which convolutions of an encoder a conversion replaces, and why not the others."""

import math
from fnmatch import fnmatchcase

from timm.layers import SelectiveKernel
from torch import Tensor, nn

from skseg.convert.trace import Chain
from skseg.encoders.settings import SKSettings
from skseg.encoders.stages import encoder_stages
from skseg.errors import UserError, near_names
from skseg.nn.dispatch import has_hooks


def choose_chains(
    encoder: nn.Module,
    image: Tensor,
    chains: dict[str, Chain],
    settings: SKSettings,
) -> tuple[list[Chain], dict[str, str]]:
    """Choose what to convert.

    Args:
        encoder: The network.
        image: [B, C, H, W], an input of it.
        chains: Of its convolutions, as `trace` returns them.
        settings: The user's choice.

    Returns:
        The chains to convert, and the reason, by name, why each other spatial convolution is left.

    Raises:
        UserError: A name or a stage in the settings does not exist.
    """
    stages = _stages(encoder, image, chains)
    patterns = settings.modules
    if patterns is not None:
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in chains):
                raise UserError(
                    f"modules: no convolution is called {pattern!r}{near_names(pattern, chains)}"
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
    left: dict[str, str] = {}
    for name, chain in chains.items():
        conv = encoder.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        named = patterns is not None and any(fnmatchcase(name, p) for p in patterns)
        if conv.kernel_size == (1, 1) and not named:
            continue
        reason = _why_impossible(conv, chain)
        if reason is None and id(conv) in inside:
            reason = "part of a selective kernel already"
        if reason is None and name not in stages:
            reason = "no feature depends on it"
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
    return chosen, left


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
    """Return the stage of each convolution that runs, counted from 1.

    The features of an smp encoder tell its stages, even if it is dilated. In another network the
    stride of the convolution's output tells them.
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
