"""The datamodule: from the name of a data set to the loaders of a run."""

import math
import multiprocessing
import os
import signal
import threading
from pathlib import Path
from typing import Any

import cv2
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from skseg.data.dataset import DatasetItem, SegmentationDataset
from skseg.data.headers import checked_pairs
from skseg.data.labels import check_labels, count_labels, no_labels
from skseg.data.registry import default_root, get_dataset
from skseg.data.samplers import EvalSampler, TrainSampler
from skseg.data.transforms import eval_transform, load_augmentation, train_transform
from skseg.errors import UserError, check_values
from skseg.pixels import IMAGENET_MEAN, IMAGENET_STD
from skseg.progress import track

_LONGEST_CROP = 16_384  # pixels; a batch of more fits no memory
_MOST_WORKERS = 1024  # a slip of the finger must not start processes until the machine stops


class SegmentationDataModule(pl.LightningDataModule):
    """Training crops and whole evaluation images of one data set.

    Batches are dicts, see `skseg.types.Batch`. The trainer must run with
    `use_distributed_sampler=False`: the samplers here divide the samples among the devices.

    Example:
        >>> data = SegmentationDataModule("camvid", root="data/camvid", batch_size=4)
        >>> data.num_classes, data.class_names[0], data.colors[0]
        (11, 'sky', (128, 128, 128))
    """

    def __init__(
        self,
        name: str,
        root: str | None = None,
        batch_size: int = 8,
        crop_size: tuple[int, int] = (512, 512),
        scale: tuple[float, float] = (0.5, 2.0),
        flip: float = 0.5,
        color_jitter: float = 0.3,
        augmentation: str | None = None,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        num_workers: int = 2,
        seed: int = 0,
        eval_split: str = "val",
    ):
        """Check the values; `setup` finds the files.

        Args:
            name: The data set: cityscapes, camvid, streets, or folder for your own data.
            root: Its directory; data/NAME by default.
            batch_size: Number of training samples per step, in total over all devices.
            crop_size: Height and width of the training crops, in pixels.
            scale: Range of the random scale of training images.
            flip: Probability of mirroring a training image.
            color_jitter: Strength of random changes of brightness, contrast, saturation and hue,
                from 0 (off) to 1.
            augmentation: File of further random transforms of the training crops, written by
                albumentations' A.save; they run after those above.
            mean: RGB mean of the images, as fractions of the full range.
            std: RGB standard deviation of the images, as fractions of the full range.
            num_workers: Number of processes per loader that read and transform images.
            seed: Seed of the order and the random transforms of the training samples.
            eval_split: The split for validation and test.

        Raises:
            UserError: A value is out of range, or there is no such data set or split.
        """
        super().__init__()
        self.name = name
        self.root = Path(root or default_root(name))
        self.spec = get_dataset(name, self.root)
        self.batch_size = batch_size
        self.crop_size = crop_size
        self.scale = scale
        self.flip = flip
        self.color_jitter = color_jitter
        self.augmentation = augmentation
        self.mean = mean
        self.std = std
        self.num_workers = num_workers
        self.seed = seed
        self.eval_split = eval_split
        self._position = (0, 0)  # where training starts: the epoch, and its finished batches
        self._check()

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, by index."""
        return list(self.spec.classes.names)

    @property
    def colors(self) -> list[tuple[int, int, int]]:
        """The RGB colors of the classes, 0 to 255, by index."""
        return list(self.spec.classes.colors)

    @property
    def num_classes(self) -> int:
        """The number of classes, without void."""
        return len(self.spec.classes)

    def check_files(self) -> None:
        """Check the files of training and evaluation, so that no run starts that must fail.

        All headers are read. Of data sets that a user describes, masks are read until each class
        has been found, see `skseg.data.labels.check_labels`.

        Raises:
            UserError: The data are missing or incomplete, a file cannot be used, a class has no
                pixel in the training set, or more than half of all its pixels are void.
        """
        train_pairs = checked_pairs(self.spec, self.root, "train")
        if self.eval_split != "train":
            checked_pairs(self.spec, self.root, self.eval_split)
        check_labels(self.spec, train_pairs)

    def setup(self, stage: str) -> None:
        """Find the files of the splits that a stage needs.

        Args:
            stage: "fit", or another stage of Lightning's, which needs `eval_split` only.

        Raises:
            UserError: The data are missing or incomplete, `batch_size` does not fit the
                training set and the number of devices, or `augmentation` is not a valid file.
        """
        if stage == "fit":
            transform = train_transform(
                self.crop_size,
                self.scale,
                self.flip,
                self.color_jitter,
                self.mean,
                self.std,
                load_augmentation(self.augmentation, self.crop_size) if self.augmentation else None,
            )
            self.train_set = SegmentationDataset(self.spec, self.root, "train", transform)
            self._check_batch_size()
        transform = eval_transform(self.mean, self.std)
        self.eval_set = SegmentationDataset(self.spec, self.root, self.eval_split, transform)

    def train_dataloader(self) -> DataLoader[DatasetItem]:
        """Return the loader of random crops; a last batch that is too short is dropped."""
        batch_size = self.batch_size // self._world_size
        epoch, batches = self._position
        sampler = TrainSampler(
            len(self.train_set),
            self.seed,
            self._rank,
            self._world_size,
            epoch=epoch,
            start=batches * batch_size,
        )
        return self._loader(self.train_set, sampler, batch_size=batch_size, drop_last=True)

    def val_dataloader(self) -> DataLoader[DatasetItem]:
        """Return the loader of whole images of `eval_split`, each exactly once over all devices."""
        return self._loader(
            self.eval_set, EvalSampler(len(self.eval_set), self._rank, self._world_size)
        )

    def test_dataloader(self) -> DataLoader[DatasetItem]:
        """Return the same loader as `val_dataloader`."""
        return self.val_dataloader()

    def train_counts(self) -> torch.Tensor:
        """Count the labeled pixels of each class in the training masks: int64 [K].

        Raises:
            UserError: A mask cannot be read, or has a value that belongs to no class.
        """
        counts = no_labels(self.num_classes)
        for pair in track(self.train_set.pairs, "class weights"):
            counts += count_labels(self.spec.read_mask(pair.mask), self.num_classes)
        return torch.from_numpy(counts.classes)

    def state_dict(self) -> dict[str, int]:
        """Return the position of training for a checkpoint: the epoch and its finished batches."""
        assert self.trainer is not None
        epoch, batches = self.trainer.current_epoch, self.trainer.fit_loop.batch_idx + 1
        if batches >= self.trainer.num_training_batches:
            epoch, batches = epoch + 1, 0
        return {"epoch": epoch, "batches": batches}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Make `train_dataloader` start at the position of a checkpoint."""
        self._position = state_dict["epoch"], state_dict["batches"]

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    def _loader(
        self, dataset: SegmentationDataset, sampler: TrainSampler | EvalSampler, **kwargs: Any
    ) -> DataLoader[DatasetItem]:
        return DataLoader(
            dataset,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_init_worker,
            # By default each new iterator draws a number from torch's global generator, which would
            # shift the random numbers of the network.
            generator=torch.Generator(),
            **kwargs,
        )

    def _check(self) -> None:
        rules = {
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "crop_size": (
                len(self.crop_size) == 2 and all(1 <= x <= _LONGEST_CROP for x in self.crop_size),
                f"a height and a width from 1 to {_LONGEST_CROP}",
            ),
            "scale": (
                len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1] < math.inf,
                "two factors above 0, the smaller one first",
            ),
            "flip": (0 <= self.flip <= 1, "a probability from 0 to 1"),
            "color_jitter": (0 <= self.color_jitter <= 1, "from 0 to 1"),
            "mean": (
                len(self.mean) == 3 and all(0 <= x <= 1 for x in self.mean),
                "three fractions from 0 to 1, not 0 to 255",
            ),
            "std": (
                len(self.std) == 3 and all(0 < x <= 1 for x in self.std),
                "three fractions above 0 up to 1, not 0 to 255",
            ),
            "num_workers": (0 <= self.num_workers <= _MOST_WORKERS, f"from 0 to {_MOST_WORKERS}"),
            "seed": (self.seed >= 0, "0 or more"),
            "eval_split": (self.eval_split in self.spec.splits, " or ".join(self.spec.splits)),
        }
        check_values(vars(self), rules)

    def _check_batch_size(self) -> None:
        world_size, size = self._world_size, len(self.train_set)
        if self.batch_size % world_size:
            raise UserError(
                f"`batch_size` is the total over all devices and must be a multiple of their "
                f"number, {world_size}, got {self.batch_size}"
            )
        # The loader drops a short last batch, which would be the only one here.
        if self.batch_size // world_size > size // world_size:
            raise UserError(
                f"`batch_size` must be at most {size // world_size * world_size}, because the "
                f"training set in {self.root} has only {size} images, got {self.batch_size}"
            )


def _init_worker(worker: int) -> None:
    # Workers run in parallel, so threads of cv2 would only compete with them.
    cv2.setNumThreads(0)
    # Ctrl-C and the signals of job schedulers may go to all processes of a job. The main process
    # saves a checkpoint then, and still needs its workers.
    for name in ("SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    # The same holds for SIGTERM. But a SIGTERM from the parent does end them: after an error, it
    # sends one and waits.
    if hasattr(signal, "sigwaitinfo"):  # macOS does not tell the sender of a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_by_parent, daemon=True).start()


def _end_by_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent  # this is a worker
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent.pid:
        pass
    os._exit(0)
