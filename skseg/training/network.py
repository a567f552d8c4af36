"""Parts of a network in training: frozen, unused and additional ones."""

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torchvision.models.segmentation.fcn import FCNHead

from skseg.encoders import weights_normalization
from skseg.errors import UserError

STRIDE_16 = 4
"""Index of the feature of stride 16 in an undilated encoder."""


def unused_parameters(model: nn.Module, channels: int = 3) -> list[str]:
    """Return the names of the trained parameters that get no gradient.

    Args:
        model: A segmentation model; it is copied.
        channels: Channels of its input.

    Example:
        >>> from skseg import build_model
        >>> model = build_model("unet", "sknet_tiny", encoder_depth=3, decoder_channels=(16, 8, 8))
        >>> unused_parameters(model)[0]
        'encoder.layer3.0.conv1.weight'
    """
    twin = copy.deepcopy(model).train()
    with torch.random.fork_rng(devices=[]):  # dropout must not change what training draws
        twin(torch.zeros(2, channels, 64, 64)).sum().backward()
    return [name for name, p in twin.named_parameters() if p.requires_grad and p.grad is None]


def check_normalization(
    encoder_name: str, encoder_weights: str, mean: Sequence[float], std: Sequence[float]
) -> None:
    """Raise if weights are known to expect images with another normalization.

    Args:
        encoder_name: The encoder.
        encoder_weights: The name or file of its weights.
        mean: Mean of each input channel, as fractions.
        std: Standard deviation of each input channel, as fractions.

    Raises:
        UserError: The normalization is another one.
    """
    expected = weights_normalization(encoder_name, encoder_weights)
    if expected is not None and not expected.agrees(mean, std):
        shown = " and ".join(
            f"`{key}` [{', '.join(f'{x:.4f}' for x in values)}]"
            for key, values in expected._asdict().items()
        )
        raise UserError(
            f"the weights {encoder_weights} of {encoder_name} expect images normalized with "
            f"{shown}, not {list(mean)} and {list(std)}"
        )


def freeze_part(model: nn.Module, what: str | None) -> list[nn.Module]:
    """Freeze a part of a model; return the modules that must stay in eval mode.

    Args:
        model: A model with an `encoder`.
        what: "encoder", "encoder_norms", or None for nothing.
    """
    if what is None:
        return []
    encoder = model.encoder
    assert isinstance(encoder, nn.Module)
    frozen = [encoder]
    if what == "encoder_norms":
        norms = (_NormBase, nn.GroupNorm, nn.LayerNorm)
        frozen = [module for module in encoder.modules() if isinstance(module, norms)]
    for module in frozen:
        module.requires_grad_(False).eval()
    return frozen


def auxiliary_head(model: nn.Module, num_classes: int) -> nn.Module:
    """Build an FCN head on the feature of stride 16 of an undilated encoder.

    Args:
        model: A model with an `encoder`.
        num_classes: Channels of the head's logits.

    Raises:
        UserError: The encoder has no such feature.
    """
    channels = list(model.encoder.out_channels)  # type: ignore[arg-type, union-attr]
    if len(channels) <= STRIDE_16:
        raise UserError(
            f"`auxiliary_weight` requires a stage of stride 16: `encoder_depth` must be at least "
            f"{STRIDE_16}, got {len(channels) - 1}"
        )
    head: nn.Module = FCNHead(channels[STRIDE_16], num_classes)
    return head
