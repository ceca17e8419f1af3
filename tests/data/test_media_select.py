import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtrap_data.errors import UsageError
from vtrap_data.media.select import FramesNotStoredError, frame_ids, pool_frames, subset_slots

powers = st.integers(0, 4).flatmap(lambda a: st.tuples(st.just(2**a), st.integers(a, a + 3).map(lambda b: 2**b)))


@st.composite
def videos(draw):
    gaps = draw(st.lists(st.floats(1e-4, 10, allow_nan=False), min_size=1, max_size=200))
    pts = np.concatenate([[0.0], np.cumsum(gaps[:-1])])
    return pts, float(pts[-1] + gaps[-1])


@given(videos(), st.integers(1, 130))
def test_the_frame_taken_is_the_one_on_screen_at_the_bin_centre(video, slots):
    pts, duration = video
    taken = pool_frames(pts, duration, slots=slots)
    assert taken.dtype == np.int64 and taken.shape == (slots,)
    assert (np.diff(taken) >= 0).all()
    ends = np.append(pts[1:], duration)
    for slot, frame in enumerate(taken):
        centre = (slot + 0.5) / slots * duration
        assert pts[frame] <= centre
        # The last frame stays to the end, however the sum of the gaps was rounded.
        assert centre < ends[frame] or frame == len(pts) - 1


def test_by_time_and_not_by_number():
    # Nine frames in the first second, one that stays for nine: by number, the first second would fill the pool.
    pts = np.append(np.arange(9) / 9, 1.0)
    assert pool_frames(pts, 10.0, slots=4).tolist() == [9, 9, 9, 9]
    assert pool_frames(pts, 10.0, slots=10).tolist() == [4, *[9] * 9]


def test_total_for_one_frame_and_for_millions():
    assert pool_frames([0.0], 1e-9, slots=64).tolist() == [0] * 64
    assert pool_frames(np.arange(2_000_000) / 25, 80_000.0, slots=4).tolist() == [
        250_000,
        750_000,
        1_250_000,
        1_750_000,
    ]
    assert pool_frames([5.0, 6.0], 2.0, slots=2).tolist() == [0, 0]  # nothing on screen yet: the first frame


@pytest.mark.parametrize(
    ("pts", "duration", "slots"),
    [([], 1, 1), ([0], 0, 1), ([0], -1, 1), ([0], np.nan, 1), ([0], np.inf, 1), ([0], 1, 0)],
)
def test_impossible_input_is_refused(pts, duration, slots):
    with pytest.raises(ValueError, match="must be"):
        pool_frames(pts, duration, slots=slots)


def test_the_subsets_of_the_design():
    assert subset_slots(64, 8, smallest=8).tolist() == [8 * i + 4 for i in range(8)]
    assert subset_slots(64, 16, smallest=8).tolist() == [4 * i for i in range(16)]
    assert subset_slots(64, 32, smallest=8).tolist() == [2 * i for i in range(32)]
    assert subset_slots(64, 64, smallest=8).tolist() == list(range(64))
    assert subset_slots(16, 2, smallest=2).tolist() == [4, 12]
    assert subset_slots(16, 1, smallest=1).tolist() == [8]


@given(powers, st.integers(0, 3), st.integers(1, 5))
def test_subsets_nest_and_are_evenly_spaced(pair, doublings, odd):
    smallest, frames = pair[0] * odd, pair[1] * odd
    slots = frames * 2**doublings
    chosen = subset_slots(slots, frames, smallest=smallest)
    assert len(chosen) == frames
    assert chosen[0] >= 0 and chosen[-1] < slots
    assert set(np.diff(chosen).tolist()) <= {slots // frames}
    for larger in (frames * 2**i for i in range(doublings + 1)):
        assert set(chosen) <= set(subset_slots(slots, larger, smallest=smallest))


@given(powers)
def test_the_smallest_budget_sits_in_the_middle_of_its_bins(pair):
    frames, slots = pair
    width = slots // frames
    assert (subset_slots(slots, frames, smallest=frames) % width == width // 2).all()


@pytest.mark.parametrize(
    ("slots", "frames", "smallest"), [(64, 12, 4), (64, 8, 16), (64, 24, 8), (64, 128, 8), (64, 0, 1)]
)
def test_budgets_that_do_not_fit_are_refused(slots, frames, smallest):
    with pytest.raises(UsageError, match=str(frames)):
        subset_slots(slots, frames, smallest=smallest)


def test_frame_ids_are_unique_ascending_and_name_what_is_missing():
    assert frame_ids([0, 0, 1, 1, 2, 2, 3, 3], 4, smallest=2) == (0, 1, 2, 3)
    assert frame_ids([0] * 16, 8, smallest=2) == (0,)
    assert frame_ids([-1, -1, 0, -1, -1, -1, 1, -1], 2, smallest=2) == (0, 1)
    with pytest.raises(FramesNotStoredError, match=r"2 of the 4 slots.*--store 4") as caught:
        frame_ids([-1, -1, 0, -1, -1, -1, 1, -1], 4, smallest=2)
    assert isinstance(caught.value, UsageError) and isinstance(caught.value, LookupError)


@given(st.lists(st.integers(0, 20), min_size=16, max_size=16).map(sorted), st.sampled_from([2, 4, 8]))
def test_more_frames_never_lose_one(pool, budget):
    assert set(frame_ids(pool, budget, smallest=2)) <= set(frame_ids(pool, budget * 2, smallest=2))
