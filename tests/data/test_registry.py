import pytest

from skseg.data import DATASETS, get_dataset
from skseg.errors import UserError


@pytest.mark.parametrize("name", DATASETS)
def test_each_data_set_is_found_by_its_own_name(name):
    spec = get_dataset(name)
    assert spec.name == name
    assert {"train", "val"} <= set(spec.splits)
    assert len(spec.classes.names) == len(spec.classes.colors) == len(spec.classes)


def test_an_unknown_name_gets_a_near_one():
    with pytest.raises(UserError, match=r"'cityscape'; did you mean 'cityscapes'\?"):
        get_dataset("cityscape")


def test_a_far_name_gets_the_list():
    with pytest.raises(
        UserError, match=r"no data set 'zzz'; there are cityscapes, camvid, streets, folder$"
    ):
        get_dataset("zzz")
