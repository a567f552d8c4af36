import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import tracemalloc

import pytest
import pytorch_lightning as pl
import torch

from skseg.data import VOID, SegmentationDataModule
from skseg.errors import UserError


def datamodule(root, **kwargs):
    kwargs = {"batch_size": 2, "crop_size": (24, 32), "num_workers": 0} | kwargs
    return SegmentationDataModule("camvid", str(root), **kwargs)


def train_epochs(data, epochs=1):
    data.setup("fit")
    loader = data.train_dataloader()
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        yield list(loader)


def same(a, b):
    return a["name"] == b["name"] and all(torch.equal(a[k], b[k]) for k in ("image", "mask"))


class Devices:
    """As much of a trainer as a datamodule looks at."""

    def __init__(self, global_rank, world_size):
        self.global_rank, self.world_size = global_rank, world_size


def test_what_a_task_needs_is_there_before_any_file():
    data = SegmentationDataModule("cityscapes", mean=(0.1, 0.2, 0.3))
    assert data.num_classes == len(data.class_names) == len(data.colors) == 19
    assert data.class_names[13] == "car"
    assert data.colors[13] == (0, 0, 142)
    assert data.mean == (0.1, 0.2, 0.3)
    assert data.root.as_posix() == "data/cityscapes"


def test_training_batches(noise_root):
    (batches,) = train_epochs(datamodule(noise_root))
    assert len(batches) == 4  # of nine samples
    names = [name for batch in batches for name in batch["name"]]
    assert len(set(names)) == 8
    for batch in batches:
        assert batch["image"].shape == (2, 3, 24, 32)
        assert batch["mask"].shape == (2, 24, 32)
        assert batch["mask"].dtype == torch.int64


@pytest.mark.parametrize("stage", ["validate", "test", "fit"])
def test_evaluation_gives_whole_images_in_order(noise_root, stage):
    data = datamodule(noise_root, batch_size=1)
    data.setup(stage)
    for loader in (data.val_dataloader(), data.test_dataloader()):
        batches = list(loader)
        assert [batch["name"] for batch in batches] == [[str(i)] for i in range(5)]
        assert batches[0]["image"].shape == (1, 3, 40, 56)


def test_the_evaluation_split_can_be_chosen(noise_root):
    data = datamodule(noise_root, eval_split="train")
    data.setup("test")
    assert len(data.test_dataloader()) == 9


def test_an_error_ends_a_program_whose_workers_are_busy(noise_root):
    """The traceback keeps them to the end, when they are told to end and waited for."""
    code = f"""
from skseg.data import SegmentationDataModule
data = SegmentationDataModule("camvid", {str(noise_root)!r}, batch_size=1, num_workers=1)
data.setup("fit")
batches = iter(data.train_dataloader())
raise RuntimeError("not foreseen")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("RuntimeError: not foreseen")


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="a system that names no sender")
@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1", "USR2"])
def test_workers_outlive_the_signal_of_another(noise_root, name):
    data = datamodule(noise_root, num_workers=1, batch_size=1)
    data.setup("fit")
    loader = data.train_dataloader()
    batches = iter(loader)
    next(batches)
    (worker,) = multiprocessing.active_children()
    subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    assert len(list(batches)) == len(loader) - 1
    os.kill(worker.pid, signal.SIGTERM)
    worker.join(timeout=60)
    assert worker.exitcode == 0


def test_batches_do_not_depend_on_the_workers(noise_root):
    alone = list(train_epochs(datamodule(noise_root, num_workers=0), epochs=2))
    shared = list(train_epochs(datamodule(noise_root, num_workers=2), epochs=2))
    for a, b in zip(alone, shared, strict=True):
        assert all(same(x, y) for x, y in zip(a, b, strict=True))


def test_epochs_and_seeds_differ_in_order_and_in_crops(noise_root):
    first, second = train_epochs(datamodule(noise_root, batch_size=1), epochs=2)
    (other,) = train_epochs(datamodule(noise_root, batch_size=1, seed=1))
    for epoch in (second, other):
        assert [b["name"] for b in epoch] != [b["name"] for b in first]
        by_name = {b["name"][0]: b["image"] for b in epoch}
        assert not any(torch.equal(b["image"], by_name[b["name"][0]]) for b in first)


@pytest.mark.parametrize("split", ["train", "val"])
def test_devices_share_the_data_and_the_batch_size(noise_root, split):
    names, sizes, empty = [], set(), 0
    for rank in range(2):
        data = datamodule(noise_root, batch_size=4)
        data.trainer = Devices(rank, 2)
        data.setup("fit")
        loader = data.train_dataloader() if split == "train" else data.val_dataloader()
        for batch in loader:
            sizes.add(len(batch["name"]))
            if (batch["mask"] == VOID).all():
                empty += 1  # fills up the second share
            else:
                names += batch["name"]
    assert len(set(names)) == len(names) == (8 if split == "train" else 5)
    assert sizes == {2 if split == "train" else 1}
    assert empty == (split == "val")


def test_a_batch_size_that_devices_cannot_share_is_refused(noise_root):
    data = datamodule(noise_root, batch_size=4)
    data.trainer = Devices(0, 3)
    with pytest.raises(UserError, match=r"`batch_size` .* multiple of .* 3, got 4"):
        data.setup("fit")


def test_a_batch_larger_than_the_training_set_is_refused(noise_root):
    with pytest.raises(UserError, match=r"`batch_size` must be at most 9, .* 9 images, got 10"):
        datamodule(noise_root, batch_size=10).setup("fit")
    datamodule(noise_root, batch_size=9).setup("fit")
    datamodule(noise_root, batch_size=10).setup("test")  # has no part in evaluation


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch_size", 0),
        ("crop_size", (0, 32)),
        ("crop_size", (32,)),
        ("crop_size", (99_999_999, 32)),
        ("scale", (0.0, 1.0)),
        ("scale", (2.0, 0.5)),
        ("scale", (1.0,)),
        ("scale", (float("nan"), 1.0)),
        ("scale", (1.0, float("inf"))),
        ("flip", 1.5),
        ("color_jitter", -0.1),
        ("color_jitter", 2.0),
        ("mean", (123.7, 116.3, 103.5)),
        ("std", (0.2, 0.0, 0.2)),
        ("std", (58.4, 57.1, 57.4)),
        ("mean", (0.5, 0.5)),
        ("mean", (0.5, 0.5, 0.5, 0.5)),
        ("mean", (float("nan"), 0.5, 0.5)),
        ("std", (0.5, 0.5)),
        ("num_workers", -1),
        ("num_workers", 99_999_999),
        ("seed", -1),
        ("eval_split", "valid"),
    ],
)
def test_a_value_out_of_range_is_named(key, value):
    with pytest.raises(UserError, match=rf"^`{key}` must be .*, got ") as error:
        SegmentationDataModule("camvid", **{key: value})
    assert "\n" not in str(error.value)


def test_an_unknown_data_set_is_refused():
    with pytest.raises(UserError, match="did you mean 'camvid'"):
        SegmentationDataModule("camvit")


def test_missing_data_are_an_error_at_setup(tmp_path):
    data = datamodule(tmp_path / "nowhere")
    with pytest.raises(UserError, match="nowhere is not a directory"):
        data.setup("fit")


class Recorder(pl.LightningModule):
    """Notes which samples it sees, and learns nothing."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen, self.evaluated = [], []

    def training_step(self, batch):
        self.seen.append((self.current_epoch, batch["name"], batch["image"].sum().item()))
        return self.layer.weight.sum()

    def validation_step(self, batch):
        self.evaluated += batch["name"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_lightning_tells_the_sampler_the_epoch(noise_root, tmp_path):
    module = Recorder()
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        use_distributed_sampler=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, datamodule=datamodule(noise_root))
    expected = [
        (epoch, batch["name"], batch["image"].sum().item())
        for epoch, batches in enumerate(train_epochs(datamodule(noise_root), epochs=2))
        for batch in batches
    ]
    assert module.seen == expected
    assert module.evaluated == [str(i) for i in range(5)] * 2


def alive():
    """Bytes that Python, NumPy and tensors hold; a process also keeps what its allocator spares."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if type(thing) is torch.Tensor]
    return tracemalloc.get_traced_memory()[0] + sum(t.untyped_storage().nbytes() for t in tensors)


def test_memory_stays_constant_over_epochs(streets_root):
    """In the process that loads: nothing of the pictures of a third to sixth epoch is kept."""
    module = SegmentationDataModule(
        "streets", str(streets_root), batch_size=2, crop_size=(512, 512), num_workers=0
    )
    module.setup("fit")
    loader = module.train_dataloader()
    used = []
    tracemalloc.start()
    try:
        for epoch in range(6):
            loader.sampler.set_epoch(epoch)
            for batch in loader:
                assert batch["image"].shape == (2, 3, 512, 512)
            used.append(alive())
    finally:
        tracemalloc.stop()
    picture = 3 * 512 * 512
    assert used[-1] - used[1] < picture  # of the 16 in four epochs
