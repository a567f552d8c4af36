"""Files read ahead: in order, and no negative number of processes."""

import pytest

from skseg.errors import UserError
from skseg.evaluation.reading import read_ahead


@pytest.mark.parametrize("num_workers", [0, 2])
def test_items_come_in_order(num_workers: int) -> None:
    words = [f"word {i}" for i in range(9)]
    assert list(read_ahead(str.upper, words, num_workers)) == [word.upper() for word in words]


def test_a_negative_number_of_processes_is_refused() -> None:
    with pytest.raises(UserError, match="`num_workers` must be at least 0, got -1"):
        read_ahead(str.upper, ["a"], -1)
