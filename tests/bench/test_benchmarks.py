"""The 19 benchmarks on synthetic rows with their exact columns: conversion, prompts, grading, measures, the whole way.

Numbers in the golden files are worked out by hand.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from benchmark_rows import FIXTURES, fixture, golden, write_rows
from PIL import Image

from vtrap_bench.measures import answers, circular, detection
from vtrap_bench.normalise import ocr_form, vqa_accuracy, vqa_form
from vtrap_bench.records import Record
from vtrap_bench.tasks import TASKS, select_tasks
from vtrap_data.errors import FatalSampleError, UsageError
from vtrap_data.samples import IMAGE_MARK, VIDEO_MARK, Item
from vtrap_data.sources.benchmarks import ABILITIES, BENCHMARKS
from vtrap_data.sources.benchmarks.convert import convert, rotations, summary
from vtrap_data.sources.benchmarks.spec import Question, by_letter, option_texts, references, write_facts
from vtrap_data.sources.jsonl import read_jsonl

NAMES = tuple(BENCHMARKS)


def test_there_are_19_and_each_is_a_task():
    assert len(NAMES) == 19 and list(TASKS) == ["toy-image", "toy-video", *NAMES]
    for name, task in list(TASKS.items())[2:]:
        assert task.source is BENCHMARKS[name] and task.version >= 1 and not task.synthetic
        assert {"vtrap", "lmms"} <= task.profiles.keys()
        assert set(task.source.abilities.values()) <= set(ABILITIES) - {"other"}
        assert task.abilities == tuple(a for a in ABILITIES if a in task.source.abilities.values())


def test_each_is_pinned_and_the_page_shows_the_commit():
    page = (Path(__file__).parents[2] / "docs/benchmarks.md").read_text(encoding="utf-8")
    rows = page.partition("## Where the rows are")[2]
    for name, benchmark in BENCHMARKS.items():
        assert re.fullmatch("[0-9a-f]{40}", benchmark.revision or "")
        ids = ", ".join(f"`{one}`" for one in benchmark.ids)
        assert re.search(rf"^\| `{name}` \|.*\| {ids} \|.*\| `{benchmark.revision}`( \(1\))? \|$", rows, re.MULTILINE)
        assert {benchmark.pinned(one) for one in benchmark.ids} == {benchmark.revision}
        assert benchmark.pinned("some/set") is None
    assert len({benchmark.revision for benchmark in BENCHMARKS.values()}) == 19


def test_licences_are_as_stated_and_the_page_shows_them():
    page = (Path(__file__).parents[2] / "docs/benchmarks.md").read_text(encoding="utf-8").partition("## Licences")[2]
    for name, one in BENCHMARKS.items():
        may = "yes" if one.redistributable else "no"
        assert f"\n| `{name}` | {one.licence} | {may} | {one.licence_stated} |\n" in page
    assert [name for name, one in BENCHMARKS.items() if one.redistributable] == ["perceptiontest"]


def test_rows_carry_the_licence(corpora):
    for name, (_, corpus, _) in corpora.items():
        found = {(sample.licence, sample.redistributable) for sample in corpus.samples}
        assert found == {(BENCHMARKS[name].licence, BENCHMARKS[name].redistributable)}, name


@pytest.mark.parametrize("name", NAMES)
def test_conversion_keeps_what_the_rows_say(converted, name):
    done, items, _ = converted[name]
    kept = [r for r in golden(name)["responses"] if r is not None]
    assert done.bad == () and done.unknown_categories == {} and len(items) == len(kept) == done.questions
    task = TASKS[name]
    for item in items:
        assert item.ability in task.abilities
        if item.options:
            assert item.answer in item.options
        text = item.messages[0].content
        assert text.count(IMAGE_MARK if task.modality == "image" else VIDEO_MARK) >= 1
    assert any(str(part.rows) in line for part in BENCHMARKS[name].parts for line in summary(done))


@pytest.mark.parametrize("name", NAMES)
def test_prompts_are_the_committed_ones(converted, name):
    _, items, _ = converted[name]
    shown = []
    for row in golden(name)["prompt_rows"]:
        for profile, wording in TASKS[name].profiles.items():
            turns = "".join(f"[{m.role}]\n{m.content}\n" for m in wording.messages(items[row]))
            shown.append(f"=== {profile}, {items[row].id}\n{turns}")
    assert "".join(shown) == (FIXTURES / f"{name}.prompts.txt").read_text("utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_every_profile_shows_every_medium_once(converted, name):
    _, items, _ = converted[name]
    for item in items:
        packed = item.messages[0].content
        for wording in TASKS[name].profiles.values():
            text = "".join(m.content for m in wording.messages(item))
            for mark in (IMAGE_MARK, VIDEO_MARK):
                assert text.count(mark) == packed.count(mark)


@pytest.mark.parametrize("name", NAMES)
def test_grades_and_measures_are_the_ones_worked_out_by_hand(converted, name):
    _, items, keys = converted[name]
    wanted = golden(name)
    pairs = [(r, c) for r, c in zip(wanted["responses"], wanted["credits"], strict=True) if r is not None]
    task, records = TASKS[name], []
    for item, (response, credit) in zip(items, pairs, strict=True):
        found = task.grade(response, item)
        assert found.credit == pytest.approx(credit), (item.question, response, found)
        assert (found.extraction.value is None) <= (found.credit == 0)
        records.append(record(name, item, response, found, cluster=keys[item.id]))
    check(task.measure(records), wanted["extra"])


def record(task, item, response, grade, *, cluster="c"):
    return Record(
        key=item.id,
        task=task,
        item_id=item.id,
        ability=item.ability or "all",
        cluster=cluster,
        question=item.question,
        options=item.options,
        answer=item.answer,
        response=response,
        extracted=grade.extraction.value,
        stage=grade.extraction.stage.value,
        correct=grade.credit == 1,
        frame_times=(),
        n_frames=0,
        visual_tokens=0,
        prompt_tokens=0,
        facts=item.category or "",
        credit=grade.credit if 0 < grade.credit < 1 else None,
    )


def check(found, wanted):
    """Every entry of `wanted` is in `found`; numbers up to rounding."""
    if isinstance(wanted, dict):
        for key, value in wanted.items():
            assert key in found, (key, list(found))
            check(found[key], value)
    elif isinstance(wanted, (int, float)):
        assert found == pytest.approx(wanted, abs=1e-5)
    else:
        assert found == wanted


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("response", ["", "<think>A B C D yes no", "I cannot say.", "???"])
def test_nothing_is_guessed(converted, name, response):
    _, items, _ = converted[name]
    graded = [TASKS[name].grade(response, item) for item in items]
    assert [g.credit for g in graded] == [0.0] * len(items)
    again = [TASKS[name].grade(response, item) for item in items]
    assert graded == again


@pytest.mark.parametrize("name", NAMES)
def test_empty_answers_stay_in_the_denominator(converted, name):
    """Harnesses have dropped them; here no answer at all is a score of 0 over all items, twice in a row."""
    _, items, _ = converted[name]
    task = TASKS[name]
    records = [record(name, item, "", task.grade("", item)) for item in items]
    first = task.measure(records)
    assert first.get("headline", {"value": 0})["value"] == 0 and task.measure(records) == first
    if "accuracy" in first:
        assert first["accuracy"] == 0
    for parts in first.get("by", {}).values():
        if all("n" in part for part in parts.values()) and name != "pope":  # there a row may count twice
            assert sum(part["n"] for part in parts.values()) == len(items)


def test_all_right_is_the_most_there_is(converted):
    """Answering with the reference itself earns full marks everywhere."""
    from vtrap_data.sources.benchmarks.spec import read_references

    for name in NAMES:
        _, items, _ = converted[name]
        task = TASKS[name]
        lists = [[i.answer] if i.options else read_references(i.answer) for i in items]
        said = [max(wanted, key=wanted.count) for wanted in lists]
        records = [record(name, i, r, task.grade(r, i)) for i, r in zip(items, said, strict=True)]
        assert [(r.item_id, r.response, r.extracted) for r in records if r.score < 1] == []


@pytest.mark.parametrize(
    ("name", "options", "answer", "response", "credit"),
    [
        ("mvbench", ("left", "right"), "right", "a ball moves right", 1),  # not the letter A
        ("mvbench", ("left", "right"), "left", "a ball moves", 0),
        ("mlvu", ("1", "2", "3", "4", "5", "6"), "6", "F", 1),  # more than four options
        ("seed_image", ("x", "y", "z", "w"), "y", "Because of the sky", 0),  # not its first character
        ("perceptiontest", ("cup", "hat", "pen"), "cup", "A man holds a hat", 0),  # the leading article is no A
        ("scienceqa_img", ("x", "y"), "y", "The answer is B.", 1),
        ("ai2d", ("x", "y"), "y", "(b)", 1),
        ("egoschema", ("v", "w", "x", "y", "z"), "w", "It is not (A) but (B)", 1),  # not the earliest
        ("videomme", ("v", "w", "x", "y"), "w", "Actually, it is B", 1),
        ("longvideobench", ("v", "w", "x", "y"), "x", "Certainly! C", 1),
    ],
)
def test_letters_others_misread(name, options, answer, response, credit):
    item = Item(id="x", messages=(), options=options, answer=answer, category="{}")
    assert TASKS[name].grade(response, item).credit == credit


def test_equal_pictures_are_one_cluster(converted):
    _, items, keys = converted["pope"]
    pictures = [row["image"] for row in fixture("pope")]
    same = [[keys[a.id] == keys[b.id] for b in items] for a in items]
    assert same == [[a == b for b in pictures] for a in pictures]


def test_records_of_other_tasks_keep_their_form(converted):
    """What only real benchmarks have is not written for others, and old records without it are read."""
    _, items, _ = converted["textvqa"]
    partly = record("textvqa", items[1], "two", TASKS["textvqa"].grade("two", items[1]))
    assert (partly.correct, partly.score) == (False, pytest.approx(0.9))
    plain = replace(partly, facts="", credit=None)
    assert plain.score == 0 and not {"facts", "credit"} & plain.to_json().keys()
    for one in (partly, plain):
        assert Record.from_json(json.loads(json.dumps(one.to_json()))) == one


# --- rows that are not as expected ------------------------------------------------------------------------------


def rewrite(folder: Path, name: str, change) -> None:
    rows = [json.loads(line) for line in next(folder.rglob("*.jsonl")).read_text().splitlines()]
    next(folder.rglob("*.jsonl")).write_text("".join(json.dumps(change(row)) + "\n" for row in rows))


def test_tables_as_vlmevalkit_writes_them(tmp_path):
    """Pictures by the index of another row, before or after it, and a column that is spelt otherwise."""
    table = tmp_path / "rows" / "MMBench_DEV_EN.tsv"
    table.parent.mkdir()
    shutil.copy(FIXTURES / "vlmevalkit.tsv", table)
    convert(BENCHMARKS["mmbench_en"], rows=str(table.parent), out=tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "bench.jsonl").read_text().splitlines()]
    assert [row["id"].removeprefix("mmbench_en/") for row in rows] == ["12", "1000012", "1000013", "13"]
    assert [json.loads(row["category"])["l2"] for row in rows] == ["coarse_perception"] * 2 + ["logic_reasoning"] * 2
    pictures = [row["images"] for row in rows]
    assert pictures[0] == pictures[1] != pictures[2] == pictures[3]
    colours = [Image.open(tmp_path / "out" / row["images"][0]).convert("RGB").getpixel((0, 0)) for row in rows[1:3]]
    assert colours == [(255, 0, 0), (0, 0, 255)]
    table.write_text(table.read_text().replace("\t12\t", "\t99\t"))
    with pytest.raises(FatalSampleError, match="its image '99' is no file in the folder of the rows, nor a picture"):
        convert(BENCHMARKS["mmbench_en"], rows=str(table.parent), out=tmp_path / "out")


def test_missing_columns_are_named(tmp_path):
    write_rows("nextqa", tmp_path)
    rewrite(tmp_path, "nextqa", lambda row: {k: v for k, v in row.items() if k not in ("a4", "qid")})
    with pytest.raises(UsageError, match="nextqa, MC/test: the rows lack the columns a4, qid; they have a0, a1"):
        convert(BENCHMARKS["nextqa"], rows=str(tmp_path), out=tmp_path / "out", media=tmp_path)
    assert not (tmp_path / "out" / "bench.jsonl").exists()


def test_bad_rows_unknown_categories_and_missing_videos_are_said(tmp_path):
    benchmark = write_rows("nextqa", tmp_path / "rows")
    rewrite(tmp_path / "rows", "nextqa", lambda row: {**row, "answer": 9, "type": "XX"} if row["qid"] == 2 else row)
    with pytest.raises(FatalSampleError, match=r"2 of 4 rows cannot be used; the first, MC/test\[1\]: the answer '9'"):
        convert(benchmark, rows=str(tmp_path / "rows"), out=tmp_path / "out", media=tmp_path)
    rewrite(tmp_path / "rows", "nextqa", lambda row: {**row, "answer": 1, "type": "XX"} if row["qid"] == 2 else row)
    (tmp_path / "NExTVideo").mkdir()
    (tmp_path / "NExTVideo" / "10.mp4").touch()
    done = convert(benchmark, rows=str(tmp_path / "rows"), out=tmp_path / "out", media=tmp_path)
    assert done.unknown_categories == {"XX": 2} and done.missing_videos == ("NExTVideo/11.mp4",)
    told = "\n".join(summary(done))
    assert "8564 expected (others who use the data have published it), a difference of -8560" in told
    assert "'XX' of 2 rows" in told
    assert "1 video files are not there" in told
    lines = [json.loads(line) for line in (tmp_path / "out" / "bench.jsonl").read_text().splitlines()]
    assert [line["ability"] for line in lines] == ["cause", "other", "order", "other"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["mme", "--rows", "Some/Set", "--out", "o"], "give --revision, a commit of it, so that the same rows"),
        (["mme", "--rows", "Some/Set", "--out", "o"], "(known without: lmms-lab-encoder/MME, lmms-lab/MME)"),
        (["mme", "--rows", "nowhere", "--out", "o"], "no such folder, nor an id on the Hub"),
        (["nextqa", "--rows", ".", "--out", "o"], "give their folder or tar with --media"),
        (["nextqa", "--rows", ".", "--media", "none", "--out", "o"], "--media none is not a folder, nor a tar"),
        (["nosuch", "--rows", ".", "--out", "o"], "invalid choice: 'nosuch'"),
        (["mme", "--rows", ".", "--out", "o", "--limit", "0"], "--limit 0 must be at least 1"),
        (["mme", "--rows", ".", "--out", "o"], "no .parquet, .jsonl"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, says):
    from vtrap_data.__main__ import main

    monkeypatch.chdir(tmp_path)
    assert main(["benchmark", *arguments]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


def test_a_part_is_never_read_from_the_files_of_another(tmp_path):
    write_rows("mvbench", tmp_path)
    with pytest.raises(UsageError, match="files of action_prediction/train"):
        convert(BENCHMARKS["mvbench"], rows=str(tmp_path), out=tmp_path / "out", media=tmp_path)


def test_damaged_and_empty_files_are_said(tmp_path):
    benchmark = write_rows("mme", tmp_path)
    (path,) = tmp_path.rglob("*.parquet")
    (path.parent / "dataset_infos.json").write_text("{}")  # beside parquet, JSON is no rows
    assert convert(benchmark, rows=str(tmp_path), out=tmp_path / "out").questions == 6
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UsageError, match=r"test-00000-of-00001\.parquet cannot be read"):
        convert(benchmark, rows=str(tmp_path), out=tmp_path / "broken")
    path.unlink()
    path.with_name("test.jsonl").write_text('{"question_id": 1}\n{"question')
    with pytest.raises(UsageError, match=r"cannot be read|lack the columns"):
        convert(benchmark, rows=str(tmp_path), out=tmp_path / "broken")
    assert not (tmp_path / "broken" / "bench.jsonl").exists()


def test_values_of_rows():
    assert option_texts(["(A) x", "(B) y"]) == ("x", "y") and option_texts(["A. x", "y"]) == ("A. x", "y")
    assert [by_letter(a, "abc") for a in ("B", "(b)", "B. red", "c")] == [1, 1, 1, 2]
    for bad in ("", "D", "Because", "4"):
        with pytest.raises(ValueError, match="is no letter"):
            by_letter(bad, "abc")


# --- circular evaluation ----------------------------------------------------------------------------------------


def test_rotations_turn_options_and_answer_together():
    question = Question(id="x", question="?", options=("a", "b", "c"), right=1, category="k", facts={"asked": "old"})
    turned = rotations(question, "n")
    assert [name for name, _ in turned] == ["n", "n@1", "n@2"]
    assert [q.options for _, q in turned] == [("a", "b", "c"), ("b", "c", "a"), ("c", "a", "b")]
    assert all(q.options[q.right] == "b" for _, q in turned)
    assert [q.facts for _, q in turned] == [{"base": "n", "rotation": str(k)} for k in range(3)]
    assert rotations(replace(question, right=None, options=()), "n")[0][0] == "n"


def test_circular_beside_vanilla_for_any_multiple_choice_task(tmp_path):
    """A model that always says A: right once per question, never in every rotation."""
    benchmark = write_rows("mmstar", tmp_path / "rows")
    convert(benchmark, rows=str(tmp_path / "rows"), out=tmp_path / "out", circular=True)
    items = [i for s in read_jsonl(tmp_path / "out" / "bench.jsonl").samples for i in s.items]
    assert len(items) == 20
    task = TASKS["mmstar"]
    shown = next(i for i in items if i.id == "mmstar/1@2")
    assert "A. 3\nB. 4\nC. 1\nD. 2" in task.profiles["vtrap"].messages(shown)[0].content
    always_a = [record("mmstar", i, "A", task.grade("A", i)) for i in items]
    check(task.measure(always_a), {"circular": 0, "vanilla": 40, "accuracy": 40, "questions": 5, "incomplete": 0})
    knows = [record("mmstar", i, i.answer, task.grade(i.answer, i)) for i in items]
    check(task.measure(knows), {"circular": 100, "vanilla": 100, "accuracy": 100})
    check(circular(answers(knows[:-1])), {"questions": 4, "incomplete": 1})
    assert circular([]) == {}


@pytest.mark.parametrize("name", ["ai2d", "mmmu", "perceptiontest", "tempcompass", "videomme"])
def test_circular_asks_every_rotation_of_what_can_be_rotated(tmp_path, name):
    """Pictures and videos, open and yes/no questions among them, options with labels of their own left as they are."""
    benchmark = write_rows(name, tmp_path / "rows")
    media = None if benchmark.media == "images" else tmp_path
    convert(benchmark, rows=str(tmp_path / "rows"), out=tmp_path / "out", circular=True, media=media)
    items = [i for s in read_jsonl(tmp_path / "out" / "bench.jsonl").samples for i in s.items]
    task, copies = TASKS[name], {}
    for item in items:
        copies.setdefault(item.id.split("@")[0], []).append(item)
    assert any(len(some) > 1 for some in copies.values())
    for some in copies.values():
        labelled = any(option.startswith(("Option", "Caption", "Sentence")) for option in some[0].options)
        assert len(some) == (len(some[0].options) if some[0].options and not labelled else 1)
        assert len({item.options.index(item.answer) for item in some if item.options}) in (0, len(some))
    rotated = [item for some in copies.values() if len(some) > 1 for item in some]
    # By its letter: in diagrams options may be letters themselves.
    letters = ["ABCDEFGHIJ"[i.options.index(i.answer)] for i in rotated]
    right = [record(name, i, x, task.grade(x, i)) for i, x in zip(rotated, letters, strict=True)]
    check(task.measure(right), {"circular": 100, "vanilla": 100, "incomplete": 0})
    first = [record(name, i, "A", task.grade("A", i)) for i in rotated]
    check(task.measure(first), {"circular": 0})


# --- normal forms and detection ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("A Dog", "dog"),
        ("Two dogs.", "2 dogs"),
        ("none", "0"),
        ("10,000", "10000"),
        ("3.5", "3.5"),
        ("end.", "end"),
        ("dont", "don't"),
        ("Bob's", "bob 's"),
        ("what?", "what"),
        ("a-b", "b"),
        ("x/y", "x y"),
        ("x / y", "x y"),
        ("line\nbreak", "line break"),
        ("", ""),
        (".99", ".99"),  # a full stop stays before a digit, as it does in the rule's own code
        ("v.2 beta.", "v.2 beta"),
        ("a-b-/c", "b c"),  # whether a sign stands beside a space is asked of the text as it was given
        ("1-2-/3", "1 2 3"),
        ("lets", "lets"),
        ("im", "im"),
        ("howll", "how'll"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
    ],
)
def test_vqa_form(text, form):
    assert vqa_form(text) == form


def test_vqa_accuracy_by_hand():
    ten = ["a dog"] * 1 + ["cat"] * 9
    assert vqa_accuracy("dog", ten) == pytest.approx(9 * (1 / 3) / 10)
    assert vqa_accuracy("CAT.", ten) == 1 and vqa_accuracy("cow", ten) == 0
    with pytest.raises(ValueError, match="no references"):
        vqa_accuracy("x", [])


@pytest.mark.parametrize("said", ["$5.99", "#1", "*69", "½", "A$AP Rocky", "10%", ".99", "5'2\""])
def test_textvqa_takes_back_what_ten_people_wrote(said):
    one = Item(id="x", messages=(), answer=references([said] * 10), category="{}")
    assert TASKS["textvqa"].grade(said, one).credit == 1


def test_ocr_form():
    assert ocr_form("ＡＢ\nc", formula=False) == "ab c" and ocr_form("X ^ 2\n", formula=True) == "X^2"
    assert ocr_form("5 m² ½ ™ ß", formula=False) == "5 m² ½ ™ ß"  # "m2" is not what is written there


@pytest.mark.parametrize(
    ("response", "reference", "credit"),
    [
        ("24.5", "24.5", 1),
        ("x = 24.50 cm", "24.5", 1),
        ("The answer is 24.", "24", 1),
        ("The answer is 1,250 dollars", "1250", 1),
        ("$1250", "1250", 1),
        ("between 24 and 25", "25", 0),
        ("24 at 300 K", "24", 1),
        ("It cannot be 24, so 25", "24", 0),
        ("-3", "3", 0),
        ("2024", "24", 0),
        ("a parabola", "parabola", 1),
        ("It is not a parabola", "parabola", 0),
        ("red or blue", "red", 0),
        ("red or blue", "red or blue", 1),
        ("parabolas", "parabola", 0),
        ("+", "+", 1),
        ("The answer is 9.8 m/s^2", "9.8", 1),
        ("60 km/h", "60", 1),
        ("The answer is 60 km / h", "60", 1),
        ("3/4", "0.75", 1),
        ("3/4", "3/4", 1),
        ("3/4", "3", 0),
        ("3/4", "4", 0),
        ("5 / 6", "5", 0),
        ("red/blue", "red", 0),
        ("red / blue", "blue", 0),
        ("The answer is 24 or 25", "24", 0),
        ("I don't think the answer is 24", "24", 0),
        ("It is unlikely to be 24", "24", 0),
        ("I doubt it is a parabola", "parabola", 0),
        ("It is a parabola", "parabola", 1),
        ("The parabola is wrong", "parabola", 0),
        ("It is not a parabola but a hyperbola", "hyperbola", 1),
        ("The answer is 5 m/s", "5", 1),
        ("$5/hour", "5", 1),
        ("5/day", "5", 1),
        ("9.8 m/s²", "9.8", 1),
        ("The answer is 1,250 kg/m^3", "1250", 1),
        ("N/A", "1", 0),
        ("The velocity is 5 m/s", "velocity", 1),
        ("5 red/blue", "red", 0),
        ("60 mph / 97 km/h", "60", 0),
        ("It's 12 J/(kg K)", "12", 1),
        ("x = 3/4", "0.75", 1),
        ("1/0", "1", 0),
        ("0.5/0.25", "0.5", 0),
        ("The answer is km/h", "km/h", 1),
        ("The answer is 24. I am sure", "24", 1),
        ("It is not 24, it is 25", "25", 0),
        ("Without doubt 24", "24", 1),
        ("9.8 m/s", "9.8 m/s", 1),
        ("-3/4", "-0.75", 1),
        ("24 N*m/s", "24", 1),
        ("10 mg/dL", "10", 1),
        ("5°/s", "5", 1),
        ("3.2 g·cm/s", "3.2", 1),
        ("\u22125", "5", 0),
        ("\u22125", "-5", 1),
        ("-5", "\u22125", 1),
    ],
)
def test_open_answers(response, reference, credit):
    from vtrap_bench.grading import open_answer

    item = Item(id="x", messages=(), answer=references([reference]))
    assert open_answer(response, item).credit == credit


@pytest.mark.parametrize(
    ("response", "value"),
    [
        ("Option 2", "Option 2: The car goes quickly."),
        ("2", "Option 2: The car goes quickly."),
        ("option 1: the car goes slowly", "Option 1: The car goes slowly."),
        ("The car goes slowly.", "Option 1: The car goes slowly."),
        ("The best option is Option 2, as the car is fast.", "Option 2: The car goes quickly."),
        ("Option 1 or Option 2", None),
        ("not Option 1", None),
        ("I don't think it is Option 1", None),
        ("It is unlikely that the car goes slowly", None),
        ("The car is red", None),
        ("", None),
    ],
)
def test_captions(response, value):
    from vtrap_bench.grading import caption

    options = ("Option 1: The car goes slowly.", "Option 2: The car goes quickly.")
    item = Item(id="x", messages=(), options=options, answer=options[1])
    found = caption(response, item)
    assert found.extraction.value == value and found.credit == float(value == options[1])


def test_detection_counts_what_the_model_says():
    """The truth is half yes; a model that always says yes has a yes-ratio of 100, not 50; one that never answers 0."""

    def group(said):
        return answers(
            record(
                "pope",
                Item(id=str(i), messages=(), answer=truth, category=write_facts({"categories": "random"})),
                said,
                TASKS["pope"].grade(said, Item(id="x", messages=(), answer=truth)),
            )
            for i, truth in enumerate(("yes", "no"))
        )

    check(detection(group("yes")), {"yes_ratio": 100, "precision": 50, "recall": 100, "f1": 200 / 3, "accuracy": 50})
    check(detection(group("maybe")), {"yes_ratio": 0, "precision": 0, "recall": 0, "f1": 0, "accuracy": 0})


def test_half_an_mme_pair_is_counted_and_left_out():
    facts = write_facts({"subtask": "count", "pair": "1"})
    item = Item(id="1", messages=(), answer="yes", category=facts)
    grade = TASKS["mme"].grade("yes", item)
    check(TASKS["mme"].measure([record("mme", item, "yes", grade)]), {"perception": 0, "incomplete_pairs": 1})


# --- the whole way: rows -> benchmark -> pack -> run with scripted answers -> scores ------------------------------


class Scripted:
    """A backend that gives each item the response the fixture has for it."""

    def __init__(self, responses):
        self.responses, self.prompts = responses, {}
        self.preprocessing = {"family": "scripted"}

    def prepare(self, examples):
        return examples

    def generate(self, examples, *, max_new_tokens):
        from vtrap_bench.backends import Generation

        self.prompts |= {e.item.id: e.item.messages for e in examples}
        return [Generation(self.responses[e.item.id], 4, 8) for e in examples]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """What `run` hashes: a scripted backend reads no weights."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def clip(path: Path, *, level: int) -> None:
    import av
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 64
        for i in range(16):
            image = np.full((64, 64, 3), level + 5 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize("name", ["mme", "textvqa", "videomme"])
def test_rows_to_scores(tmp_path, monkeypatch, model_dir, capsys, name):
    from vtrap_bench import backends
    from vtrap_bench.__main__ import main as bench
    from vtrap_data.__main__ import main as data

    benchmark = write_rows(name, tmp_path / "rows")
    out, packed = tmp_path / "out", tmp_path / "packed"
    options, video = ["--accept-count"], benchmark.media == "video"
    if video:
        for i, clip_name in enumerate(sorted({row["videoID"] for row in fixture(name)})):
            clip(tmp_path / "videos" / "data" / f"{clip_name}.mp4", level=20 + 60 * i)
        options += ["--media", str(tmp_path / "videos")]
    assert data(["benchmark", name, "--rows", str(tmp_path / "rows"), "--out", str(out), *options]) == 0
    told = capsys.readouterr()
    assert f"{benchmark.rows} expected" in told.err and "next: python -m vtrap_data pack" in told.out
    small = ["--budgets", "2,4", "--slots", "4", "--store", "4", "--mean-frames", "3", "--workers", "0"]
    root = ["--media-root", str(tmp_path / "videos"), *small] if video else ["--workers", "0"]
    pack = ["pack", str(out / "bench.jsonl"), "--out", str(packed / name), "--name", name, "--split", "test"]
    assert data([*pack, *root]) == 0
    assert data(["doctor", str(packed / name)]) == 0

    wanted = golden(name)
    ids = [json.loads(line)["id"] for line in (out / "bench.jsonl").read_text("utf-8").splitlines()]
    scripted = Scripted(dict(zip(ids, wanted["responses"], strict=True)))
    monkeypatch.setitem(backends.BACKENDS, "transformers", lambda settings: scripted)
    frames = "2" if video else "budget"
    run = ["run", "--model", str(model_dir), "--tasks", benchmark_group(name), "--benchmarks", str(packed)]
    assert bench([*run, "--frames", frames, "--out", str(tmp_path / "run"), "--profile", "lmms"]) == 0
    assert "as the benchmark counts" in capsys.readouterr().out
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert list(scores["tasks"]) == [name]  # the group is the real benchmark that is there, not the toy task too
    facts = scores["tasks"][name]
    credits = wanted["credits"]
    assert facts["score"] == pytest.approx(100 * sum(credits) / len(credits))
    assert facts["ci"][0] <= facts["score"] <= facts["ci"][1] and facts["n"] == len(credits)
    check(facts["extra"], wanted["extra"])
    text = scripted.prompts[ids[0]][-1].content
    assert text in (FIXTURES / f"{name}.prompts.txt").read_text("utf-8")
    # Finished: nothing is asked again, and the records read back to the same scores.
    scripted.responses = {}
    assert bench([*run, "--frames", frames, "--out", str(tmp_path / "run"), "--profile", "lmms", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == scores
    assert bench(["compare", str(tmp_path / "run"), str(tmp_path / "run")]) == 0


def benchmark_group(name):
    return TASKS[name].modality


def test_groups_are_real_benchmarks_where_there_are_any():
    def names(tasks):
        return [task.name for task in tasks]

    assert names(select_tasks("image,video")) == ["toy-image", "toy-video"]
    assert names(select_tasks("image,video", present={"mme", "toy-image"})) == ["toy-video", "mme"]
    assert names(select_tasks("toy-image,mme")) == ["toy-image", "mme"]


# --- laws of the code -------------------------------------------------------------------------------------------


def test_no_module_that_scores_knows_chance():
    root = Path(__file__).parents[2] / "vtrap_bench"
    for path in (root / "extract.py", root / "grading.py", root / "measures.py", *(root / "tasks").glob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        modules = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        modules |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert not {m for m in modules if re.match(r"(random|secrets|numpy)\b", m)}, path


def test_the_page_lists_what_the_code_has():
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text("utf-8")
    for name, benchmark in BENCHMARKS.items():
        line = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert f"{benchmark.rows:,}".replace(",", " ") in line, line
        for id in benchmark.ids:
            assert f"`{id}`" in page
        for category, ability in benchmark.abilities.items():
            assert ability in page and (category in page or len(benchmark.abilities) > 20), (name, category)
