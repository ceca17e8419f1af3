from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from shards_media import chat, write_rows

from vtrap_data.errors import Reason, UsageError
from vtrap_data.samples import Message
from vtrap_data.sources.jsonl import SourceFile, read_jsonl


def read(folder: Path, *rows: Any) -> SourceFile:
    return read_jsonl(write_rows(folder / "rows.jsonl", list(rows)))


def rejected(folder: Path, row: Any) -> str:
    corpus = read(folder, row)
    assert not corpus.samples
    (error,) = corpus.rejected
    assert error.reason is Reason.BAD_ROW
    assert error.sample == "rows.jsonl:1"
    return error.detail


def test_both_dialects_give_the_same_item(tmp_path: Path) -> None:
    llava = {"id": "x", "video": "a.mp4", "conversations": chat("<video>\nWho?", "She.")}
    messages = {
        "id": "x",
        "videos": ["a.mp4"],
        "messages": [{"role": "user", "content": "<video>\nWho?"}, {"role": "assistant", "content": "She."}],
    }
    parts = {
        "id": "x",
        "messages": [
            {"role": "user", "content": [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "\nWho?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "She."}]},
        ],
    }
    first, second, third = (read(tmp_path, row).samples for row in (llava, messages, parts))
    assert first == second == third
    (sample,) = first
    assert sample.kind == "video"
    assert sample.paths == (tmp_path / "a.mp4",)
    assert sample.items[0].messages == (
        Message(role="user", content="<video>\nWho?"),
        Message(role="assistant", content="She."),
    )
    assert sample.items[0].question == "Who?"
    assert (sample.source, sample.licence, sample.redistributable) == ("rows", "unknown", None)


def shown(*names: str | None) -> list[dict[str, Any]]:
    """A question that shows images as typed parts; None: one without a name."""
    parts = [{"type": "image"} if name is None else {"type": "image", "image": name} for name in names]
    return [
        {"role": "user", "content": [*parts, {"type": "text", "text": "Which?"}]},
        {"role": "assistant", "content": "a"},
    ]


def test_media_that_are_named_twice_are_stored_once(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"image": "a.png", "images": ["./a.png"], "conversations": chat("<image>Which?")},
        {"images": ["a.png", "b.png"], "messages": shown("a.png", "b.png")},
        {"images": ["a.png", "b.png"], "messages": shown(None, None)},
        {"messages": shown("b.png", "a.png")},
        {"images": [], "image": None, "messages": shown("b.png")},
        {"video": "a.mp4", "videos": ["a.mp4"], "conversations": chat("Which?")},
    ]
    corpus = read(tmp_path, *rows)
    assert not corpus.rejected
    found = {item.id: [path.name for path in s.paths] for s in corpus.samples for item in s.items}
    names = ["a.png"], ["a.png", "b.png"], ["a.png", "b.png"], ["b.png", "a.png"], ["b.png"], ["a.mp4"]
    assert found == {f"rows.jsonl:{number}": given for number, given in enumerate(names, start=1)}


def test_rows_about_one_medium_merge_in_order_of_first_appearance(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "video": "b.mp4", "conversations": chat("one")},
        {"id": "2", "video": "a.mp4", "conversations": chat("two")},
        {"id": "3", "video": "./b.mp4", "conversations": chat("three")},
        {"id": "t", "conversations": chat("text one")},
        {"id": "t", "conversations": chat("text two")},
        {"id": "4", "video": "b.mp4", "conversations": chat("other licence"), "license": "MIT"},
    ]
    samples = read(tmp_path, *rows).samples
    assert [(s.id, [i.id for i in s.items]) for s in samples] == [
        ("b.mp4", ["1", "3"]),
        ("a.mp4", ["2"]),
        ("t", ["t"]),
        ("t#2", ["t#2"]),
        ("b.mp4#2", ["4"]),
    ]
    assert samples[-1].licence == "MIT"


def test_marks_are_put_in_and_renamed(tmp_path: Path) -> None:
    rows = [
        {"video": "a.mp4", "conversations": [{"from": "system", "value": "Be brief."}, *chat("What?")]},
        {"video": "b.mp4", "conversations": chat("<image>\nWhat?")},
        {"image": ["a.png", "b.png"], "conversations": chat("Which?")},
    ]
    texts = [[m.content for m in s.items[0].messages] for s in read(tmp_path, *rows).samples]
    assert texts == [
        ["Be brief.", "<video>\nWhat?", "yes"],
        ["<video>\nWhat?", "yes"],
        ["<image><image>\nWhich?", "yes"],
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([], "an object, not list"),
        ({"id": "a"}, "neither conversations nor messages"),
        ({"conversations": []}, "list of turns"),
        ({"conversations": [{"from": "human"}]}, "turn 0"),
        ({"conversations": [{"from": "robot", "value": "hi"}]}, "'robot'"),
        ({"conversations": [{"from": "human", "value": None}]}, "NoneType"),
        ({"conversations": [{"from": "human", "value": "hi"}]}, "no assistant turn"),
        ({"conversations": [{"from": "gpt", "value": "hi"}]}, "no user turn"),
        ({"conversations": [*chat("q")][::-1]}, "before the user"),
        ({"video": "a.mp4", "conversations": chat("<video><video>")}, "2 <video>"),
        ({"video": "a.mp4", "conversations": chat("<video> and <image>")}, "1 <image>"),
        ({"conversations": chat("<image>what?")}, "0 media"),
        ({"video": "a.mp4", "conversations": chat("what?", "a <video>")}, "outside the user's turns"),
        ({"images": ["a.png", "b.png"], "conversations": chat("<image>")}, "lacks its mark"),
        ({"image": "a.png", "video": "a.mp4", "conversations": chat("q")}, "images and a video"),
        ({"video": ["a.mp4", "b.mp4"], "conversations": chat("q")}, "2 videos"),
        ({"images": ["b.png"], "messages": shown("a.png")}, "images names ['b.png'] and the content ['a.png']"),
        ({"images": ["a.png", "b.png"], "messages": shown("b.png", "a.png")}, "the same images in the same order"),
        ({"images": ["a.png", "b.png"], "messages": shown("a.png", None)}, "or all in one place"),
        ({"image": "a.png", "images": ["b.png"], "conversations": chat("q")}, "image names ['a.png'] and images ['b"),
        ({"video": {"path": "a"}, "conversations": chat("q")}, "path or a list"),
        ({"video": "https://example.org/a.mp4", "conversations": chat("q")}, "download it"),
        ({"video": "a\0.mp4", "conversations": chat("q")}, "no path"),
        ({"conversations": chat("q"), "needs": "8"}, "needs must be"),
        ({"conversations": chat("q"), "needs": 1 << 31}, "needs must be"),  # more than the index can hold
        ({"conversations": chat("q"), "redistributable": "yes"}, "redistributable"),
        ({"conversations": chat("q"), "options": "ab"}, "options"),
        ({"conversations": chat("q"), "options": ["a", "b"], "answer": "c"}, "none of the 2 options"),
        ({"conversations": chat("q"), "licence": 3}, "licence must be text"),
        ({"conversations": chat("q"), "source": 3}, "source must be text"),
        ({"conversations": chat("\ud800")}, "surrogates"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "'audio'"),
    ],
)
def test_a_bad_row_is_set_aside_with_the_reason(tmp_path: Path, row: Any, said: str) -> None:
    assert said in rejected(tmp_path, row)


def test_bad_json_names_its_line_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    good = json.dumps({"conversations": chat("q")}).encode()
    path.write_bytes(
        b"\xef\xbb\xbf" + good + b"\r\n\n{oops\n" + b'{"a": NaN}\n' + b"\xff\xfe\n" + b"[" * 100_000 + b"\n" + good
    )
    corpus = read_jsonl(path)
    assert [s.items[0].id for s in corpus.samples] == ["rows.jsonl:1", "rows.jsonl:7"]
    assert [e.sample for e in corpus.rejected] == [f"rows.jsonl:{n}" for n in (3, 4, 5, 6)]
    assert {e.reason for e in corpus.rejected} == {Reason.BAD_ROW}


def test_media_may_not_leave_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.mp4").write_bytes(b"x")
    (root / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    (root / "fine.mp4").symlink_to(root / "real.mp4")
    names = ["../secret.mp4", str(tmp_path / "secret.mp4"), "link.mp4", "a/../../secret.mp4"]
    rows = [{"video": name, "conversations": chat("q")} for name in names]
    rows += [
        {"video": str(root / "inside.mp4"), "conversations": chat("q")},
        {"video": "fine.mp4", "conversations": chat("q")},
    ]
    corpus = read_jsonl(write_rows(tmp_path / "rows.jsonl", rows), media_root=root)
    assert [e.reason for e in corpus.rejected] == [Reason.OUTSIDE_ROOT] * 4
    assert [s.paths[0].name for s in corpus.samples] == ["inside.mp4", "real.mp4"]


def test_a_link_to_a_name_that_is_no_text_is_set_aside(tmp_path: Path) -> None:
    """A sample is called after its file: the name would have to be written."""
    (tmp_path / "b\udcff.mp4").write_bytes(b"x")
    (tmp_path / "dir\udcff").mkdir()
    (tmp_path / "a.mp4").symlink_to(tmp_path / "b\udcff.mp4")
    (tmp_path / "dir").symlink_to(tmp_path / "dir\udcff")
    rows = [{"video": name, "conversations": chat("q")} for name in ("a.mp4", "dir/c.mp4")]
    corpus = read_jsonl(write_rows(tmp_path / "rows.jsonl", rows))
    assert [e.reason for e in corpus.rejected] == [Reason.UNREADABLE] * 2 and not corpus.samples
    assert "'a.mp4' leads to a name with bytes that are no UTF-8" in corpus.rejected[0].detail


@pytest.mark.parametrize("name", ["a" * 300, "a" * 300 + "/b.mp4", "a/" + "b" * 300 + "/c.mp4", "a/" * 3000 + "b"])
def test_a_name_that_is_too_long_is_no_file(tmp_path: Path, name: str) -> None:
    found = read(tmp_path, {"video": name, "conversations": chat("q")}, {"conversations": chat("q")})
    assert len(found.samples) + len(found.rejected) == 2 and found.samples[-1].kind == "text"


def test_the_column_of_the_other_dialect_may_be_empty(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "yes"}]
    corpus = read(
        tmp_path,
        {"conversations": None, "messages": messages},
        {"conversations": chat("q"), "messages": None},
    )
    assert [s.items[0].messages[0].content for s in corpus.samples] == ["q", "q"] and not corpus.rejected


@pytest.mark.parametrize("begin", [b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"BZh9", b"\xfd7zXZ\0"])
def test_a_compressed_file_is_told_as_one(tmp_path: Path, begin: bytes) -> None:
    (tmp_path / "rows.jsonl.x").write_bytes(begin + b"\x00\x80")
    with pytest.raises(UsageError, match="is compressed: uncompress it first"):
        read_jsonl(tmp_path / "rows.jsonl.x")


def test_a_letter_stands_for_its_option(tmp_path: Path) -> None:
    rows = [
        {"conversations": chat("q"), "options": ["left", "right"], "answer": answer}
        for answer in ("B", "(B)", "right")
    ]
    assert {s.items[0].answer for s in read(tmp_path, *rows).samples} == {"right"}


def test_a_json_array_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"conversations": chat("q")}, 3]))
    corpus = read_jsonl(path, name="mine")
    assert corpus.samples[0].source == "mine"
    assert corpus.rejected[0].sample == "rows.json[1]"


def test_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "object.json").write_text("{}")
    for path in (tmp_path / "none.jsonl", tmp_path / "empty.jsonl", tmp_path / "object.json", tmp_path):
        with pytest.raises(UsageError):
            read_jsonl(path)
    with pytest.raises(UsageError, match="media-root"):
        read_jsonl(tmp_path / "empty.jsonl", media_root=tmp_path / "nowhere")
