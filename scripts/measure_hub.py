"""What does publishing cost in requests, bytes and memory, and how long does the leaderboard page take to draw?

    python scripts/measure_hub.py            writes its section of docs/performance.md: about 20 minutes, 12 GB of disk
    python scripts/measure_hub.py --small    the same with small files, and prints it: to see that it works

The Hub is the stand-in of the tests, on loopback: bytes, requests and memory are those of the real client, seconds are
not those of a network, so none are shown. Memory is the peak of the publishing process beyond what it takes for a
publication of a few bytes.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "scripts")]

from benchmarking import machine, table, versions, write_section  # noqa: E402
from cards.browser import browser  # noqa: E402
from standin.running import Running, run, running  # noqa: E402

from hub_cards.leaderboard import leaderboard_html  # noqa: E402
from hub_cards.results import Estimate, ResultRow  # noqa: E402

PUBLISH = ROOT / "tests/hub/publish_folder.py"
MB = 10**6


def noise(path: Path, size: int, *, seed: int) -> None:
    """A file of random bytes, written in pieces."""
    chance = random.Random(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for start in range(0, size, MB):
            file.write(chance.randbytes(min(MB, size - start)))


def change_one_in_forty(path: Path) -> None:
    """New bytes for the 20th of 40 samples of equal size."""
    part = path.stat().st_size // 40
    with path.open("r+b") as file:
        file.seek(19 * part)
        file.write(random.Random(99).randbytes(part))


class Publishing:
    """Publishes a folder and says what it took."""

    def __init__(self, hub: Running, work: Path, *, xet: bool) -> None:
        self.hub, self.xet = hub, xet
        self.environment = hub.environment(work / f"home-{xet}", xet=xet)
        tiny = work / "tiny"
        noise(tiny / "manifest.json", 10, seed=0)
        noise(tiny / "data/0.tar", 1000, seed=0)
        self.floor = 0
        self.floor = self(tiny, "vtrap/tiny")["memory"]

    def __call__(self, folder: Path, name: str) -> dict[str, int]:
        self.hub.control("reset")
        done = run([PUBLISH, folder, name, "manifest.json"], self.environment)
        if done.returncode:
            raise SystemExit(done.stderr)
        state = self.hub.control("state")
        commits = sum("/commit/" in line for line in state["log"])
        memory = int(done.stdout.split()[-1]) - self.floor
        return {"sent": state["received"], "commits": commits, "requests": len(state["log"]), "memory": memory}


def rows(work: Path, *, small: bool) -> Iterator[list[object]]:
    """The table: what was published, how, and what it took."""
    count, size = (60, 20 * MB) if small else (600, 2000 * MB)
    for xet in (False, True):
        way = "Xet" if xet else "LFS"
        with running(work / f"hub-{way}") as hub:
            publish = Publishing(hub, work, xet=xet)

            def row(what: str, folder: Path, name: str, publish: Publishing = publish, way: str = way) -> list[object]:
                took = publish(folder, name)
                total = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
                shown = [f"{total / MB:,.1f}", f"{took['sent'] / MB:,.2f}", took["commits"], took["requests"]]
                return [what, way, *shown, f"{took['memory']:,}"]

            many = work / "many"
            noise(many / "manifest.json", 10, seed=1)
            for number in range(count):
                noise(many / f"data/{number:03}.tar", 20_000, seed=number)
            yield row(f"{count} files", many, "vtrap/many")
            yield row("the same again", many, "vtrap/many")
            large = work / "large"
            noise(large / "manifest.json", 10, seed=2)
            for number in range(4):
                noise(large / f"data/{number}.tar", size // 4, seed=number)
            yield row(f"4 shards, {size / 1000 / MB:g} GB", large, "vtrap/large")
            yield row("the same again", large, "vtrap/large")
            for number in range(4):
                change_one_in_forty(large / f"data/{number}.tar")
            yield row("1 sample in 40 changed", large, "vtrap/large")
            shutil.rmtree(large)
        shutil.rmtree(work / f"hub-{way}")


def page_milliseconds(work: Path, *, count: int) -> list[float]:
    """Milliseconds of processor time that the page's script takes to draw `count` rows, to sort and to filter them."""
    chance = random.Random(0)
    found = []
    for number in range(count):
        image, video = chance.uniform(-6, 2), chance.uniform(-2, 8)
        changes = {"image_change": Estimate(image, image - 1, image + 1)}
        changes["video_change"] = Estimate(video, video - 1, video + 1)
        scores = {"image": Estimate(70 + image, 65.0, 75.0), "video": Estimate(50 + video, 45.0, 55.0)}
        facts = {"base": f"org/base-{number % 20}", "frames": chance.choice(["8", "16", "budget"])}
        facts |= {"model": f"org/model-{number}", "records": "https://example.org/r"}
        found.append(ResultRow(**facts, **scores, **changes))
    (work / "page.html").write_text(leaderboard_html(found))
    with browser(work / "profile") as tab:
        tab.open(work / "page.html")
        assert tab.run("document.querySelectorAll('tbody tr').length") == count
        times = [tab.seconds()["ScriptDuration"]]
        choose = "const s = document.querySelector('#frames'); s.value = '16'; s.dispatchEvent(new Event('change'));"
        for act in ("document.querySelectorAll('thead button')[4].click()", choose):
            before = tab.seconds()["ScriptDuration"]
            tab.run(f"{{ {act} }}")
            times.append(tab.seconds()["ScriptDuration"] - before)
    return [1000 * seconds for seconds in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="small files; prints, writes nothing")
    parser.add_argument("--work", type=Path, help="folder for the files (default: the system's for temporary ones)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vtrap-measure-", dir=args.work) as folder:
        work = Path(folder)
        drawn, sort, filtered = page_milliseconds(work, count=2000)
        head = ["published", "way", "content, MB", "sent, MB", "commits", "requests", "memory, MB"]
        published = table(head, rows(work, small=args.small))
    text = f"""## Publishing

{published}

Sent are the bytes of large files that reached the Hub; commits and requests are all that the run made, the reading
back of one file included. Memory is the peak of the publishing process beyond that for a few bytes. The Hub is the
tests' stand-in on loopback, so nothing is said about time. LFS sends what has changed as whole files.

The leaderboard page with 2,000 rows, script time in headless Chromium (of the processor): {drawn:.0f} ms to draw
table and picture, {sort:.0f} ms to sort, {filtered:.0f} ms to filter.

{machine()}; {versions(["huggingface-hub", "hf-xet"])}. `python scripts/measure_hub.py`
"""
    if args.small:
        print(text)
    else:
        write_section("HUB", text)


if __name__ == "__main__":
    main()
