"""A trained network made faster for inference, with the same outputs."""

import copy
import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_weights

from skseg.convert.trace import Trace, find_example, run, trace
from skseg.nn import dispatch
from skseg.nn.attention import FuseRunningNorm, pooled_sum, weighted_sum
from skseg.nn.blocks import paths_of
from skseg.nn.kernels import ops as kernels
from skseg.nn.sk import SKConv2d

_TOLERANCE = 1e-9  # of the largest output, in float64


@dataclass
class Folding:
    """What `optimize_for_inference` did to a network.

    Attributes:
        folded: The convolution that each batch norm was folded into, by the norm's name.
        left: Why each other batch norm was not folded, by its name.
        units: Names of the SK units that run on the kernels for inference, since their norms are
            all folded.
        difference: The largest difference of an output, relative to the largest output, in float64.
    """

    folded: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    units: list[str] = field(default_factory=list)
    difference: float = 0.0

    def __str__(self) -> str:
        """Summarize in a few lines."""
        lines = [f"folded {len(self.folded)} batch norms; {len(self.left)} left"]
        lines += [f"  left: {name} ({reason})" for name, reason in self.left.items()]
        return "\n".join(lines)


class FoldedSKConv2d(nn.Module):
    """An SK unit for inference, whose norms are folded into its convolutions.

    Args:
        unit: An SK unit with attention, whose convolutions have biases and whose norms are gone.
    """

    norms: Tensor
    packed: Tensor

    def __init__(self, unit: SKConv2d) -> None:
        super().__init__()
        assert unit.attn is not None
        self.paths, self.attn = unit.paths, unit.attn
        norm = self.attn.bn
        if isinstance(norm, (nn.BatchNorm1d, FuseRunningNorm)):
            mean, var = norm.running_mean, norm.running_var
            if mean is not None and var is not None:
                linear = self.attn.fc_reduce
                linear.weight, linear.bias = fuse_linear_bn_weights(
                    linear.weight, linear.bias, mean, var, norm.eps, norm.weight, norm.bias
                )
                self.attn.bn = nn.Identity()
        self.in_channels = unit.in_channels
        self.split_input, self.pool_window = unit.split_input, unit.pool_window
        convs = [path.conv for path in paths_of(self)]
        self.suits_kernels = dispatch.has_kernels(self, paths_of(self))
        self.compiled = self.suits_kernels and dispatch.has_own_convolutions(convs)
        self.geometry = dispatch.geometry_of(convs) if self.suits_kernels else []
        biases = torch.stack([conv.bias.detach() for conv in convs if conv.bias is not None])
        norms = torch.ones_like(biases).repeat(5, 1, 1)  # their scale is 1, their shift the bias
        norms[kernels.SHIFT] = biases
        self.register_buffer("norms", norms, persistent=False)
        packed = [kernels.pack(conv.weight) for conv in convs] if self.compiled else []
        self.register_buffer("packed", torch.stack(packed or [biases]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C_in, H, W] to [B, C_out, ceil(H / stride), ceil(W / stride)]."""
        if not torch.jit.is_scripting():
            fast = self._on_kernels(x)
            if fast is not None:
                return fast
        maps: list[Tensor] = []
        inputs = x.chunk(len(self.paths), dim=1) if self.split_input else [x] * len(self.paths)
        for i, path in enumerate(self.paths):
            maps.append(path(inputs[i]))
        attention = self.attn(pooled_sum(maps, self.pool_window))
        out: Tensor = weighted_sum(maps, attention, self.pool_window)
        return out

    @torch.jit.unused
    def _on_kernels(self, x: Tensor) -> Tensor | None:
        return dispatch.run_folded(self, paths_of(self), x)


def optimize_for_inference(model: nn.Module, example: Tensor | None = None) -> nn.Module:
    """Copy a network for inference: batch norms folded into convolutions, channels last.

    A norm is folded if a trial run shows that its input is the output of one convolution, which
    nothing else uses, and that both run once. Then the outputs of the copy are compared with the
    model's in float64. If they differ, nothing is folded. The copy has the attribute `folding`, a
    :class:`Folding`, which names each norm that was left and the reason. A warning says so if
    nothing was folded although batch norms run.

    Attention is still recorded by :func:`skseg.nn.record_attention`.

    Args:
        model: Any network: one with :class:`skseg.nn.SKConv2d`, an encoder or a whole smp model.
            It is not changed.
        example: An input to try, [B, C, H, W]; random images if None.

    Returns:
        The copy, in evaluation mode, without gradients, on the model's device.

    Raises:
        UserError: There is no example, and the model accepts no images of 64 or 256 pixels.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
        >>> fast = optimize_for_inference(model)
        >>> fast
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(1, 1), stride=(1, 1))
          (1): Identity()
          (2): ReLU()
        )
        >>> fast.folding.folded
        {'1': '0'}
    """
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    copied = copy.deepcopy(model).eval().requires_grad_(False).double()
    example = find_example(copied) if example is None else example
    device = next((p.device for p in copied.parameters()), torch.device("cpu"))
    seen = trace(copied, example.to(device, torch.float64))

    folding = _plan(copied, seen)
    folded = _fold(copied, folding)
    folding.difference = _difference(run(copied, example), run(folded, example))
    if not folding.difference <= _TOLERANCE:  # NaN is a difference, too
        reason = f"folding changed the outputs, by {folding.difference:.1e} of the largest"
        folding = Folding(left=dict.fromkeys(_batch_norms(copied), reason))
        folded = copied
    if not folding.folded and any(seen.calls[name] for name in folding.left):
        warnings.warn(f"{type(model).__name__}: no batch norm was folded. {folding}", stacklevel=2)

    folded = folded.to(dtype).to(memory_format=torch.channels_last)
    folded = _replace_units(folded, folding)
    vars(folded)["folding"] = folding  # nn.Module's own attributes are tensors and modules
    return folded


def _batch_norms(model: nn.Module) -> dict[str, nn.Module]:
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}


def _plan(model: nn.Module, seen: Trace) -> Folding:
    """Choose the norms to fold; say why each other one is left."""
    folding = Folding()
    conv_of = {c.norm: c.conv for c in seen.chains.values() if c.norm is not None}
    for name, norm in _batch_norms(model).items():
        reason = _why_not(model, name, norm, seen, conv_of.get(name))
        if reason is None:
            folding.folded[name] = conv_of[name]
        else:
            folding.left[name] = reason
    return folding


def _why_not(
    model: nn.Module, name: str, norm: nn.Module, seen: Trace, conv_name: str | None
) -> str | None:
    if seen.calls[name] == 0:
        return "never runs"
    if seen.calls[name] > 1:
        return f"runs {seen.calls[name]} times"
    if conv_name is None:
        return "its input is not the output of one convolution that nothing else uses"
    if type(norm) is not nn.BatchNorm2d:
        return f"is a {type(norm).__name__}"
    conv = model.get_submodule(conv_name)
    if type(conv) is not nn.Conv2d:
        return f"follows a {type(conv).__name__}"
    return "has no running statistics" if norm.running_mean is None else None


def _fold(model: nn.Module, folding: Folding) -> nn.Module:
    """Copy a network with the chosen norms folded."""
    folded = copy.deepcopy(model)
    for norm_name, conv_name in folding.folded.items():
        conv, norm = folded.get_submodule(conv_name), folded.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        folded.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm))
        folded.set_submodule(norm_name, nn.Identity())
    return folded


def _difference(before: list[Tensor], after: list[Tensor]) -> float:
    """Return the largest difference of an output, relative to its largest value."""
    differences = [
        (a - b).abs().max() / a.abs().max().clamp(min=1e-300)
        for a, b in zip(before, after, strict=True)
        if a.numel()
    ]
    return float(torch.stack(differences).max()) if differences else 0.0


def _replace_units(model: nn.Module, folding: Folding) -> nn.Module:
    """Replace the SK units whose norms are all folded; enter their names in the report."""
    for name, unit in [*model.named_modules()]:
        if not isinstance(unit, SKConv2d) or unit.attn is None:
            continue
        if not all(
            type(path.bn) is nn.Identity
            and isinstance(path.conv, nn.Conv2d)
            and path.conv.bias is not None
            for path in paths_of(unit)
        ):
            continue
        folding.units.append(name)
        if not name:
            return FoldedSKConv2d(unit)
        model.set_submodule(name, FoldedSKConv2d(unit))
    return model
