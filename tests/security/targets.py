"""Every parser of ours, as a function of bytes that may raise nothing but the errors it promises.

The tests give them mutations of sound input that hypothesis draws; `scripts/fuzz` runs them for as long as one likes.
"""

from __future__ import annotations

import io
import json
import random
import string
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
from PIL import Image

from hub_cards.dry_run import PLAN, _read_plan
from hub_cards.eval_results import merge_eval_results
from hub_cards.report_rows import report_rows
from vtrap_bench.answered import Answered
from vtrap_bench.backends.tokens import TOKENS, read_tokens
from vtrap_bench.boxes import read_boxes
from vtrap_bench.changes import read_runs_of_study
from vtrap_bench.claims import ALIVE, Worker
from vtrap_bench.extract import extract
from vtrap_bench.finished import read_run
from vtrap_bench.records import RECORDS, Record, RecordFile, parse_records, read_chained
from vtrap_bench.run_file import read_info
from vtrap_bench.steps import _read_marker
from vtrap_bench.study import EXAMPLE
from vtrap_bench.study_file import read_study
from vtrap_data.errors import UsageError, VtrapError
from vtrap_data.files import sha256_file
from vtrap_data.loading.dataset import PackedDataset
from vtrap_data.media.tars import tar_members, tar_names
from vtrap_data.media.whole import missing_bytes
from vtrap_data.parsing import parse_json
from vtrap_data.samples import PackedSample, SourceSample
from vtrap_data.shards import spool
from vtrap_data.shards.doctor import doctor
from vtrap_data.shards.index import read_index
from vtrap_data.shards.manifest import INDEX, MANIFEST, PackSettings, read_manifest
from vtrap_data.shards.members import pack_list, spans, unpack_list
from vtrap_data.shards.pack import pack
from vtrap_data.shards.preview import preview
from vtrap_data.shards.stats import as_text, stats
from vtrap_data.sources.benchmarks.spec import read_facts, read_references
from vtrap_data.sources.corpora.rows import read_rows
from vtrap_data.sources.jsonl import read_jsonl


class Target(NamedTuple):
    """One parser.

    Attributes:
        run: Called with the input and an empty folder.
        allowed: What it may raise.
        seeds: Sound inputs.
    """

    run: Callable[[bytes, Path], object]
    allowed: tuple[type[Exception], ...]
    seeds: Callable[[], list[bytes]]


def check(name: str, data: bytes) -> None:
    """Give a target an input; any error that it does not promise comes out."""
    target = TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, suppress(*target.allowed):
        target.run(data, Path(folder))


# --- sound input -----------------------------------------------------------------------------------------------------


@cache
def corpus() -> dict[str, bytes]:
    """The files of a packed corpus of two photos and a text."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rows = []
        for number, colour in enumerate(("red", "blue")):
            Image.new("RGB", (8, 6), colour).save(root / f"{number}.png")
            rows.append({"image": f"{number}.png", "messages": _turns("What colour?", colour), "ability": "colour"})
        rows.append({"messages": _turns("2 + 2?", "4")})
        source = root / "rows.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        settings = PackSettings(name="seed", strategy="fixed:8")
        pack(read_jsonl(source).samples, root / "out", settings=settings)
        files = [p for p in sorted((root / "out").rglob("*")) if p.is_file()]
        return {p.relative_to(root / "out").as_posix(): p.read_bytes() for p in files}


SHARD = "data/train-00000.tar"


def _turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _sample() -> list[bytes]:
    video = {
        "key": "00000000-a", "id": "a", "kind": "video", "source": "s", "licence": "CC0-1.0", "redistributable": None,
        "images": [], "format": 1, "items": [{
            "id": "a/0", "messages": _turns("<video>\nWhat?", "A cat."), "question": "What?", "options": [],
            "answer": None, "ability": None, "category": None, "needs": None, "budget": 2, "frame_ids": [0, 1],
            "demand": 0.5, "scores": [],
        }], "video": {
            "name": "a.mp4", "sha256": "0" * 64, "duration": 2.0, "fps": 8.0, "width": 96, "height": 64,
            "frame_times": [0.5, 1.5], "frame_bytes": [3, 10, 20], "pool": [0, 0, 1, 1], "residuals": [0.5, 0.1],
        },
    }  # fmt: skip
    with tarfile.open(fileobj=io.BytesIO(corpus()[SHARD])) as tar:
        stored = [tar.extractfile(info) for info in tar if info.name.endswith(".json")]
        return [_json(video), *(file.read() for file in stored if file)]


def _record(**change: Any) -> Record:
    facts: dict[str, Any] = {
        "key": "k", "task": "toy-image", "item_id": "i", "ability": "colour", "cluster": "c", "question": "?",
        "options": ("x", "y"), "answer": "x", "response": "x", "extracted": "x", "stage": "exact", "correct": True,
        "frame_times": (0.5,), "n_frames": 1, "visual_tokens": 1, "prompt_tokens": 2, "likelihoods": (-1.0, -2.0),
    }  # fmt: skip
    return Record(**{**facts, **change})


@cache
def _records() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / RECORDS
        with RecordFile(path) as file:
            file.append([_record(), _record(key="l", item_id="j", facts='{"a": "b"}', credit=0.5)])
        return [path.read_bytes()]


def _tars() -> list[bytes]:
    found = []
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=kind) as tar:
            for name in ("a.mp4", "d/é" + "x" * 90):
                info = tarfile.TarInfo(name)
                info.size = 5
                if kind == tarfile.PAX_FORMAT:
                    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "comment": "c"}
                tar.addfile(info, io.BytesIO(b"bytes"))
            link = tarfile.TarInfo("l")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
        found.append(out.getvalue()[:4096])
        found.append(found[-1] + b"\0" * 1024)
    return found


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


_SHEET = {
    "image": {"score": 50.0, "ci": [40.0, 60.0]}, "video": {"score": 50.0, "ci": None}, "mean_frames": 8.0, "n": 4,
    "image_change": {"value": -1.0, "ci": [-2.0, 0.0]}, "video_change": {"value": 1.0, "ci": None},
    "abilities": {"toy-image": {"colour": {"score": 50.0, "ci": [1.0, 99.0]}}},
}  # fmt: skip
_REPORT = {
    "format": 1, "synthetic": True, "base": {"model": "toy-vl", "at": {"8": _SHEET}},
    "settings": [{
        "name": "hybrid", "seed": 0, "frames": "hybrid", "strategy": None, "evaluated": 8, "common": None, **_SHEET,
    }],
}  # fmt: skip
_SCORE = {"score": 75.0, "ci": [10.0, 99.0]}
_SCORES = {
    "format": 1, "model": "m", "label": "m", "frames": "8", "records_sha256": "", "image": _SCORE,
    "tasks": {"toy-image": {
        **_SCORE, "n": 2, "version": 1, "modality": "image", "synthetic": True, "clusters": 1, "unparsed": 0.0,
        "empty": 0.0, "mean_frames": 1.0, "visual_tokens": 2, "abilities": {"colour": {**_SCORE, "n": 2}},
    }},
}  # fmt: skip
_INFO = {
    "format": 1, "model": {"name": "m", "hub_revision": None, "family": "f", "weights": {"a": "b"}}, "label": "m",
    "frames": "8", "decides": {"model": "m"}, "device": "cpu", "batch_size": 1, "preprocessing": {}, "backend": {},
    "tasks": {"toy-image": {"version": 1, "modality": "image", "synthetic": True, "data_sha256": "", "items": 2,
                            "limit": None, "max_new_tokens": 8, "answer_form": "option"}},
    "bootstrap": {"seed": 0, "resamples": 2000, "level": 0.95, "tasks": "t"}, "versions": {},
}  # fmt: skip
_STUDY = {
    "format": 1, "common_frames": 8, "curve": [], "commands": ["python"], "tasks": ["toy-image"], "benchmarks": None,
    "checkpoints": [{"setting": None, "frames": None, "strategy": None, "evaluated": "8", "seed": None, "model": "m",
                     "runs": {"8": "."}}],
}  # fmt: skip


# --- the parsers -----------------------------------------------------------------------------------------------------


def _write(folder: Path, **files: bytes) -> Path:
    for name, data in files.items():
        (folder / name.replace("__", ".")).write_bytes(data)
    return folder


def unpacked(folder: Path, **change: bytes) -> Path:
    """A small sound corpus, but for the files that are given anew."""
    for name, data in {**corpus(), **change}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def tar_index(data: bytes, folder: Path) -> None:
    path = _write(folder, a__tar=data) / "a.tar"
    with suppress(tarfile.TarError):
        for _, (offset, size) in tar_members(path):
            assert 0 <= offset <= offset + size <= len(data)
    tar_names(path)


def video_lengths(data: bytes, folder: Path) -> None:
    path = _write(folder, a=data) / "a"
    for container in ("mov,mp4", "avi", "matroska,webm", "gif", "mpegts", "flv"):
        assert missing_bytes(path, container) >= 0


def shard(data: bytes, folder: Path) -> None:
    """A corpus whose tar is replaced, with a manifest that agrees: everything that reads it."""
    root = unpacked(folder, **{SHARD: data})
    manifest = json.loads((root / MANIFEST).read_bytes())
    manifest["shards"][0] |= {"bytes": len(data), "sha256": sha256_file(root / SHARD)}
    (root / MANIFEST).write_bytes(_json(manifest))
    _use(root)


def index(data: bytes, folder: Path) -> None:
    """A corpus whose index is replaced, with a manifest that agrees."""
    root = unpacked(folder, **{INDEX: data})
    manifest = json.loads((root / MANIFEST).read_bytes())
    manifest["index_sha256"] = sha256_file(root / INDEX)
    (root / MANIFEST).write_bytes(_json(manifest))
    read_index(root)
    _use(root)


def manifest(data: bytes, folder: Path) -> None:
    root = unpacked(folder, **{MANIFEST: data})
    read_manifest(root)
    _use(root)


def _use(root: Path) -> None:
    _all(
        lambda: doctor(root),
        lambda: as_text(stats(root)),
        lambda: preview(root, root / "preview.html"),
        lambda: list(PackedDataset(root)),
    )


def _all(*reads: Callable[[], object]) -> None:
    """Every one of them; then the first refusal, if there was one, so that sound input is seen to be taken by all."""
    refused: list[VtrapError] = []
    for read in reads:
        try:
            read()
        except VtrapError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def frames(data: bytes, folder: Path) -> None:
    with suppress(ValueError):
        spans(tuple(data[:9]))
    unpack_list(data)


def sample(data: bytes, folder: Path) -> None:
    found = PackedSample.parse(data)
    found.to_json()
    assert repr(found) == repr(PackedSample.from_json(parse_json(data)))


def jsonl(data: bytes, folder: Path) -> None:
    with suppress(UsageError):
        read_jsonl(_write(folder, r__jsonl=data) / "r.jsonl")
    with suppress(UsageError):
        read_jsonl(_write(folder, r__json=data) / "r.json")


def corpus_rows(data: bytes, folder: Path) -> None:
    for name in ("r.jsonl", "r.json", "r.parquet"):
        (folder / name).write_bytes(data)
        with suppress(UsageError):
            list(read_rows(folder / name))


def records(data: bytes, folder: Path) -> None:
    path = _write(folder, records__jsonl=data) / RECORDS

    def append() -> None:
        with RecordFile(path) as file:
            file.append([_record()])

    _all(lambda: parse_records(data, path), lambda: read_chained(path), lambda: Answered(folder), append)


def tokens(data: bytes, folder: Path) -> None:
    read_tokens(_write(folder, tokens__jsonl=data) / TOKENS)
    read_boxes(folder / TOKENS)


def run_json(data: bytes, folder: Path) -> None:
    _write(folder, run__json=data, scores__json=_json(_SCORES), records__jsonl=_records()[0])
    _all(lambda: read_info(folder), lambda: read_run(folder))


def scores(data: bytes, folder: Path) -> None:
    _write(folder, run__json=_json(_INFO), scores__json=data, records__jsonl=_records()[0])
    read_run(folder)


def study_json(data: bytes, folder: Path) -> None:
    _write(folder, run__json=_json(_INFO), scores__json=_json(_SCORES), records__jsonl=_records()[0], study__json=data)
    read_runs_of_study(folder)


def study_yaml(data: bytes, folder: Path) -> None:
    read_study(_write(folder, s__yaml=data) / "s.yaml")


def recipe(data: bytes, folder: Path) -> None:
    from vtrap_train.config import flags, read_settings  # loads torch and TRL

    read_settings(_write(folder, s__yaml=data) / "s.yaml", flags())


def eval_results(data: bytes, folder: Path) -> None:
    merge_eval_results([data.decode(errors="replace")], "- dataset: {id: a/b, task_id: c}\n  value: 1\n")


def report(data: bytes, folder: Path) -> None:
    found = parse_json(data)
    if isinstance(found, dict):
        report_rows(found)


def claims(data: bytes, folder: Path) -> None:
    """A claim, and a sign of life, that somebody else has left."""
    root = folder / "work"
    (root / "claims").mkdir(parents=True)
    name, _, content = data.partition(b"\n")
    owner = name.decode("utf-8", errors="surrogateescape").replace("\0", "")[:200]
    with suppress(OSError, ValueError):  # no name of a link
        (root / "claims/one.0").symlink_to(owner)
    (root / "claims/two.0").write_bytes(data)
    with suppress(OSError, ValueError):
        (root / owner).mkdir()
        (root / owner / ALIVE).write_bytes(content)
    with Worker(root, beat=60, lease=60) as me:
        me.claim("one")
        me.bury()
        me.claim("two")


def spooled(data: bytes, folder: Path) -> None:
    one = SourceSample(id="a", kind="text", paths=(), items=(), source="s")
    _write(folder, **{f"{spool.spool_name(one)}__json": data, f"{spool.spool_name(one)}__frames": data})
    spool.read_facts(folder, one)
    spool.read_spool(folder, one)


def ledger(data: bytes, folder: Path) -> None:
    from vtrap_train.ledger import Lines

    lines = Lines(_write(folder, l__jsonl=data) / "l.jsonl")
    lines.rewind(3)
    assert all(line["step"] <= 3 for line in lines.read())


def plans(data: bytes, folder: Path) -> None:
    """Notes that commands leave for themselves: unreadable ones are made anew."""
    _read_marker(_write(folder, m__json=data) / "m.json")
    (folder / PLAN).write_bytes(data)
    _read_plan(folder / PLAN)


def facts(data: bytes, folder: Path) -> None:
    text = data.decode(errors="replace")
    read_references(text)
    read_facts(text)


def answers(data: bytes, folder: Path) -> None:
    text = data.decode(errors="replace")
    for form in ("letter", "option", "yes-no", "integer", "text"):
        extract(text, form=form, options=("red", "blue", "a cat", "42"))


_YAML = EXAMPLE.partition("study.yaml:\n")[2].replace("\n  ", "\n").strip().encode()

TARGETS: dict[str, Target] = {
    "tar_index": Target(tar_index, (UsageError,), _tars),
    "video_lengths": Target(video_lengths, (), lambda: [
        (24).to_bytes(4, "big") + b"ftypisom" + bytes(12) + (90).to_bytes(4, "big") + b"mdat" + bytes(40),
        b"GIF89a" + bytes(7) + b"\x21\xf9\x04" + bytes(5) + b"\x3b",
        b"RIFF" + (90).to_bytes(4, "little") + b"AVI " + bytes(40),
        b"\x1a\x45\xdf\xa3\x84webm\x18\x53\x80\x67\x01" + (90).to_bytes(7, "big") + bytes(40)]),
    "shard": Target(shard, (VtrapError,), lambda: [corpus()[SHARD]]),
    "index": Target(index, (VtrapError,), lambda: [corpus()[INDEX]]),
    "manifest": Target(manifest, (VtrapError,), lambda: [corpus()[MANIFEST]]),
    "frames": Target(frames, (ValueError,), lambda: [pack_list([b"abc", b"d" * 300]).data, msgpack.packb([{1: 2}])]),
    "sample": Target(sample, (ValueError,), _sample),
    "jsonl": Target(
        jsonl,
        (),
        lambda: [
            _json({"id": 1, "image": ["a.png"], "conversations": [{"from": "human", "value": "<image>?"},
                   {"from": "gpt", "value": "x"}], "options": ["x", "y"], "answer": "A"}) + b"\n",
            _json([{"messages": [{"role": "user", "content": [{"type": "video", "video": "v.mp4"},
                   {"type": "text", "text": "?"}]}], "answer": "x", "needs": 3, "redistributable": True}]),
        ],
    ),
    "corpus_rows": Target(corpus_rows, (), lambda: [b'[{"a": 1}, {"b": [2, null]}]', b'{"a": 1}\n{"b": 2}\n']),
    "records": Target(records, (VtrapError,), _records),
    "tokens": Target(tokens, (UsageError,), lambda: [_json({"key": "k", "steps": [[1, -0.5, 2, -1.0]]}) + b"\n",
                                                     _json({"item_id": "i", "boxes": [[0, 0, 0.5, 1]]}) + b"\n"]),
    "run_json": Target(run_json, (VtrapError,), lambda: [_json(_INFO)]),
    "scores": Target(scores, (VtrapError,), lambda: [_json(_SCORES)]),
    "study_json": Target(study_json, (UsageError,), lambda: [_json(_STUDY)]),
    "study_yaml": Target(study_yaml, (UsageError,), lambda: [_YAML]),
    "recipe": Target(recipe, (UsageError,), lambda: [b"learning_rate: 1.0e-5\nfreeze: [vision]\n", b"!!bool maybe"]),
    "eval_results": Target(eval_results, (ValueError,), lambda: [b"- dataset: {id: a/b, task_id: d}\n  value: 2\n"]),
    "report": Target(report, (ValueError,), lambda: [_json(_REPORT)]),
    "claims": Target(claims, (UsageError,), lambda: [b"host.0123456789ab.17.a1b2c3\n12\n", b"../../etc\n"]),
    "spooled": Target(spooled, (), lambda: [_json({"sample": "a", "media": [], "member_sha256": "0" * 64,
                                                   "measured": {"video": None, "images": [], "notes": []}})]),
    "ledger": Target(ledger, (), lambda: [b'{"step": 1, "sample": "a"}\n{"step": 7}\n']),
    "plans": Target(plans, (), lambda: [_json({"format": 1, "state": "done", "digest": "d", "parts": {
        "model": {"target": "a/b", "files": ["model/README.md"], "uploads": [["a", 1]], "blocked": []}}})]),
    "facts": Target(facts, (ValueError,), lambda: [b'{"a": "b"}', b'["x", "y"]']),
    "answers": Target(answers, (), lambda: [b"The answer is (B) blue.", b"<think>no</think> **42**", b"Yes, 3."]),
}  # fmt: skip


# --- mutations -------------------------------------------------------------------------------------------------------

NASTY = [
    None, True, -1, 0, 2**31, 2**63, 10**400, 1e308, float("nan"), float("inf"), "", "\ud800", "\u2028", "../../x",
    "/etc/passwd", "\x1b[2J", "</script>", "a" * 5000, [], {}, [[[[]]]], {"a": {"b": {}}}, ["x"] * 3, "=1+1", "\0",
]  # fmt: skip
BYTES = [
    b"\0" * 9, b"\xff" * 9, b"[" * 3000, b"{\"a\":" * 3000, b"\r\n", b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"-1",
    b"!!python/object/apply:os.system [id]\n", b"!!timestamp x", b"!!float ''", b"2001-99-99", b"0b", b"&a [*a]",
    b"<<: 3\n", b"9" * 99, b"- ", b"? ",
]  # fmt: skip


def mutate(data: bytes, draw: random.Random) -> bytes:
    """Something like `data`, a little or very wrong."""
    if draw.random() < 0.6:
        with suppress(ValueError, RecursionError):
            lines = data.split(b"\n")
            at = draw.randrange(len(lines))
            lines[at] = json.dumps(_mutate_value(json.loads(lines[at]), draw)).encode()
            return b"\n".join(lines)
        with suppress(ValueError, RecursionError):
            return json.dumps(_mutate_value(json.loads(data), draw)).encode()
    for _ in range(draw.randint(1, 4)):
        at, length = draw.randint(0, len(data)), draw.choice((0, 1, 1, 2, 8, 64))
        kind = draw.randrange(5)
        if kind == 0:
            data = data[:at]
        elif kind == 1:
            data = data[:at] + data[at + length :]
        elif kind == 2:
            data = data[:at] + draw.choice(BYTES) + data[at + length :]
        elif kind == 3:
            data = data[:at] + bytes(draw.randrange(256) for _ in range(length)) + data[at + length :]
        else:
            other = draw.randint(0, len(data))
            data = data[:at] + data[other : other + 64] + data[at:]
    return data


def _mutate_value(value: Any, draw: random.Random) -> Any:
    if isinstance(value, (dict, list)) and value and draw.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = draw.choice(keys)
        change = draw.randrange(8)
        if change == 0:
            if isinstance(value, dict):
                return {k: v for k, v in value.items() if k != key}
            return value[:key] + value[key + 1 :]
        if change == 1:
            if isinstance(value, dict):
                return {**value, "".join(draw.choices(string.printable, k=3)): draw.choice(NASTY)}
            return [*value, draw.choice(NASTY)]
        copy = dict(value) if isinstance(value, dict) else list(value)
        copy[key] = _mutate_value(value[key], draw)
        return copy
    return draw.choice(NASTY)
