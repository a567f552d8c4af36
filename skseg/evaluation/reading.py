"""Files that worker processes read ahead, while the network works."""

from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from torch.utils.data import DataLoader, Dataset

from skseg.errors import UserError

T = TypeVar("T")
R = TypeVar("R")


class _Reads(Dataset[R], Generic[T, R]):
    def __init__(self, read: Callable[[T], R], items: Sequence[T]) -> None:
        self.read = read
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> R:
        return self.read(self.items[index])


def read_ahead(read: Callable[[T], R], items: Sequence[T], num_workers: int) -> Iterator[R]:
    """Read items in their order, in worker processes.

    Args:
        read: Reads an item; it and the items must be picklable.
        items: The items, such as paths.
        num_workers: Number of processes; 0 reads in this one, when an item is needed.

    Yields:
        What `read` returns for each item.

    Raises:
        UserError: `num_workers` is negative.

    Example:
        >>> list(read_ahead(str.upper, ["a", "b"], num_workers=0))
        ['A', 'B']
    """
    if num_workers < 0:
        raise UserError(f"`num_workers` must be at least 0, got {num_workers}")
    # Without `collate_fn` the loader would turn arrays into tensors.
    reads = _Reads(read, items)
    return iter(DataLoader(reads, batch_size=None, num_workers=num_workers, collate_fn=_unchanged))


def _unchanged(item: R) -> R:
    return item
