"""Which stage of an encoder a parameter belongs to, whatever the encoder names its parts."""

import copy

import torch
from torch import Tensor, nn


def encoder_stages(encoder: nn.Module, image: Tensor | None = None) -> dict[str, int]:
    """Find the stage, counted from 1, of each parameter of an smp encoder.

    It is the first stage whose feature depends on the parameter. Parameters that no feature
    depends on are left out.

    Args:
        encoder: Maps an image to a list of features, the input's own first.
        image: [B, C, H, W] that the encoder accepts; a small image of 3 channels when None.

    Returns:
        The stage of each parameter, by the parameter's name.

    Example:
        >>> from segmentation_models_pytorch.encoders import get_encoder
        >>> stages = encoder_stages(get_encoder("sknet_tiny", weights=None))
        >>> stages["conv1.0.weight"], stages["layer4.1.bn3.bias"]
        (1, 5)
    """
    if image is None:
        side = 2 * int(encoder.output_stride)  # type: ignore[arg-type]
        image = torch.zeros(1, 3, side, side)
    copied = copy.deepcopy(encoder).to(image.device).eval()  # norm statistics must not see this
    copied.requires_grad_(True)
    features = copied(image)[1:]
    names, parameters = zip(*copied.named_parameters(), strict=True)
    stages: dict[str, int] = {}
    for stage, feature in enumerate(features, 1):
        if not feature.requires_grad:
            continue  # Mix Transformers have an empty feature at stride 2
        grads = torch.autograd.grad(feature.sum(), parameters, retain_graph=True, allow_unused=True)
        for name, grad in zip(names, grads, strict=True):
            if grad is not None:
                stages.setdefault(name, stage)
    return stages
