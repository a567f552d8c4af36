"""Samplers: which samples a process reads, in which order and with which random seeds."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class TrainSampler(Sampler[tuple[int, int]]):
    """A new permutation each epoch, divided evenly among the ranks, with a seed for each sample.

    Over all ranks a sample occurs at most once per epoch. All ranks read the same number of
    samples: the remainder of the division is left out, and differs from epoch to epoch.

    Args:
        size: Size of the whole training set.
        seed: Seed of the run, not negative; the same on all ranks.
        rank: Rank of this process.
        world_size: Number of processes.
        epoch: The first epoch.
        start: Number of samples of this rank's share of the first epoch to skip.

    Example:
        >>> sampler = TrainSampler(size=5, seed=0, rank=0, world_size=2)
        >>> len(sampler), len(list(sampler))
        (2, 2)
        >>> index, seed = next(iter(sampler))
    """

    def __init__(
        self,
        size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        epoch: int = 0,
        start: int = 0,
    ):
        self.size = size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = epoch
        self.start = start

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation; Lightning calls this at the start of each epoch."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __len__(self) -> int:
        """Return the number of samples of a whole epoch, which Lightning counts with."""
        return self.size // self.world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield an index and the seed of its random transform, uint64."""
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
        for index in order[self.rank :: self.world_size][self.start : len(self)].tolist():
            entropy = np.random.SeedSequence((self.seed, self.epoch, index))
            yield index, int(entropy.generate_state(1, np.uint64)[0])


class EvalSampler(Sampler[int | None]):
    """Every sample exactly once over all ranks, in order.

    All ranks read the same number of samples, because collective operations need it: a share that
    is one short ends in None, for which a `SegmentationDataset` returns an all-void item.

    Args:
        size: Size of the whole split.
        rank: Rank of this process.
        world_size: Number of processes.

    Example:
        >>> [list(EvalSampler(size=5, rank=rank, world_size=2)) for rank in range(2)]
        [[0, 2, 4], [1, 3, None]]
    """

    def __init__(self, size: int, rank: int = 0, world_size: int = 1):
        self.indices: list[int | None] = list(range(rank, size, world_size))
        if len(self.indices) < -(-size // world_size):
            self.indices.append(None)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int | None]:
        return iter(self.indices)
