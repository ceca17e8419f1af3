"""The rules of the other harnesses, as measured on them; and for each fault of theirs, that it is not ours."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from finished_run import write_info, write_scores
from test_benchmarks import check, record

from vtrap_bench.compat import (
    LETTERS,
    LMMS,
    VLMEVALKIT,
    can_infer,
    lmms_letter,
    lmms_mme,
    mmmu_letter,
    vlmevalkit_is_right,
    vlmevalkit_video_letter,
)
from vtrap_bench.measures import answers, detection
from vtrap_bench.normalise import vqa_accuracy, vqa_form
from vtrap_bench.rescore import rescore
from vtrap_bench.tasks import TASKS
from vtrap_data.samples import Item, Message
from vtrap_data.sources.benchmarks import BENCHMARKS
from vtrap_data.sources.benchmarks.spec import references, write_facts

HERE = Path(__file__).parent
FOUR = ("walk", "run", "jump", "sit")


def item(options=FOUR, right=1, facts="{}"):
    return Item(id="x", messages=(), question="?", options=options, answer=options[right], category=facts)


def graded(task, response, one):
    return record(task, one, response, TASKS[task].grade(response, one))


# --- their rules, as measured -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "said"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("**B**", "B"),
        (r"\boxed{C}", "C"),
        ("<answer>C</answer>", "C"),
        ("D. A book", "D"),
        ("b", ""),
        ("(b)", ""),
        ("b.", ""),
        ("A red car appears, so the answer is D", "A"),
        ("The answer is B, not D", "D"),
        ("The correct answer is B because D is wrong", "D"),
        ("I think it is C. Because A and B are wrong.", "C"),
        ("Based on the video, none", "B"),
        ("Because the cat jumps", "B"),
        ("ANSWER: C", "C"),
        ("", ""),
    ],
)
def test_lmms_shared_reader(response, said):
    assert lmms_letter(response, "ABCD") == said


def test_lmms_shared_reader_on_every_golden_vector():
    """What `extract_mcq_answer` of lmms-eval 0.7.3 said (thoughts removed, as its pipeline does), vector by vector."""
    theirs = [json.loads(line) for line in (HERE / "lmms_letters.jsonl").read_text("utf-8").splitlines()]
    golden = [json.loads(line) for line in (HERE / "golden_extraction.jsonl").read_text("utf-8").splitlines()]
    letters = [c for c in golden if c["form"] == "letter"]
    assert [(c["response"], len(c["options"])) for c in letters] == [(t["response"], t["options"]) for t in theirs]
    assert [lmms_letter(t["response"], LETTERS[: t["options"]]) for t in theirs] == [t["said"] for t in theirs]
    page = (HERE.parents[1] / "docs" / "benchmark.md").read_text("utf-8")
    assert f"each of the {len(theirs)} letter vectors" in page


@pytest.mark.parametrize(
    ("response", "said"),
    [
        ("b", ""),
        ("(b)", ""),
        ("b.", ""),
        ("Based on the video, the answer is C", "B"),
        ("ANSWER: C", "A"),
        ("Actually, it is C", "A"),
        ("Certainly! B", "C"),
        ("A man ... so D", "A"),
        ("The best answer is B", "B"),
        ("Best option: C", "B"),  # two commas are missing in their list of phrases
        ("one two three four five six seven eight nine ten eleven", ""),
    ],
)
def test_vlmevalkit_video_reader(response, said):
    assert vlmevalkit_video_letter(response) == said


@pytest.mark.parametrize(
    ("said", "right"), [("", 1), (".", 1), ("(", 1), ("A", 1), ("B", 0), ("Answer: (B)", 0), (" B", 1), ("A\nAs", 0)]
)
def test_vlmevalkit_substring_rule(said, right):
    assert vlmevalkit_is_right(said, "(A) walk") == bool(right)


@pytest.mark.parametrize(
    ("response", "said"),
    [
        ("Not sure", "no"),
        ("Nope", "no"),
        ("Now I see: yes", "no"),
        ("The answer is yes", "other"),
        ("I know", "other"),
    ],
)
def test_lmms_mme_reader(response, said):
    assert lmms_mme(response) == said


def test_other_readers():
    assert mmmu_letter("(A) is not, (C) is", FOUR) == "C" and mmmu_letter("nothing at all", FOUR) == ""
    assert mmmu_letter("It is not B. So C. Yes", FOUR) == "B"  # not the last in the text
    assert mmmu_letter("B, then C , as I see", FOUR) == "C"
    assert mmmu_letter("I am sure that they jump in it", FOUR) == "C"
    assert can_infer("It is B", FOUR) == "B" and can_infer("A or B", FOUR) == "" and can_infer("jump", FOUR) == "C"
    assert can_infer("The correct answer is C, as A and B are not", FOUR) == "C"


def test_a_random_pick_earns_its_mean_and_what_is_dropped_is_counted():
    said = [graded("mmmu", r, item()) for r in ("B", "no idea")]
    found = rescore("mmmu", said, "lmms")
    assert found["theirs"] == pytest.approx(100 * (1 + 1 / 4) / 2) and found["ours"] == 50
    said = [graded("mvbench", r, item()) for r in ("B", "")]
    assert rescore("mvbench", said, "lmms")["theirs"] == 100  # the empty answer is left out
    assert rescore("mvbench", said, "lmms")["left_out"] == 1
    assert rescore("mvbench", said, "vlmevalkit")["theirs"] == 100  # the empty answer is right
    assert rescore("videomme", said, "lmms") == {"ours": 50, "theirs": None, "differ": 0, "left_out": 0, "items": []}


def test_longvideobench_has_five_letters_and_two_lists_of_phrases():
    five = item(("u", "v", "w", "x", "y"), 4)
    for rules in (LMMS, VLMEVALKIT):
        assert rules["longvideobench"](graded("longvideobench", "E", five)).earned == 1
    third = graded("longvideobench", "Answer: C", item(("u", "v", "w", "x", "y"), 2))
    assert LMMS["longvideobench"](third).said == "A" and VLMEVALKIT["longvideobench"](third).said == "C"
    third = graded("longvideobench", "Best option: C", item(("u", "v", "w", "x", "y"), 2))
    assert LMMS["longvideobench"](third).said == "C" and VLMEVALKIT["longvideobench"](third).said == "B"


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("Option 2: a man sits", 1),
        ("a man sits", 1),
        ("Option 2", 1),
        ("Option 2.", 1),
        ("2", 1),
        ("(2) a man sits", 1),
        ("Option 1", 0),
        ("It is option 2", 0),  # their judge is asked
        ("B", 0),
    ],
)
def test_lmms_on_captions(response, right):
    options = ("Option 1: a man runs", "Option 2: a man sits")
    found = graded("tempcompass", response, item(options, facts=write_facts({"task": "caption_matching"})))
    assert LMMS["tempcompass"](found).earned == right


def test_lmms_asks_its_judge_about_an_option_without_its_letter():
    found = graded("tempcompass", "run", item(facts=write_facts({"task": "multi-choice"})))
    assert LMMS["tempcompass"](found).earned == 0 and found.score == 1


def test_every_rule_reads_every_answer(converted):
    for rules in (LMMS, VLMEVALKIT):
        assert rules.keys() <= BENCHMARKS.keys()
        for task, rule in rules.items():
            for one in converted[task][1]:
                for response in ("", "B", "b", "yes", "I cannot say.", "A man walks. (C)", one.answer):
                    credit = rule(graded(task, response, one))
                    assert credit.earned is None or 0 <= credit.earned <= 1


def test_the_command_prints_both(tmp_path, capsys):
    from vtrap_bench.__main__ import main

    rows = [replace(graded("mvbench", r, item()), item_id=f"i{n}", key=f"k{n}") for n, r in enumerate(("B", "", "a"))]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(r.to_json()) + "\n" for r in rows))
    write_info(tmp_path, rows, model="m")
    write_scores(tmp_path, rows, model="m")
    assert main(["rescore", str(tmp_path), "--rules", "vlmevalkit"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  mvbench"))
    assert line.split() == ["mvbench", "33.3", "66.7", "1", "0"]
    assert main(["rescore", str(tmp_path), "--rules", "lmms", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"]["mvbench"]["left_out"] == 1


# --- each fault that was found in them, and that we do not have it -----------------------------------------------


@pytest.mark.parametrize("task", ["mvbench", "mlvu"])
@pytest.mark.parametrize("response", ["", ".", "("])
def test_nothing_is_not_right(task, response):
    found = graded(task, response, item(right=0))
    assert VLMEVALKIT[task](found).earned == 1 and found.score == 0


@pytest.mark.parametrize(
    ("task", "rules", "response"),
    [
        ("videomme", VLMEVALKIT, "ANSWER: B"),
        ("videomme", VLMEVALKIT, "Actually, it is B"),
        ("longvideobench", VLMEVALKIT, "Certainly! B"),
        ("mmstar", LMMS, "A thing moves, so the answer is B"),
        ("mmstar", LMMS, "The answer is B, not D"),
        ("mmstar", LMMS, "The correct answer is B because D is wrong"),
        ("mmbench_en", LMMS, "(b)"),
        ("videommmu", LMMS, "b."),
        ("scienceqa_img", LMMS, "The answer is B."),
        ("seed_image", LMMS, "I say B"),
        ("mvbench", LMMS, "It is a dog: B"),
        ("egoschema", LMMS, "(A) is wrong. The answer is (B)"),
        ("perceptiontest", LMMS, "A man does. The answer is B"),
        ("nextqa", LMMS, "b"),
        ("mmmu", LMMS, "The answer is B since it is not (C)"),
        ("ai2d", LMMS, "The answer is B"),
        ("tempcompass", LMMS, "(B)"),
    ],
)
def test_right_answers_that_they_misread(task, rules, response):
    one = item(facts=write_facts({"task": "multi-choice"}))
    found = graded(task, response, one)
    assert rules[task](found).earned < 1 and found.score == 1


@pytest.mark.parametrize(
    ("task", "response", "right"),
    [
        ("seed_image", "Because of the sky", 1),  # its first character
        ("mvbench", "it is a thing", 0),  # the article
        ("perceptiontest", "A man holds a hat", 0),
        ("longvideobench", "Based on the video", 1),  # a letter inside a word
        ("mmstar", "Because the cat jumps", 1),
    ],
)
def test_no_answer_that_they_read_as_one(task, response, right):
    found = graded(task, response, item(("w", "x", "y", "z"), right))
    assert LMMS[task](found).earned == 1 and found.score == 0


@pytest.mark.parametrize("task", ["mmmu", "longvideobench", "nextqa", "egoschema", "mmbench_en"])
def test_no_answer_earns_nothing_by_chance(task):
    scores = {graded(task, "no idea", item(right=k)).score for k in range(4)}
    assert scores == {0.0}


def test_a_sixth_option_can_be_right():
    assert graded("mlvu", "F", item(tuple("uvwxyz"), 5)).score == 1


def test_a_quantifier_is_no_letter():
    """The article among many words made their reader stop; B is still found."""
    assert graded("mmbench_en", "There is a lot going on, but the answer is B", item()).score == 1


@pytest.mark.parametrize(
    ("response", "said"),
    [("Not sure", None), ("Now I see: yes", "yes"), ("The answer is yes", "yes"), ("I know", None)],
)
def test_mme_reads_words(response, said):
    one = Item(id="x", messages=(), answer="yes", category=write_facts({"subtask": "count", "pair": "1"}))
    assert graded("mme", response, one).extracted == said


def test_pope_reads_a_full_stop_and_counts_the_model_s_yes():
    def pope(said, truth):
        return graded("pope", said, Item(id="x", messages=(), answer=truth, category=write_facts({"categories": "r"})))

    assert LMMS["pope"](pope("Yes.", "yes")).earned == 0 and pope("Yes.", "yes").score == 1
    rows = [pope("yes", "yes"), pope("yes", "no"), pope("dunno", "yes"), pope("yes", "no")]
    check(detection(answers(rows)), {"yes_ratio": 75, "yes_ratio_truth": 50, "recall": 50})  # unread yeses are missed


def test_scoring_leaves_no_trace():
    """TextVQA changed its references and grew a table of numbers, OCRBench added up over runs."""
    refs = ["two dogs", "zebra"] * 5
    before = list(refs)
    first = vqa_accuracy("eleventyone", refs), vqa_form("two zebra")
    assert refs == before and (vqa_accuracy("eleventyone", refs), vqa_form("two zebra")) == first
    facts = write_facts({"dataset": "x", "type": "Regular Text Recognition"})
    one = Item(id="x", messages=(), answer=references(["stop"]), category=facts)
    rows = [graded("ocrbench", "STOP", one)]
    assert TASKS["ocrbench"].measure(rows) == TASKS["ocrbench"].measure(rows)
    assert TASKS["ocrbench"].measure(rows)["headline"]["value"] == 1


def test_empty_answers_and_names_that_contain_each_other_stay_apart(converted):
    """MVBench and Video-MMMU left empty answers out; Video-MME added up what contains "Multilingual"."""
    for task in ("mvbench", "videommmu"):
        items = converted[task][1]
        rows = [graded(task, "", one) for one in items]
        assert TASKS[task].measure(rows)["accuracy"] == 0
    facts = [
        {"domain": "Multilingual", "sub": "Multilingual", "duration": "short", "task": "OCR Problems"},
        {"domain": "Knowledge", "sub": "Law", "duration": "short", "task": "Counting Problem"},
        {"domain": "Life Record", "sub": "Multilingual", "duration": "short", "task": "OCR Problems"},
    ]
    keys = json.loads(converted["videomme"][1][0].category)
    names = {"domain": "domain", "sub": next(k for k in keys if k.startswith("sub"))}
    rows = []
    for n, fact in enumerate(facts):
        cells = {**keys, **{names.get(k, k): v for k, v in fact.items() if names.get(k, k) in keys}}
        rows.append(graded("videomme", "B" if n == 0 else "A", item(facts=write_facts(cells))))
    by = TASKS["videomme"].measure(rows)["by"]
    check(by["domain"], {"Multilingual": {"score": 100, "n": 1}})


def test_a_missing_video_is_no_smaller_denominator(tmp_path):
    """Rows whose video is missing are named when rows are converted; see also test_benchmarks."""
    from benchmark_rows import write_rows

    from vtrap_data.sources.benchmarks.convert import convert, summary

    benchmark = write_rows("mvbench", tmp_path / "rows")
    done = convert(benchmark, rows=str(tmp_path / "rows"), out=tmp_path / "out", media=tmp_path)
    assert done.missing_videos and "video files are not there" in "\n".join(summary(done))


def test_questions_keep_their_capitals_and_ask_for_a_form():
    """lmms-eval lower-cases TextVQA's questions and asks nothing in particular of NExT-QA's; only its profiles do."""
    one = replace(item(), question="What does the NASA sign say?")
    for name, wording in TASKS["textvqa"].profiles.items():
        assert ("NASA" in wording.messages(one)[-1].content) is (name != "lmms")
    texts = {name: w.messages(one)[-1].content for name, w in TASKS["nextqa"].profiles.items()}
    assert "option's letter" in texts["vtrap"] and "option's letter" not in texts["lmms"]


def test_toy_tasks_ask_as_they_were_packed():
    turns = (Message(role="user", content="<image>\nWhich colour?"),)
    one = replace(item(), messages=turns)
    for task in ("toy-image", "toy-video"):
        assert {name: w.messages(one) for name, w in TASKS[task].profiles.items()} == {"vtrap": turns}


def test_prompts_promise_no_subtitles():
    """Their prompt for Video-MME without subtitles speaks of subtitles; only their own profile keeps that."""
    one = replace(item(), messages=())
    texts = {name: p.messages(one)[-1].content for name, p in TASKS["videomme"].profiles.items()}
    assert "subtitles" in texts["lmms"] and not any("subtitle" in t for n, t in texts.items() if n != "lmms")
