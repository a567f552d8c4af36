"""Random norms, so that a test fails if a norm is swapped, dropped or folded wrongly."""

from typing import TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

Network = TypeVar("Network", bound=nn.Module)


def randomize_norms(network: Network, spread: float = 0.5) -> Network:
    """Give batch norms parameters and statistics that are not the identity; return the network."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=spread)
            nn.init.normal_(module.running_mean, std=spread)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network
