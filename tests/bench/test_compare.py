"""compare: verdicts on runs whose truth is known, and what is refused."""

import json

import numpy as np
import pytest
from finished_run import write_info, write_scores
from test_statistics import check as check_statistics

from vtrap_bench.__main__ import main
from vtrap_bench.compare import compare, text
from vtrap_bench.finished import read_run
from vtrap_bench.records import RECORDS, Record, RecordFile
from vtrap_bench.statistics import holm, mcnemar, paired_difference


def write_run(folder, answers, *, label="m", task="toy-video", version=1, frames="16", data="d", finished=True):
    """A run as `run` leaves it. `answers`: (item, ability, cluster, what it earns)."""
    with RecordFile(folder / RECORDS) as file:
        file.append(
            Record(
                key=f"{label}-{item}",
                task=task,
                item_id=item,
                ability=ability,
                cluster=cluster,
                question="?",
                options=("x", "y"),
                answer="x",
                response="x",
                extracted="x",
                stage="exact",
                correct=bool(correct == 1),
                credit=float(correct) if 0 < correct < 1 else None,
                frame_times=(),
                n_frames=0,
                visual_tokens=1,
                prompt_tokens=2,
            )
            for item, ability, cluster, correct in answers
        )
        records = list(file.records)
    task_info = {"version": version, "data_sha256": data}
    write_info(folder, records, model=label, frames=frames, tasks={task: task_info}, preprocessing={"family": "f"})
    if finished:
        write_scores(folder, records, model=label, frames=frames, version=version)
    return folder


def items(correct, *, per_cluster=3):
    abilities = ("static", "order")
    return [(f"i{n:04d}", abilities[n % 2], f"c{n // per_cluster}", c) for n, c in enumerate(correct)]


@pytest.fixture
def pair(tmp_path):
    """B is right where A is, and on most of the rest."""
    rng = np.random.default_rng(0)
    a = rng.random(300) < 0.5
    b = a | (rng.random(300) < 0.4)
    folders = write_run(tmp_path / "a", items(a), label="A"), write_run(tmp_path / "b", items(b), label="B")
    return folders, a.astype(float), b.astype(float)


def test_numbers_are_those_of_the_statistics(pair):
    (fa, fb), a, b = pair
    result = compare(read_run(fa), read_run(fb))
    (task,) = result.tasks
    expected = paired_difference(a, b, [f"c{n // 3}" for n in range(300)])
    assert (task.n, task.clusters) == (300, 100)
    assert task.difference == pytest.approx(100 * (b.mean() - a.mean()))
    assert (task.low, task.high) == pytest.approx(tuple(100 * x for x in expected.interval))
    assert task.p == pytest.approx(expected.p)
    assert task.p_holm == min(1, 2 * task.p)  # the task, and its abilities: two kinds of rows
    assert task.p_mcnemar == mcnemar(int((a > b).sum()), int((b > a).sum()))
    assert [d.ability for d in result.abilities] == ["static", "order"]
    assert [d.p_holm for d in result.abilities] == pytest.approx(
        [2 * p for p in holm([d.p for d in result.abilities])]
    )
    assert not result.warnings


def test_a_whole_comparison_is_adjusted():
    """Holm's rule inside each kind of rows, times the kinds that say something of their own."""
    rng = np.random.default_rng(5)

    def compared(*, tasks, abilities):
        runs = []
        for better in (0.0, 0.2):
            rights = [rng.random(240) < 0.4 + better for _ in range(tasks)]
            runs.append(
                [
                    (r.astype(float), np.arange(240) // 2, [abilities[i % len(abilities)] for i in range(240)])
                    for r in rights
                ]
            )
        return compare(*map(check_statistics.run_of, runs))

    found = compared(tasks=1, abilities=["counting"])
    assert found.tasks[0].p_holm == found.tasks[0].p == found.abilities[0].p_holm
    found = compared(tasks=3, abilities=["counting", "ocr"])
    for rows in (found.tasks, found.abilities, found.across):
        assert [r.p_holm for r in rows] == pytest.approx([min(1, 3 * p) for p in holm([r.p for r in rows])])
    assert {len(found.tasks), len(found.abilities), len(found.across)} == {3, 6, 2}
    assert "adjusted for the rows of its kind and for the 3 kinds of rows" in text(found) and "at most 5 %" in text(
        found
    )
    abilities, across = found.sentences[3:]
    assert abilities.startswith(
        "Abilities: of 6 tested, these moved (p adjusted for all of them and for the 3 kinds of"
    )
    assert across.startswith(
        "Abilities across tasks: of 2 tested, these moved (p adjusted for all of them and for the 3"
    )
    found = compared(tasks=2, abilities=["counting"])  # the abilities are the tasks once more
    assert "moved (p adjusted for all of them and for the 2 kinds of rows)" in found.sentences[2]
    assert [r.p_holm for r in found.abilities] == [r.p_holm for r in found.tasks]
    assert found.tasks[0].p_holm == pytest.approx(2 * holm([r.p for r in found.tasks])[0])


def test_the_simulation_of_whole_comparisons():
    """Models that are alike: claims are few (docs/benchmark.md has many trials); and they are found where made."""
    designs = [check_statistics.Design(20, 3, 0.5, 0.3)] * 2
    found = check_statistics.comparisons(designs, trials=20, seed=0)
    assert found.any <= found.rows <= 0.2
    run = [(np.zeros(60), np.arange(60) // 3, ["ocr", "counting"] * 30)] * 2
    other = [(np.ones(60), *rest) for _, *rest in run]
    assert check_statistics.claims_change(compare(*map(check_statistics.run_of, (run, other))))


def test_sentences_say_what_can_be_concluded(pair, tmp_path):
    (fa, fb), a, _ = pair
    said = " ".join(compare(read_run(fa), read_run(fb)).sentences)
    assert "points higher than A" in said and "static" in said
    said = " ".join(compare(read_run(fb), read_run(fa)).sentences)
    assert "points lower than A" in said
    # As many better as worse: nothing can be concluded, and equality least of all.
    mixed = a.copy()
    mixed[:20] = 1 - mixed[:20]
    said = " ".join(compare(read_run(fa), read_run(write_run(tmp_path / "m", items(mixed)))).sentences)
    assert "no difference can be concluded" in said and "does not show that they are equal" in said
    assert "would often be missed" in said
    said = " ".join(compare(read_run(fa), read_run(write_run(tmp_path / "s", items(a)))).sentences)
    assert "right on the same ones" in said and "does not show" in said


def test_an_interval_of_few_changes_is_said_to_cover_more(tmp_path):
    """And what fewer than six changed clusters cannot show; a flip that is made up for in its cluster is none."""
    before = write_run(tmp_path / "a", items([0] * 30 + [1, 0, 0]))
    for changed in (0, 1, 4, 5):
        after = [0] * 30 + [0, 1, 0]
        after[: 3 * changed : 3] = [1] * changed
        result = compare(read_run(before), read_run(write_run(tmp_path / str(changed), items(after))))
        assert (result.tasks[0].clusters, result.tasks[0].changed) == (11, changed)
        few = (
            f"Only {changed} of the clusters changed: where fewer than 5 are to be expected, an interval of models "
            "that are alike covers more than 95 %, wider than it would have to be, and fewer than 6 never show a "
            "difference at 5 %."
        )
        assert (few in result.sentences[0]) == (changed in (1, 4)), result.sentences[0]
        assert ("no interval, as all clusters changed alike" in result.sentences[0]) == (changed == 0)


def test_shares_of_an_answer_count_where_no_item_is_wholly_right(tmp_path):
    """VQA accuracy: none of these is right in either run, and B still earns more."""
    a = write_run(tmp_path / "a", items([0.3] * 60, per_cluster=1))
    b = write_run(tmp_path / "b", items([0.6, 0.9] * 30, per_cluster=1))
    result = compare(read_run(a), read_run(b))
    assert result.tasks[0].only_a == result.tasks[0].only_b == 0 and result.tasks[0].difference == pytest.approx(45)
    assert "points higher than A" in result.sentences[0]
    said = compare(read_run(a), read_run(a)).sentences[0]
    assert "right on the same ones" in said and "does not show" in said


def test_names_are_shown_not_obeyed(tmp_path, capsys):
    folders = [write_run(tmp_path / n, [(f"i{k}", "a\x1b[2Jb", f"c{k}", 1) for k in range(3)]) for n in "ab"]
    assert main(["compare", *map(str, folders)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and r"a\x1b[2Jb" in out


def test_single_cluster_concludes_nothing(tmp_path):
    a = write_run(tmp_path / "a", items([1, 1, 0, 0], per_cluster=9))
    b = write_run(tmp_path / "b", items([1, 1, 1, 1], per_cluster=9))
    result = compare(read_run(a), read_run(b))
    assert result.tasks[0].p is None and "nothing can be concluded" in result.sentences[0]


def test_abilities_that_are_not_tested_are_not_counted(tmp_path):
    asked = [("i1", "order", "c1"), ("i2", "order", "c2"), ("i3", "blinks", "c1"), ("i4", "blinks", "c3")]
    asked += [("i5", "static", "c1"), ("i6", "static", "c1")]
    one, two = (write_run(tmp_path / n, [(*a, n == "b") for a in asked]) for n in "ab")
    said = compare(read_run(one), read_run(two)).sentences
    assert said[1:] == (
        "Abilities: of 2 tested, none can be said to have moved (p adjusted for all of them and for the 2 kinds of "
        "rows); their differences may be chance.",
    )


def test_only_shared_items_count_whatever_their_order(tmp_path):
    a = write_run(tmp_path / "a", items([1, 0, 1, 0, 1, 0]))
    b = write_run(tmp_path / "b", items([1, 1, 1, 1])[::-1], frames="8", data="other")
    result = compare(read_run(a), read_run(b))
    assert result.tasks[0].n == 4 and result.tasks[0].difference == 50
    warnings = " ".join(result.warnings)
    assert "only the 4 shared" in warnings and "packed data differ" in warnings and "16 frames" in warnings


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, "versions 1 and 2"),
        ({"task": "toy-image"}, "share no items"),
        ({"finished": False}, "not finished"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, capsys, change, says):
    write_run(tmp_path / "a", items([1, 0]))
    write_run(tmp_path / "b", items([1, 0]), **change)
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1


def test_a_folder_of_runs_is_told_from_a_run(pair, tmp_path, capsys):
    assert main(["compare", str(tmp_path), str(tmp_path / "b")]) == 2
    assert "it holds the runs a, b" in capsys.readouterr().err


def test_command(pair, capsys):
    (fa, fb), *_ = pair
    assert main(["compare", str(fa), str(fb), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["a"] == "A" and data["tasks"][0]["n"] == 300 and data["sentences"]
    assert main(["compare", str(fa), str(fb)]) == 0
    assert "toy-video" in capsys.readouterr().out
