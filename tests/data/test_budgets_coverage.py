from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtrap_data.budgets.coverage import NOISE, residuals
from vtrap_data.errors import UsageError

BUDGETS = (2, 4, 8, 16)


def still(slots=16):
    return np.full((slots, 8, 8), 100, dtype=np.uint8)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1.0, 20.0]))
def test_from_one_to_zero_and_never_up(seed, spread):
    rng = np.random.default_rng(seed)
    luma = np.clip(128 + rng.normal(0, 1, (16, 4, 4)).cumsum(axis=0) * spread, 0, 255)
    found = residuals(luma, budgets=(1, *BUDGETS), smallest=1)
    assert all(0 <= r <= 1 for r in found)
    assert all(a >= b for a, b in pairwise(found))
    assert found[-1] == 0
    assert found[0] in (0, 1)  # a single frame is the unit, unless nothing moves
    assert found == residuals(luma, budgets=(1, *BUDGETS))


def test_a_still_video_and_camera_noise_leave_nothing():
    assert residuals(still(), budgets=BUDGETS) == (0, 0, 0, 0)
    shaking = np.random.default_rng(0).integers(100, 100 + int(NOISE) + 1, (16, 8, 8))
    assert residuals(shaking, budgets=BUDGETS) == (0, 0, 0, 0)


def test_a_change_that_stays_is_covered_sooner_than_one_that_passes():
    cut, flash = still(), still()
    cut[8:] = 200
    flash[7] = 200  # between the slots of budgets 2, 4 and 8
    assert residuals(cut, budgets=BUDGETS) == (0, 0, 0, 0)  # a frame before it and a frame after it show everything
    assert residuals(flash, budgets=BUDGETS)[:3] == (1, 1, 1)
    assert residuals(flash, budgets=BUDGETS)[3] == 0


def test_a_short_event_is_not_averaged_away():
    # One slot of 64 flashes in 1/16 of the picture, while a slow change goes on everywhere.
    luma = np.linspace(100, 130, 64)[:, None, None] * np.ones((1, 8, 8))
    calm = residuals(luma, budgets=(8, 16, 32, 64))
    luma[33, :2, :2] += 120
    event = residuals(luma, budgets=(8, 16, 32, 64))
    assert calm[2] == 0
    assert event[2] > 0.3


def test_the_formula():
    luma = np.zeros((4, 1, 1))
    luma[:, 0, 0] = [0, 30, 45, 60]
    # One frame: slot 2, from which the others are 37, 7 and 7 away beyond the noise. Two frames: slots 1 and 3, and
    # slot 0 is 22 from slot 1, slot 2 is 7 from either.
    unit = 0.5 * (37 + 7 + 0 + 7) / 4 + 0.5 * 37
    two = 0.5 * (22 + 0 + 7 + 0) / 4 + 0.5 * 22
    assert residuals(luma, budgets=(2, 4)) == pytest.approx((two / unit, 0))


def test_wrong_use_is_refused():
    with pytest.raises(UsageError, match="ascending"):
        residuals(still(), budgets=(8, 4))
    with pytest.raises(UsageError, match="ascending"):
        residuals(still(), budgets=())
    with pytest.raises(UsageError, match="does not fit"):
        residuals(still(), budgets=(3,))
    with pytest.raises(ValueError, match="slots, h, w"):
        residuals(np.zeros((16, 4)), budgets=BUDGETS)
