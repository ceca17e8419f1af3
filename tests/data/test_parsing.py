"""The short way to read a sample gives what the long way gives, or nothing: for whatever stands in any place."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from vtrap_data.parsing import parse_exact, parse_json, typed
from vtrap_data.samples import Message, PackedItem, PackedSample, PackedVideo

SAMPLE = PackedSample(
    key="00000000-a",
    id="a",
    kind="video",
    source="s",
    licence="CC0-1.0",
    redistributable=None,
    items=(
        PackedItem(
            id="a/0",
            messages=(Message(role="user", content="<video>\nWas é?"),),
            question="Was é?",
            options=("x", "y"),
            answer="x",
            needs=2,
            budget=2,
            frame_ids=(0, 1),
            demand=0.5,
        ),
    ),
    video=PackedVideo(
        name="a.mp4",
        sha256="0" * 64,
        duration=2.0,
        fps=8.0,
        width=96,
        height=64,
        frame_times=(0.5, 1.5),
        frame_bytes=(3, 10, 20),
        pool=(0, 0, 1, 1),
        residuals=(0.5, 0.1),
    ),
)
TEXT = json.dumps(SAMPLE.to_json(), ensure_ascii=False).encode()
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|true|false|null|[\[\]{},:]')
OTHERS = (
    *("0", "-0", "-0.0", "1", "1.0", "1e2", "1.50", "01", "+1", ".5", "5.", "NaN", "-Infinity", "1e999", "4.9e-324"),
    *("9007199254740993", "123456789012345678901234567890", "0.30000000000000004440892098500626", "true", "false"),
    *("null", '""', '"video"', '"system"', '"kind"', r'"\ud800"', r'"\ud83d\ude00"', r'"\u006bey"', r'"\u0000"'),
    *('"\x01"', r'"\x"', '"\ud800"', "[]", "[1]", "[1.5, 2]", "[null]", '["a"]', "[[1]]", "{}", '{"a": 1}', ",", "]"),
    *("[" * 9999, "", " \t\r\n", "\x0b", "\ufeff", "/**/"),
)


def long_way(text: bytes) -> Any:
    try:
        return repr(typed(PackedSample, parse_json(text)))
    except ValueError as error:
        return error


def test_whatever_stands_in_any_place_is_read_alike_or_left_to_the_long_way() -> None:
    assert parse_exact(PackedSample, TEXT) == PackedSample.parse(TEXT) == SAMPLE
    taken = 0
    for token in TOKEN.finditer(TEXT):
        for other in OTHERS:
            new = TEXT[: token.start()] + other.encode("utf-8", "surrogatepass") + TEXT[token.end() :]
            found = parse_exact(PackedSample, new)
            assert found is None or repr(found) == long_way(new), new
            taken += found is not None
    assert taken > 200


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"key"', '"kay"', "unknown key 'kay'"),
        ('"format": 1', '"format": 1, "more": 0', "unknown key 'more'"),
        ('"budget": 2', '"budget": 2, "bugdet": 3', "'items': has the unknown key 'bugdet'"),
        ('"id": "a", ', "", "lacks 'id'"),
        ('"width": 96', '"width": 96.0', "'video': 'width': is 96.0, not int"),
        ('"width": 96', '"width": true', "'video': 'width': is True, not int"),
        ("[0.5, 1.5]", '[0.5, "1.5"]', "'video': 'frame_times': is '1.5', not a number"),
        ("[0.5, 1.5]", "[0.5, NaN]", "'video': 'frame_times': is nan, not a number"),
        ("[0.5, 1.5]", "[1e999, -Infinity]", "'video': 'frame_times': is inf, not a number"),
        ('"duration": 2.0', '"duration": Infinity', "'video': 'duration': is inf, not a number"),
        ('"demand": 0.5', '"demand": false', "'items': 'demand': is False"),
        ('"kind": "video"', '"kind": "audio"', "'kind': is 'audio', not 'video' or 'images' or 'text'"),
        ('"format": 1', '"format": 2', "format 2 of sample '00000000-a' is not 1"),
        (', "format": 1', "", "format None of sample '00000000-a' is not 1"),
        ('"items": [', '"items": [' + "[" * 99999, "nested too deeply"),
        ("é", "\x00", "control character"),
    ],
)
def test_what_is_wrong_is_said_as_before(old: str, new: str, said: str) -> None:
    text = TEXT.decode().replace(old, new, 1).encode()
    assert text != TEXT
    with pytest.raises(ValueError, match=re.escape(said)):
        PackedSample.parse(text)


def test_what_is_right_all_the_same_is_taken() -> None:
    """Defaults left out; whole numbers where a float is due, which stay as they are; keys that come twice."""
    text = TEXT.replace(b', "scores": []', b"").replace(b'"fps": 8.0', b'"fps": 8').replace(b"{", b'{"id": 5, ', 1)
    sample = PackedSample.parse(text)
    assert sample.video is not None and type(sample.video.fps) is int
    assert sample == SAMPLE
