"""No parser of ours crashes on bytes that anybody may have written: it takes them, or raises what it promises."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from targets import TARGETS, check, mutate

CRASHERS = Path(__file__).parent / "crashers"


@pytest.mark.parametrize("name", sorted(TARGETS.keys() - {"claims", "tokens"}))  # neither has sound content
def test_what_is_sound_is_taken(name: str, tmp_path: Path) -> None:
    """Otherwise mutations of it would never get beyond the first check."""
    TARGETS[name].run(TARGETS[name].seeds()[0], tmp_path)


@pytest.mark.parametrize("name", TARGETS)
def test_no_crash(name: str) -> None:
    seeds = TARGETS[name].seeds()

    @settings(
        max_examples=12,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],  # shrinking takes minutes, and says no more
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.one_of(
            st.binary(max_size=200),
            st.builds(mutate, st.sampled_from(seeds), st.randoms(use_true_random=False)),
            st.builds(lambda seed, number: mutate(seed, random.Random(number)), st.sampled_from(seeds), st.integers()),
        )
    )
    @example(b"")
    @example(b"[" * 3000)
    @example(b'{"a":' * 3000)
    def run(data: bytes) -> None:
        check(name, data)

    run()


@pytest.mark.parametrize("path", sorted(CRASHERS.glob("*/*")), ids=lambda p: f"{p.parent.name}-{p.name[:12]}")
def test_what_once_crashed_it(path: Path) -> None:
    check(path.parent.name, path.read_bytes())
