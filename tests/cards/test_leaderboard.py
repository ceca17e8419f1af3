"""Is the page safe with hostile names, closed to the outside, and does its script sort, filter and draw?"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import random
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from cards.browser import CHROMIUM, browser

from hub_cards.leaderboard import embed_json, leaderboard_html, safe_link, write_leaderboard
from hub_cards.results import Estimate, ResultRow

EVIL = '</script><script>alert(1)</script><!-- " \u2028 <img src=x onerror=alert(2)> &lt;'


def row(model: str, video: float, *, base: str | None = "org/base", frames: str = "16", **more: object) -> ResultRow:
    if base is not None:
        more = {"image_change": Estimate(-2.0, -3.0, -1.0), "video_change": Estimate(video - 50, -9.0, 9.0)} | more
    values = {"image": Estimate(80.0, 78.0, 82.0), "video": Estimate(video, video - 1, video + 1), **more}
    return ResultRow(model=model, base=base, frames=frames, **values)  # type: ignore[arg-type]


ROWS = [
    row("org/fine-a", 55.0, trained="hybrid", records="runs/a/records.jsonl", tasks={"toy-video": Estimate(55.0)}),
    row("org/base", 50.0, base=None),
    row("org/fine-b", 61.0, notes=EVIL),
    row(EVIL, 58.0, base=EVIL, frames="budget"),
]


def embedded(page: str) -> list[dict[str, object]]:
    found = re.search(r'<script type="application/json" id="rows">(.*?)</script>', page, re.S)
    assert found
    data: list[dict[str, object]] = json.loads(found[1])
    return data


def test_data_survives_and_cannot_leave_its_element() -> None:
    page = leaderboard_html(ROWS)
    data = embedded(page)
    assert [r["model"] for r in data] == [r.model for r in ROWS]
    assert data[2]["notes"] == EVIL
    assert data[0]["image_change"] == [-2.0, -3.0, -1.0]
    assert page.count("<script") == 2
    assert "alert(1)</script>" not in page
    assert "<!--" not in page
    assert "\u2028" not in embed_json(EVIL)
    assert json.loads(embed_json(EVIL)) == EVIL


def test_policy_allows_exactly_the_script_and_style_of_the_page() -> None:
    page = leaderboard_html(ROWS)
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1])  # type: ignore[index]
    for kind, text in (
        ("script-src", re.findall(r"<script>(.*?)</script>", page, re.S)[0]),
        ("style-src", re.findall(r"<style>(.*?)</style>", page, re.S)[0]),
    ):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"\s(src|srcset|style|on\w+)=", re.sub(r"<script.*?</script>", "", page, flags=re.S))
    script = re.findall(r"<script>(.*?)</script>", page, re.S)[0]
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|fetch\(|XMLHttp", script)


@pytest.mark.parametrize("link", ["javascript:alert(1)", "//evil/x", "http://plain/x", "data:text/html,x", " x", ""])
def test_unsafe_links_are_refused(link: str) -> None:
    assert not safe_link(link)
    with pytest.raises(ValueError, match="https"):
        leaderboard_html([row("a/b", 1.0, records=link)])


def test_wrong_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        leaderboard_html([ROWS[0], ROWS[0]])
    with pytest.raises(ValueError, match="finite"):
        row("a/b", float("nan"))


def test_space_card(tmp_path: Path) -> None:
    assert write_leaderboard(tmp_path, ROWS) == tmp_path / "index.html"
    head = yaml.safe_load((tmp_path / "README.md").read_text().split("---\n")[1])
    assert (head["sdk"], head["app_file"]) == ("static", "index.html")
    assert "leaderboard" in head["tags"]


# What a person does, in the order they do it; each state is written down for Python to judge.
DRIVER = """
<script>
(async () => {
  const log = {};
  const $ = (s) => document.querySelector(s);
  const names = () => [...document.querySelectorAll("tbody tr:not(.detail) th button")].map((b) => b.textContent);
  const sorts = () => [...document.querySelectorAll("thead th")].map((th) => th.getAttribute("aria-sort"));
  const set = (id, value) => { $(id).value = value; $(id).dispatchEvent(new Event("change")); };
  log.start = names();
  log.marks = document.querySelectorAll("circle").length;
  $("#group").click();
  log.flat = names();
  document.querySelectorAll("thead button")[3].click();
  log.reversed = names();
  log.sorts = sorts();
  $("#group").click();
  set("#frames", "16"); set("#base", "org/base");
  log.filtered = names();
  $("#find").value = "FINE-a org"; $("#find").dispatchEvent(new Event("input"));
  await new Promise((done) => setTimeout(done, 150));
  log.found = names();
  log.count = $("#count").textContent;
  log.dimmed = document.querySelectorAll("circle.dim").length;
  $("tbody th button").click();
  log.detail = $("tr.detail").textContent;
  log.link = $("tbody a").getAttribute("href");
  $("#chart").dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
  log.readout = $("#readout").textContent;
  log.images = document.images.length;
  document.documentElement.dataset.log = JSON.stringify(log);
})();
</script>
"""


def browse(page: str, folder: Path) -> tuple[str, str]:
    """DOM after the page's scripts ran, and what the browser logged."""
    assert CHROMIUM
    (folder / "page.html").write_text(page)
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=3000 --dump-dom"
    done = subprocess.run(
        [CHROMIUM, *flags.split(), f"--user-data-dir={folder / 'profile'}", (folder / "page.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout, done.stderr


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the page with")


@needs_chromium
def test_in_a_browser(tmp_path: Path) -> None:
    # The page's own policy would, rightly, not run the driver, so this copy goes without it.
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", leaderboard_html(ROWS))
    dom, logged = browse(page.replace("</body>", DRIVER + "</body>"), tmp_path)
    log = json.loads(html.unescape(re.search(r'data-log="([^"]*)"', dom)[1]))  # type: ignore[index]
    shown = EVIL
    assert log["start"] == ["org/base", "org/fine-b", "org/fine-a", shown]  # the base first, then best video first
    assert log["marks"] == 3
    assert log["flat"] == ["org/fine-b", shown, "org/fine-a", "org/base"]
    assert log["reversed"] == log["flat"][::-1]
    assert log["sorts"] == [None, None, None, "ascending", None, None, None, None]
    assert log["filtered"] == ["org/base", "org/fine-a", "org/fine-b"]
    assert log["found"] == ["org/fine-a"]
    assert log["count"] == "1 of 4 rows, 1 model"
    assert log["dimmed"] == 2
    assert "toy-video55.0" in log["detail"]
    assert log["link"] == "runs/a/records.jsonl"
    assert log["readout"].startswith("org/fine-a, 16 frames, from org/base: image −2.0 (−3.0 to −1.0), video +5.0")
    assert log["images"] == 0
    assert "CONSOLE" not in logged


@needs_chromium
def test_two_thousand_rows_under_the_page_s_own_policy(tmp_path: Path) -> None:
    """Keys and a search on a large page as it is, hostile names included; scripts/measure_hub.py has its times."""
    chance = random.Random(0)
    rows = [
        row(
            f"org/m{i}",
            round(chance.uniform(30, 70), 1),
            frames=chance.choice(["8", "16"]),
            records="https://example.org/r",
        )
        for i in range(1999)
    ]
    rows.append(row(EVIL, 99.0, base=EVIL, notes=EVIL, frames="8"))
    page = leaderboard_html(rows)
    assert len(page) < 2_000_000
    (tmp_path / "page.html").write_text(page)
    with browser(tmp_path / "profile") as tab:
        tab.open(tmp_path / "page.html")
        assert tab.run("document.querySelectorAll('circle').length") == 2000
        first = "document.querySelector('tbody th button').textContent"
        assert tab.run(first) == EVIL
        # With the keyboard alone: past the link to the table, to the picture, on to the search.
        tab.press("Tab", "Tab")
        assert tab.run("document.activeElement.id") == "chart"
        tab.press("ArrowRight", "ArrowRight", "ArrowLeft")
        readout = tab.run("document.getElementById('readout').textContent")
        assert readout.startswith("org/m")
        tab.press("Tab")
        assert tab.run("document.activeElement.id") == "find"
        tab.write("org/m123")
        tab.run("new Promise((done) => setTimeout(done, 200))")
        assert tab.run("document.getElementById('count').textContent").startswith("11 of 2000 rows")
        tab.press("Tab", "Tab", "Tab", "Tab", "Tab", "Tab")  # frames, base, beside, the table, its first two headings
        assert tab.run("document.activeElement.textContent") == "Frames"
        tab.press("Enter")
        assert tab.run("document.activeElement.parentNode.getAttribute('aria-sort')") == "ascending"
        assert tab.complaints() == []
        assert tab.requests() == [(tmp_path / "page.html").as_uri()]


@needs_chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_cut_off(tmp_path: Path, width: int) -> None:
    """On a desk and on a phone: no sideways scrolling of the page, and on a phone the changes are seen first."""
    write_leaderboard(tmp_path, ROWS)
    with browser(tmp_path / "profile") as tab:
        tab.open(tmp_path / "index.html", width=width, phone=width < 500)
        assert tab.run("document.documentElement.scrollWidth") <= width
        heads = tab.run("[...document.querySelectorAll('thead th')].map((th) => th.textContent)")
        assert heads[1:3] == (["Image change", "Video change"] if width < 500 else ["Frames", "Image"])
        right = tab.run("document.querySelectorAll('thead th')[2].getBoundingClientRect().right")
        assert right <= width
        # The order is by video score, whichever column that is.
        assert heads[tab.run("[...document.querySelectorAll('thead th')].findIndex((th) => th.ariaSort)")] == "Video"
        assert tab.complaints() == []
