"""The report, on run folders written by a small seeded generator and scored by the product's own scorer."""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import shutil
import subprocess
import threading
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished_run import write_info

from vtrap_bench import changes, figures, report
from vtrap_bench.finished import read_run
from vtrap_bench.records import Record, read_records
from vtrap_bench.scores import compute, digest
from vtrap_bench.statistics import paired_difference, share_interval
from vtrap_bench.tasks import TASKS
from vtrap_data.errors import UsageError

HOSTILE = '<script>alert("x")</script> $\\frac{1}$ {{ 7*7 }} \x1b[31m \u202e & \' " </style>'
ABILITIES = {
    "toy-image": ("colour", "shape", "count", "position", "digit"),
    "toy-video": ("static", "change", "morph", "order", "blinks"),
}
TEMPORAL = ("change", "morph", "order", "blinks")
FRAMES = (2, 4, 8, 16)


def write_run(
    folder: Path,
    *,
    model: str,
    frames: str,
    tasks: tuple[str, ...] = ("toy-image", "toy-video"),
    image: float = 0.97,
    static: float = 0.9,
    temporal: float = 0.3,
    items: int = 60,
    text: str = "",
    seed: int = 0,
) -> Path:
    """A finished run in which each item is right with the given probability; what is right is fixed by the seed."""
    # Each item has a fixed difficulty, so that two models agree on most items, as real ones do.
    records = []
    for task in tasks:
        difficulty = np.random.default_rng(len(task)).random((items, len(ABILITIES[task])))
        noise = np.random.default_rng([seed, len(task)]).normal(0, 0.05, difficulty.shape)
        for i in range(items):
            for j, ability in enumerate(ABILITIES[task]):
                chance = image if task == "toy-image" else temporal if ability in TEMPORAL else static
                right = bool(difficulty[i, j] + noise[i, j] < chance)
                said = "red" if right else "blue"
                records.append(
                    Record(
                        key=f"{task}-{i}-{ability}",
                        task=task,
                        item_id=f"{task}-{i}-{ability}{text}",
                        ability=ability,
                        cluster=f"medium-{i}",
                        question=f"Which {ability}? {text}",
                        options=("red", f"blue {text}"),
                        answer="red",
                        response=f"{said}{text}",
                        extracted=said,
                        stage="exact",
                        correct=right,
                        frame_times=(),
                        n_frames=0 if task == "toy-image" else 6 if frames == "budget" else int(frames),
                        visual_tokens=16,
                        prompt_tokens=40,
                    )
                )
    folder.mkdir(parents=True)
    lines = (json.dumps(r.to_json()) + "\n" for r in records)
    (folder / "records.jsonl").write_text("".join(lines), "utf-8")
    head = {"model": model, "label": Path(model).name, "frames": frames}
    (folder / "scores.json").write_text(json.dumps(_scores(records, head)), "utf-8")
    write_info(folder, records, model=model, frames=frames, tasks={t: {"version": 1} for t in tasks})
    return folder


def _scores(records: list[Record], head: dict[str, str]) -> dict[str, Any]:
    """What `vtrap_bench.scores.compute` makes, with fewer resamples; one test below checks that the forms agree."""
    scores: dict[str, Any] = {"format": 1, **head, "tasks": {}, "records_sha256": digest(records)}
    for task in dict.fromkeys(r.task for r in records):
        rows = [r for r in records if r.task == task]
        groups = {a: [r for r in rows if r.ability == a] for a in ABILITIES[task]}
        scores["tasks"][task] = {
            "version": 1,
            "modality": task.removeprefix("toy-"),
            "synthetic": True,
            **_score(rows),
            "clusters": len({r.cluster for r in rows}),
            "unparsed": 0.25,
            "empty": 0.0,
            "mean_frames": float(np.mean([r.n_frames for r in rows])),
            "visual_tokens": sum(r.visual_tokens for r in rows),
            "abilities": {a: _score(some) for a, some in groups.items()},
        }
        scores[task.removeprefix("toy-")] = {k: scores["tasks"][task][k] for k in ("score", "ci")}
    return scores


def _score(records: list[Record]) -> dict[str, Any]:
    right, clusters = [float(r.correct) for r in records], [r.cluster for r in records]
    low, high = share_interval(right, clusters)
    return {"score": 100 * float(np.mean(right)), "ci": [100 * low, 100 * high], "n": len(records)}


# name, frames, strategy, image accuracy, accuracy on what needs time
SETTINGS = (
    ("fixed-2", 2, None, 0.95, 0.45),
    ("fixed-8", 8, None, 0.92, 0.66),
    ("fixed-16", 16, None, 0.88, 0.74),
    ("hybrid", "hybrid", None, 0.945, 0.71),
    ("random", "hybrid", "random", 0.94, 0.60),
)


def write_study(
    folder: Path, *, seeds: tuple[int, ...] = (0, 1), settings: Any = SETTINGS, items: int = 30, text: str = ""
) -> Path:
    """The files that `study` leaves behind."""
    base = {"setting": None, "frames": None, "strategy": None, "evaluated": "16", "seed": None, "model": "toy-vl"}
    checkpoints = [{**base, "runs": {}}]
    for n, frames in enumerate(("16", "2", "4", "8", "budget")):
        tasks = ("toy-image", "toy-video") if n == 0 else ("toy-video",)
        run = f"scores/base/{frames}"
        write_run(folder / run, model="toy-vl", frames=frames, tasks=tasks, items=items, text=text)
        checkpoints[0]["runs"][frames] = run
    for seed in seeds:
        for name, frames, strategy, image, temporal in settings:
            evaluated = "budget" if frames == "hybrid" else str(frames)
            swept = [str(f) for f in FRAMES] if name in ("hybrid", "fixed-16") and seed == seeds[0] else []
            runs, model = {}, f"models/{name}-s{seed}"
            for n, shown in enumerate(dict.fromkeys([evaluated, "16", *swept])):
                run = f"scores/{name}-s{seed}/{shown}"
                fewer = 0.08 * (np.log2(16) - np.log2(int(shown.replace("budget", "6"))))
                write_run(
                    folder / run,
                    model=f"{folder}/{model}",
                    frames=shown,
                    tasks=("toy-image", "toy-video") if n == 0 else ("toy-video",),
                    image=image,
                    temporal=temporal - fewer + (0.1 if shown == evaluated else 0),
                    items=items,
                    text=text,
                    seed=seed + 1,
                )
                runs[shown] = run
            (folder / model).mkdir(parents=True)
            mean = 6.0 if frames == "hybrid" else float(frames)
            summary = {"steps": 300, "samples": 9600, "frames": str(frames), "mean_frames": mean}
            summary |= {"visual_tokens": int(9600 * mean * 16), "train_loss": 0.4, "seconds": 60.0}
            (folder / model / "training_summary.json").write_text(json.dumps(summary))
            entry = {"setting": name, "frames": frames, "strategy": strategy, "evaluated": evaluated, "seed": seed}
            checkpoints.append({**entry, "model": model, "runs": runs})
    record = {"format": 1, "model": "toy-vl", "common_frames": 16, "seeds": list(seeds), "curve": list(FRAMES)}
    record |= {"checkpoints": checkpoints, "commands": ["python -m vtrap_train --model toy-vl"]}
    (folder / "study.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def made(study: Path) -> dict[str, Any]:
    return report.write_report([study], out=study)


class Page(HTMLParser):
    """Collects what a page holds."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def named(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(row for row in rows if row["name"] == name)


def test_generator_writes_what_the_product_writes(study: Path) -> None:
    run = study / "scores/base/16"
    ours = json.loads((run / "scores.json").read_text())
    head = {k: ours[k] for k in ("model", "label", "frames")}
    theirs = compute([TASKS["toy-image"], TASKS["toy-video"]], read_records(run / "records.jsonl"), head=head, seed=0)
    assert set(ours) <= set(theirs)
    for task, facts in ours["tasks"].items():
        assert set(facts) == set(theirs["tasks"][task])
        assert facts["score"] == pytest.approx(theirs["tasks"][task]["score"])
        assert set(facts["abilities"]) == set(theirs["tasks"][task]["abilities"])


def test_change_is_the_paired_clustered_difference_at_equal_frames(study: Path, made: dict[str, Any]) -> None:
    def right(run: str) -> dict[str, Record]:
        rows = read_records(study / "scores" / run / "records.jsonl")
        return {r.item_id: r for r in rows if r.task == "toy-video"}

    entry = next(s for s in made["settings"] if s["name"] == "hybrid" and s["seed"] == 1)
    before, after = right("base/budget"), right("hybrid-s1/budget")
    ids = sorted(before)
    expected = paired_difference(
        [before[i].correct for i in ids], [after[i].correct for i in ids], [before[i].cluster for i in ids]
    )
    assert entry["video_change"]["value"] == pytest.approx(100 * expected.difference)
    assert entry["video_change"]["ci"] == pytest.approx([100 * b for b in expected.interval])
    at = made["base"]["at"]["budget"]
    assert entry["video"]["score"] - at["video"]["score"] == pytest.approx(entry["video_change"]["value"])


def test_image_tasks_are_found_in_another_run_of_the_checkpoint(made: dict[str, Any]) -> None:
    entry = named(made["settings"], "fixed-2")
    # The run at the common 16 frames scored video only.
    assert entry["common"]["frames"] == "16"
    assert entry["common"]["image"] == entry["image"]
    assert entry["common"]["image_change"] == entry["image_change"]
    assert entry["common"]["video"] != entry["video"]


def test_summary_is_mean_over_seeds_with_its_t_interval(made: dict[str, Any]) -> None:
    row = named(made["summary"], "fixed-16")
    values = [s["image_change"]["value"] for s in made["settings"] if s["name"] == "fixed-16"]
    assert len(values) == 2
    # t with one degree of freedom is tan(pi * 0.475); the error of the mean of two is half their distance.
    reach = np.tan(np.pi * 0.475) * abs(values[0] - values[1]) / 2
    assert row["image_change"]["value"] == pytest.approx(np.mean(values))
    assert row["image_change"]["ci"] == pytest.approx([np.mean(values) - reach, np.mean(values) + reach])
    assert row["interval"] == "t over 2 seeds"
    # Blinded: a setting that lost more images must not be reported as better.
    assert row["image_change"]["value"] < named(made["summary"], "hybrid")["image_change"]["value"] < 0


def test_report_json_holds_what_readers_need(study: Path, made: dict[str, Any]) -> None:
    stored = json.loads((study / "report.json").read_text())
    assert stored == made
    assert stored["format"] == 1 and stored["synthetic"] is True
    assert [(s["name"], s["seed"]) for s in stored["settings"][:2]] == [("fixed-2", 0), ("fixed-8", 0)]
    hybrid = named(stored["settings"], "hybrid")
    assert hybrid["mean_frames"] == 6.0 and hybrid["train_visual_tokens"] == 9600 * 6 * 16
    assert hybrid["eval_visual_tokens"] == 2 * 30 * 5 * 16 and hybrid["unparsed"] == 0.25
    assert hybrid["abilities"]["toy-video"]["order"]["change"]["ci"]
    assert {c["name"] for c in stored["curve"]} == {"base", "hybrid", "fixed-16"}
    assert [p["frames"] for p in named(stored["curve"], "hybrid")["points"]] == [2, 4, 8, 16, "budget"]


def test_page_is_self_contained_and_says_it_is_synthetic(study: Path, made: dict[str, Any]) -> None:
    text = (study / "report.html").read_text("utf-8")
    page = Page(text)
    assert "Synthetic toy world." in page.text
    assert "fewer than five media are expected to change, the interval of a model that is no better" in page.text
    assert not {"script", "link", "iframe", "form"} & {tag for tag, _ in page.tags}
    for tag, attrs in page.tags:
        assert "style" not in attrs and not [a for a in attrs if a.startswith("on")], tag
        for where in ("src", "srcset", "href"):
            assert (attrs.get(where) or "data:").startswith("data:")
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    style = re.search(r"<style>(.*?)</style>", text, re.S)
    assert style and policy and policy.startswith("default-src 'none'")
    assert f"'sha256-{base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()}'" in policy
    pictures = [a for t, a in page.tags if t == "img"]
    assert len(pictures) == 5 and all(a["alt"] and a["width"] for a in pictures)
    assert len([t for t, _ in page.tags if t == "source"]) == 5  # a dark one for each
    tables = [t for t, _ in page.tags if t == "table"]
    assert len([t for t, _ in page.tags if t == "caption"]) == len(tables) == 6
    assert all(a.get("scope") in ("row", "col") for t, a in page.tags if t == "th")


def test_figures_are_png_and_the_same_every_time(study: Path, made: dict[str, Any]) -> None:
    names = {"trade_off", "trade_off_common", "abilities", "frame_curve", "cost"}
    assert {p.stem for p in (study / "figures").glob("*.png")} == names | {f"{n}_dark" for n in names}
    again = figures.draw_all(made)
    for name, figure in again.items():
        assert (study / "figures" / f"{name}.png").read_bytes() == figure.png
        assert figure.png.startswith(b"\x89PNG")


def test_colours_say_what_a_setting_is() -> None:
    rows = [{"name": n, "frames": f, "strategy": s} for n, f, s, *_ in SETTINGS]
    rows.append({"name": "coverage", "frames": "hybrid", "strategy": "coverage"})
    colours = figures.setting_colours(rows, figures.LIGHT)
    assert len(set(colours.values())) == len(rows)
    assert colours["hybrid"] == figures.LIGHT.hybrid and colours["random"] == figures.LIGHT.random
    assert (colours["fixed-2"], colours["fixed-16"]) == figures.LIGHT.ramp


def test_hostile_text_is_shown_and_does_nothing(tmp_path: Path) -> None:
    hostile = "$\\frac{1}{<b>"
    settings = [(hostile, 2, None, 0.8, 0.8), ("hybrid", "hybrid", None, 0.9, 0.5)]
    folder = write_study(tmp_path / "study", seeds=(0,), settings=[("x", *settings[0][1:]), settings[1]], text=HOSTILE)
    record = json.loads((folder / "study.json").read_text())
    for checkpoint in record["checkpoints"]:
        if checkpoint["setting"] == "x":
            checkpoint["setting"] = hostile
    record["commands"] = [HOSTILE, "\ud800"]
    (folder / "study.json").write_text(json.dumps(record))
    made = report.write_report([folder], out=tmp_path / "report")
    text = (tmp_path / "report/report.html").read_text("utf-8")
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags} and "b" not in {tag for tag, _ in page.tags}
    assert '<script>alert("x")</script>' in page.text  # shown as text
    assert "{{ 7*7 }}" in page.text and "49" not in page.text.split("{{ 7*7 }}")[0][-20:]
    assert not {"\x1b", "\u202e"} & set(text)
    assert made["flips"] and hostile in page.text
    assert "\x1b" not in report.table(made, width=100)


class Trap:
    """A server on loopback that notes every request."""

    def __init__(self) -> None:
        asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.asked = asked
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        where = f"http://127.0.0.1:{self.server.server_port}"
        self.attacks = (
            f'<img src={where}/img onerror="document.documentElement.dataset.ran=1">',
            f"<script>document.documentElement.dataset.ran=1;fetch('{where}/fetch')</script>",
            f'"><script src={where}/script></script><link rel=stylesheet href={where}/css>',
            f"</style><style>@import url({where}/import);body{{background:url({where}/background)}}",
            f'</title><iframe src={where}/frame></iframe><svg onload="document.documentElement.dataset.ran=1">',
            "<a href=javascript:document.documentElement.dataset.ran=1 autofocus onfocus=this.click()>x</a>",
            f'<meta http-equiv=refresh content="0;url={where}/refresh"><base href={where}/>',
            f"{{{{ cycler.__init__.__globals__ }}}} ${{7*7}} <details open ontoggle=\"fetch('{where}/toggle')\">",
        )

    def browse(self, page: Path) -> str:
        """The document after Chromium has shown it for a while, every part unfolded."""
        assert CHROMIUM
        flags = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update"
        flags += " --no-first-run --disable-sync --virtual-time-budget=3000 --dump-dom"
        profile = f"--user-data-dir={page.parent / 'profile'}"
        done = subprocess.run(
            [CHROMIUM, *flags.split(), profile, page.as_uri()], capture_output=True, text=True, timeout=90, check=True
        )
        return done.stdout


CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the page with")
def test_in_a_browser_nothing_runs_and_nothing_is_requested(tmp_path: Path) -> None:
    trap = Trap()
    try:
        control = tmp_path / "control.html"
        control.write_text(f"<html><body>{''.join(trap.attacks[:4])}</body></html>")
        assert "data-ran" in trap.browse(control) and len(trap.asked) >= 3  # so the attacks do work
        trap.asked.clear()
        text = "".join(trap.attacks)
        folder = write_study(tmp_path / "study", seeds=(0,), settings=SETTINGS[:1], items=12, text=text)
        for run in folder.glob("scores/*/*"):
            info = json.loads((run / "run.json").read_text("utf-8"))
            hostile = {text: text}
            info |= {"decides": {"profile": text, **hostile}, "device": text, "versions": hostile, "backend": hostile}
            (run / "run.json").write_text(json.dumps(info))
            rows = [json.loads(line) for line in (run / "records.jsonl").read_text("utf-8").splitlines()]
            rows = [{**row, "stage": text, "answer": text} for row in rows]
            (run / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        record = json.loads((folder / "study.json").read_text())
        record |= {"commands": list(trap.attacks), "model": text}
        (folder / "study.json").write_text(json.dumps(record))
        report.write_report([folder], out=tmp_path / "report")
        page = tmp_path / "report" / "report.html"
        whole = page.read_text("utf-8")
        assert "onerror=" in whole  # as text
        for version in (whole, re.sub("<meta http-equiv[^>]*>", "", whole)):  # escaping alone must do, too
            page.write_text(version.replace("<details>", "<details open>"), "utf-8")
            shown = trap.browse(page)
            assert "data-ran" not in shown.split(">", 2)[1] and '<html lang="en">' in shown
            assert not trap.asked, trap.asked
    finally:
        trap.server.shutdown()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the page with")
def test_it_fits_a_desktop_and_a_phone(tmp_path: Path, made: dict[str, Any], study: Path) -> None:
    """Nothing sticks out; what is wider than the screen scrolls by itself, and the changes show without that."""
    from cards.browser import browser

    with browser(tmp_path / "profile") as page:
        for width, phone in ((1280, False), (390, True)):
            page.open(study / "report.html", width=width, phone=phone)
            assert page.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
            cell = "document.querySelector('table tbody tr td:nth-of-type(1)').getBoundingClientRect().right"
            assert page.run(cell) <= width
            pictures = "[...document.images].filter(i => i.complete && i.naturalWidth && i.width <= innerWidth).length"
            assert page.run(pictures) == page.run("document.images.length") == 5
            assert page.complaints() == []
            assert [url for url in page.requests() if not url.startswith("data:")] == [page.run("location.href")]


def test_names_in_a_crowded_figure_lie_on_nothing() -> None:
    """The toy study's seven settings: no name covers a point, a bar, a line or another name, or leaves the figure."""
    crowd = {
        "fixed-2": ((0.5, -0.2, 1.3), (-6.7, -10.5, -2.9)),
        "fixed-4": ((7.3, 6.3, 8.3), (-6.4, -8.9, -3.9)),
        "fixed-8": ((9.1, 7.7, 10.7), (-6.9, -9.0, -4.8)),
        "fixed-16": ((9.0, 8.0, 10.0), (-5.6, -8.0, -3.3)),
        "random": ((6.5, 5.6, 7.3), (-6.0, -8.0, -4.0)),
        "hybrid": ((8.5, 6.8, 10.3), (-6.9, -9.7, -4.1)),
        "hybrid-replay": ((7.9, 6.5, 9.3), (-4.9, -5.5, -4.3)),
    }

    def change(found: tuple[float, float, float]) -> dict[str, Any]:
        return {"value": found[0], "ci": list(found[1:])}

    summary = [{"name": n, "video_change": change(x), "image_change": change(y)} for n, (x, y) in crowd.items()]
    rng = np.random.default_rng(0)
    seeds = [
        {"name": n, "video_change": change((x[0] + dx, 0, 0)), "image_change": change((y[0] + dy, 0, 0))}
        for n, (x, y) in crowd.items()
        for dx, dy in rng.normal(0, 1.5, (5, 2))
    ]
    with figures._style(figures.LIGHT):
        fig = figures.trade_off(
            {"summary": summary, "settings": seeds}, dict.fromkeys(crowd, "#0b3a75"), figures.LIGHT
        )
        assert fig is not None
        fig.canvas.draw()
        (ax,) = fig.axes
        names = {t.get_text(): t.get_window_extent() for t in ax.texts if t.get_text()}
        assert names.keys() >= {*crowd, "base"}
        boxes = list(names.values())
        for number, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:number])
        for name in (*crowd, "base"):
            box = names[name]
            inside = ax.get_window_extent()
            assert inside.x0 <= box.x0 and inside.x1 >= box.x1 and inside.y0 <= box.y0 and inside.y1 >= box.y1
            assert not any(box.overlaps(line.get_window_extent()) for line in ax.lines)
            for bars in ax.collections:
                for path in bars.get_paths():
                    assert not path.transformed(bars.get_transform()).intersects_bbox(box, filled=False), name


def test_unfinished_study_reports_what_there_is_and_says_so(tmp_path: Path) -> None:
    folder = write_study(tmp_path, seeds=(0,), settings=SETTINGS[:2], items=8)
    (folder / "scores/fixed-8-s0/8/scores.json").unlink()
    made = changes.build(changes.read_runs_of_study(folder))
    assert [s["name"] for s in made["summary"]] == ["fixed-2"]
    assert "fixed-8, seed 0" in Page(report.render_html(made, drawn={"light": {}, "dark": {}})).text
    # One seed: the interval is that of the items.
    assert made["summary"][0]["image_change"] == made["settings"][0]["image_change"]
    (folder / "scores/base/16/scores.json").unlink()
    with pytest.raises(UsageError, match="base of the study"):
        report.write_report([folder], out=folder)


def test_bare_runs_and_base_only(tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", model="toy-vl", frames="4", items=12)
    tuned = write_run(tmp_path / "tuned", model="out/tuned", frames="4", items=12, temporal=0.8, seed=1)
    args = argparse.Namespace(paths=[base, tuned], out=tmp_path / "report", json=False, benchmarks=None)
    assert report.run(args) == 0
    made = json.loads((tmp_path / "report/report.json").read_text())
    assert [s["name"] for s in made["summary"]] == ["tuned"] and made["summary"][0]["video_change"]["value"] > 10
    assert made["common_frames"] is None
    video_only = write_run(tmp_path / "v", model="v", frames="4", tasks=("toy-video",), items=12)
    made = changes.build(changes.read_runs([base, video_only]))
    assert made["summary"][0]["image_change"] is None and made["summary"][0]["video_change"]["value"] == 0


def test_page_says_how_many_questions_and_at_which_frames(tmp_path: Path, study: Path, made: dict[str, Any]) -> None:
    assert "At the frames trained with" in Page((study / "report.html").read_text("utf-8")).text
    assert "--limit" not in report.table(made, width=100)
    base = write_run(tmp_path / "base", model="toy-vl", frames="4", items=12)
    tuned = write_run(tmp_path / "tuned", model="out/tuned", frames="4", items=12)
    for folder in (base, tuned):
        info = json.loads((folder / "run.json").read_text())
        for task in info["tasks"].values():
            task["limit"] = 60
        (folder / "run.json").write_text(json.dumps(info))
    found = report.write_report([base, tuned], out=tmp_path / "out")
    text = Page((tmp_path / "out/report.html").read_text("utf-8")).text
    assert "Scored on toy-image, toy-video: 120 questions (--limit 60)." in text
    assert "At the frames of the runs" in text and "frames trained with" not in text
    assert "\n120 questions (--limit 60)\n" in report.table(found, width=100)


def test_wrong_use_is_one_clear_line(tmp_path: Path) -> None:
    base = write_run(tmp_path / "base", model="a", frames="4", items=6)
    fewer = write_run(tmp_path / "fewer", model="b", frames="4", items=5)
    with pytest.raises(UsageError, match="answered different items of toy-image"):
        report.write_report([base, fewer], out=tmp_path / "out")
    with pytest.raises(UsageError, match="at least two runs"):
        report.write_report([base], out=tmp_path / "out")
    with pytest.raises(UsageError, match="both score a at 4"):
        report.write_report([base, base], out=tmp_path / "out")
    with pytest.raises(UsageError, match=r"none is no run: it has no run\.json"):
        report.write_report([base, tmp_path / "none"], out=tmp_path / "out")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/training_summary.json").write_text("{}")
    with pytest.raises(
        UsageError, match=r"it is a trained model: score it first \(.* run --model .*/model --out DIR\)"
    ):
        report.write_report([base, tmp_path / "model"], out=tmp_path / "out")
    with pytest.raises(UsageError, match="--out is missing"):
        report.run(argparse.Namespace(paths=[base, fewer], out=None, json=False, benchmarks=None))
    lines = (base / "records.jsonl").read_text().splitlines(keepends=True)
    (base / "records.jsonl").write_text("".join(lines[:-3]))
    with pytest.raises(UsageError, match="27 of the 30 items of toy-video"):
        read_run(base)
    for name in ("scores.json", "run.json"):
        found = json.loads((fewer / name).read_text())
        found["tasks"]["toy-image"]["version"] = 2
        (fewer / name).write_text(json.dumps(found))
    with pytest.raises(UsageError, match="versions 2 and 1 of toy-image"):
        report.write_report([fewer, write_run(tmp_path / "c", model="c", frames="4", items=5)], out=tmp_path / "out")


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_table_fits_the_terminal(made: dict[str, Any], width: int) -> None:
    lines = report.table(made, width=width).split("\n")
    assert max(len(line) for line in lines) <= width
    assert "synthetic" in lines[0] and "hybrid" in "".join(lines)
    if width == 200:
        assert "unparsed" in lines[1] and "25.0%" in lines[3]


def test_several_tasks_add_their_squared_distances() -> None:
    rng = np.random.default_rng(0)
    pairs = [
        changes._Pairs(
            list(rng.integers(0, 2, 40) * 1.0), list(rng.integers(0, 2, 40) * 1.0), list(map(str, range(40)))
        )
        for _ in range(2)
    ]
    one, two = (paired_difference(p.before, p.after, p.clusters) for p in pairs)
    found = changes._change(pairs)
    assert found["value"] == pytest.approx(50 * (one.difference + two.difference))
    below = np.hypot(one.difference - one.interval.low, two.difference - two.interval.low)
    above = np.hypot(one.interval.high - one.difference, two.interval.high - two.difference)
    assert found["ci"] == pytest.approx([found["value"] - 50 * below, found["value"] + 50 * above])
