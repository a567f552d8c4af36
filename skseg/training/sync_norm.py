"""Batch norms over all processes."""

from pytorch_lightning.plugins import LayerSync
from timm.layers import convert_sync_batchnorm
from torch import nn


class TimmSyncBatchNorm(LayerSync):
    """Convert batch norms with timm's converter.

    torch's converter, which Lightning uses, turns timm's BatchNormAct2d into a norm without its
    activation.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Convert the batch norms of a model."""
        converted: nn.Module = convert_sync_batchnorm(model)
        return converted

    def revert(self, model: nn.Module) -> nn.Module:
        """Keep the converted norms: both kinds have the same checkpoints, and the process ends."""
        return model
