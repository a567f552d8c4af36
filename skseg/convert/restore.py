"""SK units where a checkpoint of a converted encoder has them."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from skseg.convert.grow import make_unit, place_unit
from skseg.convert.trace import trace
from skseg.encoders.settings import SKSettings


def restore_units(encoder: nn.Module, settings: SKSettings, state: Mapping[str, Tensor]) -> None:
    """Give an encoder the structure of its converted twin, in place, without any proof.

    The weights say which convolutions were converted, so the conversion's choice and comparison of
    outputs are not repeated. The units' weights are those of a new conversion until `state` is
    loaded.

    Args:
        encoder: An smp encoder as it was before the conversion, with 3 input channels.
        settings: Settings of the conversion.
        state: Weights of the converted encoder.
    """
    with_units = {name.rpartition(".paths.0.")[0] for name in state if ".paths.0." in name}
    converted = [
        name
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Conv2d) and name in with_units
    ]
    side = 2 * int(encoder.output_stride)  # type: ignore[arg-type]
    parameter = next(encoder.parameters())
    image = torch.zeros(1, 3, side, side, device=parameter.device, dtype=parameter.dtype)
    chains = trace(encoder, image).chains
    for name in converted:
        place_unit(encoder, chains[name], make_unit(encoder, chains[name], settings))
