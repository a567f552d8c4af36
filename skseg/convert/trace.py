"""Which norm and activation belong to a convolution, observed in a run of the network."""

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from skseg.errors import UserError
from skseg.nn import SKConv2d
from skseg.nn.dispatch import has_hooks

_SIDES = (64, 256)  # pixels of the images tried; PAN needs the larger


@dataclass
class Chain:
    """A convolution as it was seen to run, and the modules that belong to it alone.

    Attributes:
        conv: Its name in the network.
        calls: How often it ran.
        side: Height of its output, in pixels.
        norm: Name of the batch norm whose input is the convolution's output, which nothing else
            uses, and which runs once; None if there is none.
        act: Name of the activation whose input is the norm's output, or without a norm the
            convolution's, which nothing else uses, and which runs once; None if there is none, or
            if it is part of the norm.
    """

    conv: str
    calls: int = 0
    side: int = 0
    norm: str | None = None
    act: str | None = None


@dataclass
class _Run:
    """What was seen in one run: tensors by identity, kept alive so that identities stay unique."""

    tensors: dict[int, Tensor] = field(default_factory=dict)
    uses: Counter[int] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)


class _CountUses(TorchFunctionMode):
    """Count the functions that compute tensors from the outputs of convolutions and norms.

    Hooks would miss what is no module, such as the sum of a skip connection.
    """

    def __init__(self, run: _Run) -> None:
        super().__init__()
        self.run = run

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(out)):
            self.run.uses.update(_known((args, kwargs), self.run))
        return out


def _known(tree: Any, run: _Run) -> set[int]:
    return {id(leaf) for leaf in tree_leaves(tree) if id(leaf) in run.tensors}


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm, perhaps with an activation, and nothing more."""
    if type(module) is BatchNormAct2d:
        return type(module.drop) is nn.Identity
    return isinstance(module, _BatchNorm) and not any(True for _ in module.children())


def is_activation(module: nn.Module) -> bool:
    """Whether a module is an activation of torch or timm."""
    home = type(module).__module__
    return home == "torch.nn.modules.activation" or home.startswith("timm.layers.activations")


@dataclass
class Trace:
    """What one run of a network showed.

    Attributes:
        chains: Of each convolution, by its name.
        calls: How often each convolution, batch norm and activation ran, by its name.
    """

    chains: dict[str, Chain]
    calls: Counter[str]


def trace(network: nn.Module, image: Tensor) -> Trace:
    """Run a network once and see which norm and activation belong to each convolution.

    Args:
        network: Not changed; a copy of it runs, in eval mode.
        image: [B, C, H, W], an input of the network.
    """
    copied = copy.deepcopy(network).eval()
    for module in copied.modules():
        if isinstance(getattr(module, "inplace", None), bool):
            # Else norm and activation would return the same tensor.
            module.inplace = False  # type: ignore[assignment]
    run = _Run()

    def watch(name: str, module: nn.Module) -> list[RemovableHandle]:
        def before(_module: nn.Module, args: tuple[Any, ...]) -> None:
            run.calls[name] += 1
            run.inputs[name] = args[0]

        def after(_module: nn.Module, _args: object, output: Tensor) -> None:
            run.tensors[id(output)] = output
            run.outputs[name] = id(output)

        return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]

    watched = {
        name: module
        for name, module in copied.named_modules()
        if isinstance(module, nn.Conv2d) or is_norm(module) or is_activation(module)
    }
    unhooked = {name for name, module in watched.items() if not has_hooks(module)}
    handles = [handle for name, module in watched.items() for handle in watch(name, module)]
    with torch.no_grad(), _CountUses(run):
        out = copied(image)
    for handle in handles:
        handle.remove()
    run.uses.update(_known(out, run))  # returning a feature uses it, too

    def only_user(name: str, kind: Callable[[nn.Module], bool]) -> str | None:
        output = run.outputs[name]
        found = [n for n, x in run.inputs.items() if id(x) == output and kind(watched[n])]
        if run.uses[output] == 1 and len(found) == 1 and run.calls[found[0]] == 1:
            return found[0] if found[0] in unhooked else None
        return None

    chains: dict[str, Chain] = {}
    for name, module in watched.items():
        if not isinstance(module, nn.Conv2d):
            continue
        chain = chains[name] = Chain(name, run.calls[name])
        if chain.calls != 1:
            continue
        chain.side = run.tensors[run.outputs[name]].shape[-2]
        chain.norm = only_user(name, is_norm)
        last = name if chain.norm is None else chain.norm
        if not isinstance(watched[last], BatchNormAct2d):
            chain.act = only_user(last, is_activation)
    return Trace(chains, run.calls)


def find_example(model: nn.Module) -> Tensor:
    """Return a random image that a float64 network accepts: [1, C, 64, 64], or of 256 pixels.

    Raises:
        UserError: The network accepts neither.
    """
    first = next((m for m in model.modules() if isinstance(m, SKConv2d | nn.Conv2d)), None)
    channels = 3 if first is None else first.in_channels
    failure: Exception | None = None
    for side in _SIDES:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(1, channels, side, side, generator=generator)
        try:
            run(model, images)
        except RuntimeError as error:
            failure = error
        else:
            return images
    raise UserError(
        f"{type(model).__name__} does not accept {channels}-channel images of "
        f"{' or '.join(map(str, _SIDES))} pixels ({failure}); pass an example input"
    )


@torch.no_grad()
def run(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Run a float64 model on its own device and return its outputs as a list."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    out = model(images.to(device, torch.float64))
    return [out] if isinstance(out, Tensor) else list(out)
