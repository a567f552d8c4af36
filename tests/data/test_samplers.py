from hypothesis import given
from hypothesis import strategies as st

from skseg.data.samplers import EvalSampler, TrainSampler

sizes, worlds = st.integers(0, 60), st.integers(1, 7)


def draw(size, world_size, seed=0, epoch=0):
    shares = []
    for rank in range(world_size):
        sampler = TrainSampler(size, seed, rank, world_size)
        sampler.set_epoch(epoch)
        shares.append(list(sampler))
        assert len(sampler) == len(shares[-1])
    return shares


@given(sizes, worlds, st.integers(0, 9), st.integers(0, 9))
def test_ranks_draw_equally_many_and_no_sample_twice(size, world_size, seed, epoch):
    shares = draw(size, world_size, seed, epoch)
    assert {len(share) for share in shares} == {size // world_size}
    indices = [index for share in shares for index, _ in share]
    assert len(set(indices)) == len(indices)
    assert set(indices) <= set(range(size))


@given(sizes, worlds)
def test_every_sample_is_evaluated_exactly_once(size, world_size):
    shares = [list(EvalSampler(size, rank, world_size)) for rank in range(world_size)]
    drawn = [index for share in shares for index in share]
    assert sorted(index for index in drawn if index is not None) == list(range(size))
    assert len({len(share) for share in shares}) == 1
    assert drawn.count(None) < world_size


@given(sizes, worlds, st.data())
def test_an_epoch_goes_on_where_it_was_left(size, world_size, data):
    whole = TrainSampler(size, 3, 0, world_size, epoch=2)
    start = data.draw(st.integers(0, len(whole)))
    rest = TrainSampler(size, 3, 0, world_size, epoch=2, start=start)
    rest.set_epoch(2)
    assert list(rest) == list(whole)[start:]
    assert len(rest) == len(whole)  # Lightning counts on from the start
    for sampler in (whole, rest):
        sampler.set_epoch(3)
    assert list(rest) == list(whole)


@given(st.integers(20, 60), worlds, st.integers(0, 2**32))
def test_runs_agree_and_epochs_differ(size, world_size, seed):
    assert draw(size, world_size, seed, 3) == draw(size, world_size, seed, 3)
    assert draw(size, world_size, seed, 3) != draw(size, world_size, seed, 4)
    assert draw(size, world_size, seed, 3) != draw(size, world_size, seed + 1, 3)


def test_the_seed_of_a_sample_depends_on_run_epoch_and_index_alone():
    alone = {pair for share in draw(12, 1, seed=5, epoch=2) for pair in share}
    shared = {pair for share in draw(12, 4, seed=5, epoch=2) for pair in share}
    assert alone == shared
    assert len({seed for _, seed in alone}) == 12
    assert not alone & {pair for share in draw(12, 1, seed=5, epoch=3) for pair in share}


def test_the_remainder_that_is_left_out_changes():
    left_out = {
        frozenset(range(7)) - {i for share in draw(7, 2, epoch=epoch) for i, _ in share}
        for epoch in range(30)
    }
    assert len(left_out) == 7
