"""Several questions of one video as one conversation."""

from __future__ import annotations

from dataclasses import replace

import pytest
from encoding_families import TEXT, VIDEO, example

from vtrap_data.encoding import encode, join
from vtrap_data.errors import Reason, SampleError
from vtrap_data.samples import Example, Frames


def asked(question: str, answer: str, ids: tuple[int, ...], *, name: str, before=(), mark="<video>\n") -> Example:
    """A question about a video of 16 stored frames, of which it is granted `ids`."""
    whole = example(*before, ("user", mark + question), ("assistant", answer), frames=16, spacing=1.0, name=name)
    frames = Frames(pixels=whole.frames.pixels[list(ids)], times=tuple(whole.frames.times[i] for i in ids))
    return replace(whole, item=replace(whole.item, budget=len(ids), frame_ids=ids), frames=frames)


FEW, MANY = (4, 12), (0, 4, 8, 12)


@pytest.mark.parametrize("order", [1, -1])
def test_the_video_is_shown_once_with_the_largest_budget(toy_processor, order):
    one, two = [asked("Which way?", "left", FEW, name="q1"), asked("How many?", "3", MANY, name="q2")][::order]
    joined = join([one, two])
    largest = max(one, two, key=lambda e: len(e.frames))
    assert joined.frames.times == largest.frames.times
    assert [i.tobytes() for i in joined.frames.images] == [i.tobytes() for i in largest.frames.images]
    assert joined.item.frame_ids == MANY and joined.item.budget == 4
    assert joined.item.id == f"{one.item.id}+1"
    assert [(m.role, m.content) for m in joined.item.messages] == [
        ("user", one.item.messages[0].content),
        ("assistant", one.item.messages[1].content),
        ("user", two.item.messages[0].content.removeprefix("<video>\n")),
        ("assistant", two.item.messages[1].content),
    ]
    # Every answer is learned, and the video's tokens are paid for once.
    encoded = encode(joined, toy_processor, train=True)
    parts = [encode(e, toy_processor, train=True) for e in (one, two)]
    learned = lambda e: (e.labels != -100).sum().item()  # noqa: E731
    assert learned(encoded) == sum(map(learned, parts))
    assert encoded.visual_tokens == max(e.visual_tokens for e in parts)


def test_budgets_that_do_not_nest_give_the_union_in_time_order():
    joined = join([asked("a", "b", (2, 9), name="q1"), asked("c", "d", (0, 9, 15), name="q2")])
    assert joined.item.frame_ids == (0, 2, 9, 15)
    assert joined.frames.times == (1.0, 3.0, 10.0, 16.0)


def test_images_and_marks_in_the_middle():
    one = example(("user", "<image>\n<image>\nWhich?"), ("assistant", "left"), images=2, name="q1")
    two = replace(one, item=example(("user", "Is <image> above\n<image>?"), ("assistant", "no"), name="q2").item)
    joined = join([one, two])
    assert joined.images == one.images and joined.frames is None
    assert [m.content for m in joined.item.messages] == ["<image>\n<image>\nWhich?", "left", "Is  above?", "no"]


def test_one_item_is_left_alone():
    one = example(*VIDEO, frames=2)
    assert join([one]) is one


def test_a_shared_system_message_stays_once():
    before = [("system", "Be short.")]
    items = [asked("a", "b", FEW, name=f"q{i}", before=before) for i in range(3)]
    assert [m.role for m in join(items).item.messages] == ["system", *["user", "assistant"] * 3]


def test_what_cannot_be_joined_says_why():
    one = asked("a", "b", FEW, name="q1")
    other = replace(asked("c", "d", FEW, name="q2"), key="clip-2")
    silent = example(TEXT[0], name="q3")
    spoken = asked("e", "f", FEW, name="q4", before=[("system", "Be long.")])
    for second, message in (
        (other, "q2.*about clip-2"),
        (silent, "q3.*does not end"),
        (spoken, "q4.*--turns separate"),
    ):
        with pytest.raises(SampleError, match=message) as error:
            join([one, second])
        assert error.value.reason is Reason.BAD_ROW
