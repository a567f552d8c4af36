"""A trained network made faster for inference, with the same outputs."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_weights

from skseg.errors import UserError
from skseg.nn.attention import FuseRunningNorm, pooled_sum, weighted_sum
from skseg.nn.kernels import ops as kernels
from skseg.nn.kernels.autograd import fits_convolutions, fits_kernels, paths_of
from skseg.nn.sk import SKConv2d

_TOLERANCE = 1e-9  # of the largest output, in float64
_SIDES = (64, 256)  # pixels of the images tried; PAN needs the larger


class FoldedSKConv2d(nn.Module):
    """An SK unit in evaluation whose norms are folded into its convolutions.

    Args:
        unit: an SK unit with attention, whose convolutions have biases and whose norms are gone.
    """

    biases: Tensor
    ones: Tensor
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
        self.split_input, self.pool_window = unit.split_input, unit.pool_window
        self.fits_kernels = fits_kernels(unit)
        convs = [path.conv for path in paths_of(unit)]
        self.has_conv = self.fits_kernels and kernels.take(convs[0]) and fits_convolutions(convs)
        self.dilations = [conv.dilation[0] for conv in convs]
        biases = torch.stack([conv.bias.detach() for conv in convs if conv.bias is not None])
        self.register_buffer("biases", biases, persistent=False)
        self.register_buffer("ones", torch.ones_like(biases), persistent=False)
        packed = [kernels.pack(conv.weight) for conv in convs] if self.has_conv else []
        self.register_buffer("packed", torch.stack(packed or [biases]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C_in, H, W] to [B, C_out, ceil(H / stride), ceil(W / stride)]."""
        # TorchScript reads nested conditions only, so not one `if`.
        if not torch.jit.is_scripting() and not torch.compiler.is_compiling():  # noqa: SIM102
            if self.fits_kernels and self._fits(x):
                return self._on_kernels(x)
        maps: list[Tensor] = []
        inputs = x.chunk(len(self.paths), dim=1) if self.split_input else [x] * len(self.paths)
        for i, path in enumerate(self.paths):
            maps.append(path(inputs[i]))
        attention = self.attn(pooled_sum(maps, self.pool_window))
        out: Tensor = weighted_sum(maps, attention, self.pool_window)
        return out

    @torch.jit.unused
    def _fits(self, x: Tensor) -> bool:
        return kernels.fits(x, paths_of(self)[0].conv) and not torch.is_autocast_enabled("cpu")

    @torch.jit.unused
    def _on_kernels(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        if self.has_conv:  # bias, ReLU and pooling on the convolutions' way
            maps, _, pooled = kernels.conv(
                x, [*self.packed], self.dilations, [*self.biases], relu=True
            )
            return kernels.select(maps, self.attn(pooled).contiguous(), in_place=True)
        # torch's convolutions; bias and ReLU wait for the passes that read the maps anyway
        maps = [
            torch.conv2d(x, c.weight, None, c.stride, c.padding, c.dilation, c.groups)
            for c in [path.conv for path in paths_of(self)]
        ]
        maps = [m.contiguous(memory_format=torch.channels_last) for m in maps]
        attention = self.attn(kernels.pool(maps, self.ones, self.biases)).contiguous()
        return kernels.select(maps, attention, self.ones, self.biases, in_place=True)


def optimize_for_inference(model: nn.Module, example: Tensor | None = None) -> nn.Module:
    """Copy a network for inference: norms folded into convolutions, channels last.

    A batch norm is folded into a convolution where a trial run shows that it takes the
    convolution's output, and the copy is returned only if it gives the model's outputs in float64,
    so any network with :class:`skseg.nn.SKConv2d`, an encoder or a whole smp model may be given.
    Attention is still read with :func:`skseg.nn.record_attention`.

    Args:
        model: the network; left as it is.
        example: an input to try, [B, C, H, W]; random images when None.

    Returns:
        The copy, in evaluation mode, without gradients, on the model's device.

    Raises:
        UserError: the model takes no images of 64 or 256 pixels, and there is no example.
    """
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    copied = copy.deepcopy(model).eval().requires_grad_(False).double()
    example = find_example(copied) if example is None else example
    folded = copy.deepcopy(copied)
    for conv_name, norm_name in _find_pairs(folded, example):
        conv, norm = folded.get_submodule(conv_name), folded.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        folded.set_submodule(conv_name, fuse_conv_bn_eval(conv, norm))
        folded.set_submodule(norm_name, nn.Identity())
    before, after = run(copied, example), run(folded, example)
    same = all(
        a.numel() == 0 or (a - b).abs().max() <= _TOLERANCE * a.abs().max()
        for a, b in zip(before, after, strict=True)
    )
    chosen = (folded if same else copied).to(dtype).to(memory_format=torch.channels_last)
    return _fold_units(chosen)


def _find_pairs(model: nn.Module, example: Tensor) -> list[tuple[str, str]]:
    """Find the names of convolutions and the batch norms that take their outputs.

    Each of a pair runs once, and the norm's input is the very tensor the convolution returned.
    """
    outputs: dict[int, tuple[str, Tensor]] = {}  # by identity; the tensor is kept alive
    calls: dict[str, int] = {}
    pairs: list[tuple[str, str]] = []

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def after_conv(_module: nn.Module, _args: object, output: Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            outputs[id(output)] = (name, output)

        def before_norm(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            calls[name] = calls.get(name, 0) + 1
            if id(args[0]) in outputs:
                pairs.append((outputs[id(args[0])][0], name))

        if type(module) is nn.Conv2d:
            return module.register_forward_hook(after_conv)
        return module.register_forward_pre_hook(before_norm)

    handles = [
        watch(name, module)
        for name, module in model.named_modules()
        if type(module) in (nn.Conv2d, nn.BatchNorm2d)
    ]
    run(model, example)
    for handle in handles:
        handle.remove()
    return [(c, n) for c, n in pairs if calls[c] == calls[n] == 1 and _has_statistics(model, n)]


def _has_statistics(model: nn.Module, norm_name: str) -> bool:
    return model.get_submodule(norm_name).running_mean is not None


def _fold_units(model: nn.Module) -> nn.Module:
    """Replace the SK units whose norms are all folded."""

    def is_folded(module: nn.Module) -> bool:
        return (
            isinstance(module, SKConv2d)
            and module.attn is not None
            and all(
                type(p.bn) is nn.Identity
                and isinstance(p.conv, nn.Conv2d)
                and p.conv.bias is not None
                for p in paths_of(module)
            )
        )

    names = [name for name, module in model.named_modules() if is_folded(module)]
    for name in names:
        unit = model.get_submodule(name)
        assert isinstance(unit, SKConv2d)
        if not name:
            return FoldedSKConv2d(unit)
        model.set_submodule(name, FoldedSKConv2d(unit))
    return model


def find_example(model: nn.Module) -> Tensor:
    """Return a random image that a float64 network takes: [1, C, 64, 64], or of 256 pixels.

    Raises:
        UserError: it takes neither.
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
        f"{type(model).__name__} takes no {channels}-channel images of "
        f"{' or '.join(map(str, _SIDES))} pixels ({failure}); give an example input"
    )


@torch.no_grad()
def run(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Run a float64 model on its own device; return its outputs as a list."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    out = model(images.to(device, torch.float64))
    return [out] if isinstance(out, Tensor) else list(out)
