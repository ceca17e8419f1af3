"""NExT-QA (multiple choice): why, how, before, after and what, in five options about short videos."""

from __future__ import annotations

from vtrap_data.sources.benchmarks.spec import Benchmark, Part, Question, Row, by_index, plain, text

GROUPS = {"C": ("CW", "CH"), "T": ("TN", "TC", "TP"), "D": ("DC", "DL", "DO", "DB")}
"""Causal, temporal and descriptive types."""
ABILITIES = {
    "CW": "cause",
    "CH": "cause",
    "TN": "order",
    "TC": "order",
    "TP": "order",
    "DC": "counting",
    "DL": "scene",
    "DO": "recognition",
    "DB": "existence",
}


def read(row: Row, part: Part) -> Question:
    """One question."""
    options = tuple(plain(row[f"a{number}"]) for number in range(5))
    name, kind = text(row["video"]), text(row["type"])
    return Question(
        id=f"{name}/{text(row['qid'])}",
        question=plain(row["question"]),
        options=options,
        right=by_index(row["answer"], options),
        category=kind,
        video=(f"NExTVideo/{name}.mp4", f"{name}.mp4"),
        facts={"type": kind, "group": kind[:1]},
    )


NEXTQA = Benchmark(
    name="nextqa",
    title="NExT-QA (MC, test)",
    media="video",
    ids=("lmms-eval/NExTQA", "lmms-lab/NExTQA"),
    revision="a0d7729e38399da9c8a70c59aa4ad7f6996d3c00",
    parts=(Part(config="MC", split="test", rows=8564, known="table"),),
    columns=("video", "question", "a0", "a1", "a2", "a3", "a4", "answer", "type", "qid"),
    abilities=ABILITIES,
    read=read,
    counts_from="benchmark_audit/README.md of naver-ai/unimambamia-av; a reference page of lmms-eval's tasks",
    licence="MIT",
    licence_stated="LICENSE of doc-doc/NExT-QA, which holds the questions; the videos are those of VidOR",
)
