"""LongVideoBench (val): referring questions about videos of seconds to an hour, up to five options."""

from __future__ import annotations

from vtrap_data.sources.benchmarks.spec import Benchmark, Part, Question, Row, by_index, filled, plain, text

ABILITIES = {
    "S2E": "action",
    "S2O": "recognition",
    "S2A": "attribute",
    "E2O": "recognition",
    "O2E": "action",
    "T2E": "action",
    "T2O": "recognition",
    "T2A": "attribute",
    "E3E": "order",
    "O3O": "order",
    "SSS": "order",
    "SOS": "long-range",
    "SAA": "change",
    "T3E": "order",
    "T3O": "order",
    "TOS": "long-range",
    "TAA": "change",
}


def read(row: Row, part: Part) -> Question | None:
    """One question; rows without an answer (the test split) are left out. Subtitles are not used."""
    if row["correct_choice"] is None or int(row["correct_choice"]) < 0:
        return None
    options = [filled(row.get(f"option{number}")) for number in range(5)]
    while options and not options[-1]:
        options.pop()
    return Question(
        id=text(row["id"]),
        question=plain(row["question"]),
        options=tuple(options),
        right=by_index(row["correct_choice"], options),
        category=text(row["question_category"]),
        video=(f"videos/{text(row['video_path'])}", text(row["video_path"])),
        facts={"duration": text(row["duration_group"]), "category": text(row["question_category"])},
    )


LONGVIDEOBENCH = Benchmark(
    name="longvideobench",
    title="LongVideoBench (val, without subtitles)",
    media="video",
    ids=("longvideobench/LongVideoBench",),
    revision="60d1c89c1919a198b73be39c2babb213b29d6a5c",
    parts=(Part(config="default", split="validation", rows=1337, known="table"),),
    columns=(
        "id",
        "video_id",
        "video_path",
        "question",
        "option0",
        "option1",
        "option2",
        "option3",
        "correct_choice",
        "duration_group",
        "question_category",
    ),
    abilities=ABILITIES,
    read=read,
    counts_from="benchmark_audit/README.md of naver-ai/unimambamia-av; a reference page of lmms-eval's tasks",
    licence="CC-BY-NC-SA-4.0",
    licence_stated="card of longvideobench/LongVideoBench, of the questions; the videos are their channels'",
)
