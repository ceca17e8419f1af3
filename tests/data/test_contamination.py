"""contamination: packed corpora of real files that share media and questions with packed benchmarks, or do not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shards_media import SMALL, write_clip, write_rows

from vtrap_data.__main__ import main
from vtrap_data.shards import contamination as module
from vtrap_data.shards.contamination import contamination, count_words, plain_question
from vtrap_data.shards.index import read_index
from vtrap_data.shards.looks import picture_hash

LONG = "What does the white square do after it has crossed the middle?"


def photo(path: Path, seed: int, *, size: tuple[int, int] = (96, 80), quality: int = 95) -> Path:
    """A smooth picture: coarse noise scaled up, as photographs have large shapes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 7, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, quality=quality)
    return path


def film(path: Path, seed: int, *, scale: int = 1, crf: int = 18) -> Path:
    """16 frames of a picture that turns into another."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    ends = np.random.default_rng(seed).integers(0, 255, (2, 6, 7, 3)).astype(float)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": str(crf), "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 96 * scale, 80 * scale, "yuv420p"
        for number in range(16):
            mixed = ends[0] + (ends[1] - ends[0]) * number / 15
            image = Image.fromarray(mixed.astype(np.uint8)).resize((96 * scale, 80 * scale), Image.Resampling.BICUBIC)
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    return path


def pack(folder: Path, rows: list[dict], name: str) -> Path:
    source = write_rows(folder / f"{name}.jsonl", rows)
    assert main(["pack", str(source), "--out", str(folder / name), "--name", name, *SMALL]) == 0
    return folder / name


def asked(key: str, question: str, **media: str) -> dict:
    mark = "<video>" if "video" in media else "<image>"
    turns = [{"from": "human", "value": f"{mark}\n{question}"}, {"from": "gpt", "value": "yes"}]
    return {"id": key, "conversations": turns, **media}


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    root = tmp_path_factory.mktemp("shared")
    for seed in range(6):
        photo(root / f"photos/{seed}.jpg", seed)
    for seed in range(3):
        film(root / f"films/{seed}.mp4", 100 + seed)
    Image.new("RGB", (96, 80), "black").save(root / "photos/black.png")
    corpus = pack(
        root,
        [
            *(
                asked(f"p{i}", f"Describe picture number {i} in as many words as it takes.", image=f"photos/{i}.jpg")
                for i in range(4)
            ),
            *(asked(f"f{i}", LONG if i == 0 else "What is it?", video=f"films/{i}.mp4") for i in range(2)),
            asked("black", "What is it?", image="photos/black.png"),
        ],
        "corpus",
    )
    photo(root / "again/1.jpg", 1, size=(192, 160), quality=60)  # larger, and compressed anew
    film(root / "again/1.mp4", 101, scale=2, crf=30)
    shutil.copy(root / "photos/0.jpg", root / "again/copy.jpg")
    Image.new("RGB", (64, 64), (3, 3, 3)).save(root / "again/black.png")
    bench = pack(
        root,
        [
            asked("same-file", "Is this a copy?", image="again/copy.jpg"),
            asked("same-look", "Is this larger?", image="again/1.jpg"),
            asked("same-film", "Is this re-encoded?", video="again/1.mp4"),
            asked("other", "What is it?", image="photos/5.jpg"),
            asked("other-film", LONG.upper().replace("?", " ?!"), video="films/2.mp4"),
            asked("black-too", "Anything?", image="again/black.png"),
        ],
        "bench",
    )
    clean = pack(root, [asked("clean", "Nothing of the sort", image="photos/4.jpg")], "clean")
    return corpus, bench, clean


def test_what_is_shared_is_found_and_nothing_else(corpora):
    corpus, bench, clean = corpora
    one, two = contamination(corpus, [bench, clean])
    found = {(s.kind, Path(s.item).name): Path(s.corpus_item).name for s in one.shared if s.kind != "question"}
    assert found == {("file", "copy.jpg"): "0.jpg", ("look", "1.jpg"): "1.jpg", ("look", "1.mp4"): "1.mp4"}
    assert one.media == 6 and one.media_shared == 3 and one.items_on_shared_media == 3 and one.unreadable == 0
    questions = {s.detail for s in one.shared if s.kind == "question"}
    assert questions == {plain_question(LONG), "what is it"}
    assert (one.questions_shared, one.short_questions_shared) == (2, 1) and one.found
    assert two.shared == () and not two.found


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("What is it?", 3),
        ("视频中穿红色衣服的女人在打开门之后做了什么动作？", 23),
        ("赤い服の人は何をしましたか。", 13),
        ("문을 연 뒤에 무엇을 했나요?", 11),
        ("ผู้ชายทำอะไร", 10),
        ("第3个 TV 是什么?", 7),
        ("ｶﾀｶﾅ", 4),
        ("", 0),
    ],
)
def test_words_are_counted_where_none_are_set_apart(question, words):
    assert count_words(plain_question(question)) == words


def test_a_copied_question_without_spaces_counts(tmp_path, capsys):
    photo(tmp_path / "a.jpg", 1)
    photo(tmp_path / "b.jpg", 2)
    question = "视频中穿红色衣服的女人在打开门之后做了什么动作？"
    corpus = pack(tmp_path, [asked("a", question, image="a.jpg")], "corpus")
    bench = pack(tmp_path, [asked("b", question, image="b.jpg")], "bench")
    (one,) = contamination(corpus, [bench])
    assert (one.questions_shared, one.short_questions_shared, one.media_shared) == (1, 0, 0) and one.found
    assert main(["contamination", str(corpus), str(bench)]) == 1


def test_a_corpus_shares_everything_with_itself(corpora):
    corpus, _, _ = corpora
    (one,) = contamination(corpus, [corpus])
    assert one.media_shared == one.media == 7 and one.questions_shared == one.items == 7


def test_what_cannot_be_looked_at_is_counted_and_compared_by_its_file(corpora, tmp_path, capsys):
    corpus, bench, _ = corpora
    shutil.copytree(bench, tmp_path / "bench")
    for row in read_index(bench).to_pylist():
        if row["item_id"] in ("same-file", "same-look"):
            with (tmp_path / "bench" / row["shard"]).open("r+b") as file:
                file.seek(row["images_offset"] + 20)
                file.write(bytes(row["images_size"] - 20))
    (one,) = contamination(corpus, [tmp_path / "bench"])
    assert (one.media, one.unreadable, one.media_shared) == (6, 2, 2)
    assert {(s.kind, Path(s.item).name) for s in one.shared if s.kind != "question"} == {
        ("file", "copy.jpg"),
        ("look", "1.mp4"),
    }
    assert main(["contamination", str(corpus), str(tmp_path / "bench")]) == 1
    assert "2 media could not be read and were compared by their files only" in capsys.readouterr().out


def test_a_cut_shard_is_read_as_far_as_it_goes(corpora, tmp_path):
    corpus, bench, _ = corpora
    shutil.copytree(bench, tmp_path / "bench")
    rows = {row["item_id"]: row for row in read_index(bench).to_pylist()}
    path = tmp_path / "bench" / rows["other"]["shard"]
    with path.open("r+b") as file:
        file.truncate(rows["other"]["json_offset"])
    behind = [name for name, row in rows.items() if row["json_offset"] >= rows["other"]["json_offset"]]
    assert "same-file" not in behind and len(behind) == 3
    (one,) = contamination(corpus, [tmp_path / "bench"])
    assert (one.media, one.items, one.unreadable, one.media_shared) == (6, 6, 3, 3)
    assert {s.kind for s in one.shared} == {"file", "look"}, "the question was behind the cut"
    path.unlink()
    (none,) = contamination(corpus, [tmp_path / "bench"])
    assert (none.unreadable, none.media_shared) == (6, 1), "files are still known by the index"
    (back,) = contamination(tmp_path / "bench", [corpus])
    assert back.media_shared == 1 and back.shared[0].kind == "file"


@given(seed=st.integers(0, 10**6), distance=st.integers(0, 64))
@settings(max_examples=40, deadline=None)
def test_looks_are_those_of_comparing_every_pair(seed, distance):
    chance = np.random.default_rng(seed)
    bases = chance.integers(0, 2, (4, 256))

    def medium(number):
        bits = bases[chance.integers(4, size=chance.integers(0, 6))]
        bits = bits ^ (chance.random(bits.shape) < chance.random((len(bits), 1)) * 0.15)
        hashes = np.packbits(bits.astype(np.uint8), axis=1).view(np.uint64).reshape(-1, 4)
        return module._Medium(str(number), (), (), None if chance.random() < 0.1 else hashes)

    ours, theirs = ([medium(n) for n in range(chance.integers(0, 9))] for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_HELD", int(chance.integers(0, 9)))
        found = module._same_looks(module._known(ours), theirs, distance)
    for one, look in zip(theirs, found, strict=True):
        best = (0, "", [])
        for other in ours if one.pictures is not None else ():
            nearest = [
                min((int(np.bitwise_count(a ^ b).sum()) for b in other.pictures), default=256)
                for a in (one.pictures if other.pictures is not None else ())
            ]
            near = [bits for bits in nearest if bits <= distance]
            if len(near) > best[0]:
                best = (len(near), other.id, near)
        number, where, near = best
        enough = number and number >= module.SHARE * len(one.pictures)
        assert look == (module._Look(where, number, min(near), max(near)) if enough else None)


def test_command_says_it_and_exits_with_1(corpora, capsys):
    corpus, bench, clean = corpora
    assert main(["contamination", str(corpus), str(bench)]) == 1
    out = capsys.readouterr().out
    assert "3 of 6 media are in the corpus, with 3 of 6 questions" in out and "pictures alike" in out
    assert main(["contamination", str(corpus), str(clean), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["media_shared"] == 0
    assert main(["contamination", str(corpus), str(clean), "--distance", "99"]) == 2
    assert "must be between 0 and 64" in capsys.readouterr().err
    assert main(["contamination", str(corpus.parent / "photos"), str(bench)]) == 2


def test_hashes_survive_encoding_and_tell_pictures_apart(tmp_path):
    def bits(path):
        return np.bitwise_count(picture_hash(Image.open(path)) ^ reference).sum()

    reference = picture_hash(Image.open(photo(tmp_path / "a.jpg", 1)))
    assert bits(photo(tmp_path / "b.jpg", 1, size=(300, 240), quality=40)) <= 20
    assert min(bits(photo(tmp_path / f"{seed}.jpg", seed)) for seed in range(2, 60)) > 40
    assert picture_hash(Image.new("RGB", (50, 50), "grey")) is None


def test_a_moving_square_on_one_ground_is_no_other_clip(tmp_path):
    """Clips whose frames differ little must not be taken for each other because of one frame."""
    for seed in range(2):
        write_clip(tmp_path / f"clips/{seed}.mp4", seed=seed)
    a = pack(tmp_path, [asked("a", "One?", video="clips/0.mp4")], "a")
    b = pack(tmp_path, [asked("b", "Two?", video="clips/0.mp4")], "b")
    (same,) = contamination(a, [b])
    assert same.media_shared == 1 and same.shared[0].kind == "file"
