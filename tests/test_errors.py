import pytest
from torch.utils.data import DataLoader, Dataset

from skseg.errors import UserError


class Broken(Dataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        raise UserError("picture.png: cannot be read\ntry another")


def test_a_workers_traceback_stays_out_of_the_message() -> None:
    with pytest.raises(UserError) as caught:
        next(iter(DataLoader(Broken(), num_workers=1)))
    assert str(caught.value) == "picture.png: cannot be read\ntry another"
