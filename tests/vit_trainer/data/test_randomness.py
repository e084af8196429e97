"""Random numbers as functions of (seed, step, position)."""

import numpy as np
import pytest

from vit_trainer.data.randomness import Stream, dropout_keys, image_order, raw_bits, uniform


def test_the_stream_is_numpys_philox_for_ever() -> None:
    # Written down, so that a change would be seen: every finished trial rests on these numbers.
    assert raw_bits(Stream.ORDER, 0, 0, 0, 2).tolist() == [213000021201967259, 4455796210202625458]
    assert dropout_keys(1, 2, slice(3, 5)).tolist() == [-1458908279, 1365198860]


@pytest.mark.parametrize("other", [(1, 0, 0), (0, 1, 0), (0, 0, 1)], ids=["seed", "step", "attempt"])
def test_another_seed_step_or_attempt_is_another_stream(other: tuple[int, int, int]) -> None:
    one, two = uniform(Stream.CROP, 0, 0, 0, 10_000), uniform(Stream.CROP, *other, 10_000)
    assert abs(np.corrcoef(one, two)[0, 1]) < 4 / 100
    assert not set(one) & set(two)


def test_streams_never_run_into_each_other() -> None:
    seen = [raw_bits(stream, 0, step, 0, 1000) for stream in Stream for step in range(3)]
    assert len(np.unique(np.concatenate(seen))) == len(Stream) * 3 * 1000


def test_the_size_only_cuts_the_stream_off() -> None:
    assert (uniform(Stream.FLIP, 0, 5, 0, 7) == uniform(Stream.FLIP, 0, 5, 0, 100)[:7]).all()


def test_uniform_numbers_are_uniform() -> None:
    values = np.sort(uniform(Stream.CROP, 3, 0, 0, 100_000))
    assert values[0] >= 0
    assert values[-1] < 1
    assert np.abs(values - (np.arange(100_000) + 0.5) / 100_000).max() < 1.95 / 100_000**0.5


def test_an_epoch_sees_every_image_once_whatever_the_steps() -> None:
    stream = np.concatenate([image_order(0, first, 8, 20) for first in range(0, 40, 8)])
    assert sorted(stream[:20]) == list(range(20))
    assert sorted(stream[20:]) == list(range(20))
    assert (stream[:20] != stream[20:]).any()
    assert (stream == image_order(0, 0, 40, 20)).all()
    assert (image_order(0, 3, 5, 20) == stream[3:8]).all()


def test_a_batch_larger_than_the_data_set_wraps_around() -> None:
    assert sorted(image_order(0, 0, 7, 3)[:6]) == [0, 0, 1, 1, 2, 2]


def test_dropout_keys_are_those_of_the_positions() -> None:
    whole = dropout_keys(0, 4, slice(0, 512))
    assert (dropout_keys(0, 4, slice(256, 512)) == whole[256:]).all()
    assert len(set(whole)) == 512
    assert (whole < 0).any()
    assert (whole > 0).any()
