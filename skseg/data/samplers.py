"""Which samples a process draws, in which order and with which random seeds."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class TrainSampler(Sampler[tuple[int, int]]):
    """A new permutation each epoch, shared out evenly, with a seed for each sample.

    Over all ranks a sample occurs at most once an epoch. All ranks draw equally many: what does
    not divide evenly is left out, and is another remainder each epoch.
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
        """Starts at an epoch, or within it.

        Args:
            size: Of the whole training set.
            seed: Of the run, not negative; the same on all ranks.
            rank: Of this process.
            world_size: How many processes there are.
            epoch: The first epoch.
            start: How many samples of this process's share of the first epoch are done.
        """
        self.size = size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = epoch
        self.start = start

    def set_epoch(self, epoch: int) -> None:
        """Chooses the permutation; Lightning calls it at the start of each epoch."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    def __len__(self) -> int:
        """The samples of a whole epoch, by which Lightning counts."""
        return self.size // self.world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yields an index and the seed of its random transform, uint64."""
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
        for index in order[self.rank :: self.world_size][self.start : len(self)].tolist():
            entropy = np.random.SeedSequence((self.seed, self.epoch, index))
            yield index, int(entropy.generate_state(1, np.uint64)[0])


class EvalSampler(Sampler[int | None]):
    """Every sample exactly once over all ranks, in order.

    All ranks draw equally many, as collective operations need it: a share that is one short ends
    in None, for which a `SegmentationDataset` gives a sample that counts nowhere.
    """

    def __init__(self, size: int, rank: int = 0, world_size: int = 1):
        """Takes the size of the whole split, this process's rank and the number of processes."""
        self.indices: list[int | None] = list(range(rank, size, world_size))
        if len(self.indices) < -(-size // world_size):
            self.indices.append(None)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int | None]:
        return iter(self.indices)
