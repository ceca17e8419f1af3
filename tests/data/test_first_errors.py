"""What whoever uses this for the first time gets wrong, and whether what is said is enough to put it right."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from shards_media import write_corpus

from vtrap_data.__main__ import main
from vtrap_data.budgets import demand
from vtrap_data.encoding.models import resolve
from vtrap_data.errors import UsageError
from vtrap_data.loading.corpus import Corpus, Part
from vtrap_data.samples import Frames
from vtrap_data.sources.jsonl import read_jsonl

SMALL = ["--budgets", "2,4", "--slots", "4", "--mean-frames", "3", "--scorer", "lexical", "--workers", "0"]
ROW = {"conversations": [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "That."}]}


def test_every_bad_sample_is_listed_where_too_many_stop_the_pack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**ROW, "id": str(n), "video": f"gone{n}.mp4"} for n in range(24)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(["pack", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "out"), *SMALL]) == 1
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line.startswith("set aside: ")] == [
        f"set aside: gone{n}.mp4: missing: there is no such file" for n in range(20)
    ]
    assert said[-2] == "... and 4 more"
    assert "24 of 24 samples are bad (24 missing)" in said[-1]


def test_a_row_that_names_no_medium_is_told_the_keys(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text(json.dumps({**ROW, "vidoe": "a.mp4"}) + '\n{"id": 1\n')
    typed, broken = read_jsonl(source).rejected
    assert (
        typed.detail
        == "it has 1 <video> and 0 <image> marks for 0 media: none of image, images, video, videos names one"
    )
    assert broken.detail == "line 2 is no JSON: Expecting ',' delimiter at character 9"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pack", "a.jsonl", "--out", "b", "--mean_frames", "12"], "--mean_frames 12; did you mean '--mean-frames'?"),
        (["pack", "a.jsonl", "b", "--out", "b"], "unrecognized arguments: b (see"),
        (["doctor", "b", "--quik"], "--quik; did you mean '--quick'?"),
    ],
)
def test_an_unknown_flag_is_told_with_the_nearest_and_the_help_of_its_command(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error and f"(see python -m vtrap_data {words[0]} --help)" in error


def test_a_corpus_takes_folders_and_parts(tmp_path: Path) -> None:
    source = write_corpus(tmp_path / "source")
    assert main(["pack", str(source), "--out", str(tmp_path / "a"), *SMALL]) == 0
    corpus = Corpus([tmp_path / "a", str(tmp_path / "a"), Part(root=tmp_path / "a")])
    assert len(corpus) == 3 * len(Corpus(tmp_path / "a"))


def test_frames_are_shown_without_their_pixels() -> None:
    frames = Frames(pixels=np.zeros((2, 4, 6, 3), np.uint8), times=(0.5, 1.5))
    assert repr(frames) == "Frames(pixels=uint8 [2, 4, 6, 3], times=(0.5, 1.5))"


def test_a_folder_that_is_not_there_is_not_only_told_as_a_hub_id() -> None:
    with pytest.raises(UsageError, match=r"'runs/hybird' cannot be used \(it is no folder here, and as a Hub id: "):
        resolve("runs/hybird")


def test_reading_questions_with_embeddings_shows_no_bar_of_a_library(capfd: pytest.CaptureFixture[str]) -> None:
    demand._encoder.cache_clear()
    assert len(demand.demands(["What happens last?"], scorer="embedding")) == 1
    assert "Loading weights" not in capfd.readouterr().err
