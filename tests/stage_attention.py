"""Attention by stage, computed image by image: the reference for the logged means."""

from pathlib import Path

import numpy as np
import torch

from skseg.data import get_dataset, read_pair
from skseg.nn.attention import SKAttention
from skseg.pixels import normalize
from skseg.training.task import SegmentationTask


def mean_attention(task: SegmentationTask, root: Path) -> dict[str, float]:
    """Return the mean attention by stage and branch of a network with 4 stages and 2 branches."""
    spec = get_dataset("streets")
    seen: dict[str, list[float]] = {}
    for name, module in task.model.named_modules():
        if isinstance(module, SKAttention):
            stage = name.split(".")[1]

            def hook(_m: object, _a: object, out: torch.Tensor, stage: str = stage) -> None:
                for branch, span in enumerate((3, 5)):
                    weight = float(out[0, branch].mean())
                    seen.setdefault(f"val/attention/{stage}/{span}", []).append(weight)

            module.register_forward_hook(hook)
    for pair in spec.pairs(root, "val"):
        image, _ = read_pair(spec, pair)
        with torch.inference_mode():
            task(normalize(image, task.mean, task.std)[None])
    assert len(seen) == 8
    return {key: float(np.mean(values)) for key, values in seen.items()}
