"""Validate a checkpoint on whole images, in as many processes as there are: run by tests.

python validating.py CHECKPOINT ROOT DEVICES OUTPUT
"""

import sys
from pathlib import Path

import pytorch_lightning as pl
import torch

from skseg import SegmentationDataModule, load_model

checkpoint, root, devices, output = sys.argv[1:]
task = load_model(checkpoint)
trainer = pl.Trainer(
    accelerator="cpu",
    devices=int(devices),
    strategy="ddp",
    logger=False,
    enable_progress_bar=False,
    use_distributed_sampler=False,
)
if trainer.global_rank > 0:  # as training leaves them: each process has its own
    for buffer in task.model.buffers():
        buffer.add_(1)
data = SegmentationDataModule("streets", root, num_workers=0)
(scores,) = trainer.validate(task, datamodule=data, verbose=False)
if trainer.is_global_zero:
    torch.save({"confusion": task.last_confusion, "scores": scores}, Path(output))
