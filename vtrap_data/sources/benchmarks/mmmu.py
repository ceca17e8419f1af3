"""MMMU (val): college questions in 30 subjects, multiple choice and open, with up to seven pictures."""

from __future__ import annotations

import re

from vtrap_data.sources.benchmarks.spec import (
    Benchmark,
    Part,
    Question,
    Row,
    by_letter,
    plain,
    references,
    sequence,
    text,
)

DOMAINS = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}
SUBJECTS = {subject: domain for domain, subjects in DOMAINS.items() for subject in subjects}
IMAGES = tuple(f"image_{number}" for number in range(1, 8))


def read(row: Row, part: Part) -> Question:
    """One question. Its pictures are those that question and options name, by number; or all, if they name none."""
    name = text(row["id"])
    subject = name.split("_", 1)[1].rsplit("_", 1)[0] if name.count("_") >= 2 else name
    question, options = plain(row["question"]), tuple(plain(option) for option in sequence(row["options"]))
    named = sorted({int(n) for n in re.findall(r"<image (\d)>", " ".join((question, *options)))})
    present = [n for n in range(1, 8) if row.get(f"image_{n}") is not None]
    if missing := [n for n in named if n not in present]:
        raise ValueError(f"it names picture {missing[0]}, which the row does not have")
    shown = named or present
    facts = {
        "subject": subject,
        "domain": SUBJECTS.get(subject, "other"),
        "type": text(row["question_type"]),
        "images": ",".join(map(str, shown)),
    }
    closed = text(row["question_type"]) == "multiple-choice"
    # An open question may have several right answers, as the text of a list.
    answer = text(row["answer"])
    answers = [text(one) for one in sequence(answer)] if not closed and answer.startswith("[") else [answer]
    return Question(
        id=name,
        question=question,
        options=options if closed else (),
        right=by_letter(answer, options) if closed else None,
        answer="" if closed else references(answers),
        category=subject,
        images=tuple(row[f"image_{n}"] for n in shown),
        facts=facts,
    )


MMMU = Benchmark(
    name="mmmu",
    title="MMMU (val)",
    media="images",
    ids=("lmms-lab-encoder/MMMU", "lmms-lab/MMMU"),
    revision="364f2e2eb107b36e07ff4c5a15f5947a759cef47",
    parts=(Part(config="default", split="validation", rows=900, known="table"),),
    columns=("id", "question", "options", "answer", "question_type", *IMAGES),
    abilities=dict.fromkeys(SUBJECTS, "knowledge"),
    read=read,
    counts_from="lists of evaluation sets that users published with their results",
    licence="Apache-2.0",
    licence_stated="tag of the card of MMMU/MMMU; the images are from textbooks and the web",
)
