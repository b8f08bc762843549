"""The timeline in a real browser: it draws, it finds, it can be moved, and it stays smooth."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.browser import Browser
from tests.cli.command import PLANT, Call, lines_of

from headrace.cli.timeline import page_of

pytestmark = pytest.mark.slow

NASTY = "</script><script>window.broken = 1</script><!-- \u2028 \u2029 <b>&amp; ]]>"
BARS = 100_000
FRAME_MS_MAX = 250
"""Of the slowest of many frames, on a shared machine without a graphics card."""

APP = (
    PLANT
    + f"""

@app.rule(on("fans.*.start"))
async def start_fan(run: Run, firing: Firing) -> None:
    await run.sleep(20)
    await run.emit("said.nasty", {NASTY!r})


@app.rule(on("said.>"), mode="single")
async def hear(run: Run, firing: Firing) -> str:
    await run.wait(on("never.>"), timeout=3)
    raise ValueError({NASTY!r})
"""
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture
def page(headrace: Call, tmp_path: Path) -> Path:
    """The report of two hot sensors, a day apart."""
    (tmp_path / "app.py").write_text(APP)
    lines = lines_of([20.0, 95.0, 96.0, 97.0], sensor="t1")
    later = lines_of([95.0, 96.0, 97.0, 20.0], sensor="t2").replace(
        '"time": 17000', '"time": 17001'
    )
    (tmp_path / "in.jsonl").write_text(lines + later)
    done = headrace("run", "app.py", "--log", "a.log", "--from", "in.jsonl", "--clock", "input")
    assert done.code == 0, done.err
    assert headrace("timeline", "a.log").code == 0
    return tmp_path / "a.log.timeline.html"


def keep(browser: Browser, name: str, tmp_path: Path) -> bytes:
    """Take a screenshot, for whoever wants to look at it."""
    folder = Path(os.environ.get("HEADRACE_SCREENSHOTS", tmp_path))
    return browser.screenshot(folder / f"{name}.png")


def colors_in(browser: Browser, canvas: str) -> dict[str, int]:
    """How many pixels of the canvas are of which colour."""
    found: dict[str, int] = browser.run(
        f"""(() => {{
            const c = document.getElementById({canvas!r}), counts = {{}};
            const d = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
            for (let i = 0; i < d.length; i += 4) {{
                const key = `${{d[i]}},${{d[i + 1]}},${{d[i + 2]}}`;
                counts[key] = (counts[key] ?? 0) + 1;
            }}
            return counts;
        }})()"""
    )
    return found


def test_a_report_shows_runs_failures_and_events(
    browser: Browser, page: Path, tmp_path: Path
) -> None:
    """What an event says stays text, nothing is loaded, and no error is met."""
    browser.requested.clear()
    browser.said.clear()
    browser.open(page)
    colors = colors_in(browser, "lanes")
    keep(browser, "timeline", tmp_path)

    assert browser.said == []
    assert browser.requested == [page.resolve().as_uri()]
    assert browser.run("window.broken") is None
    assert browser.run("document.title") == "a.log · timeline"
    lanes = browser.run("timeline.lanes.map(lane => [lane.title, lane.runs])")
    assert lanes == [
        ["events", 0], ["rule cool", 2], ["rule start_fan", 2], ["rule hear", 2],
        ["task check", 4], ["task page", 2],
    ]  # fmt: skip
    assert colors["63,155,98"] > 200, "bars of completed runs"
    assert colors["214,58,52"] > 20, "bars of dead runs"
    assert len(colors_in(browser, "heat")) > 3
    assert "10 runs" not in browser.run("document.getElementById('summary').textContent")
    assert browser.run("document.getElementById('note').hidden") is True


def test_a_span_is_said_in_units_that_are_full(browser: Browser, page: Path) -> None:
    """There is no minute of sixty seconds, and no day of 24 hours."""
    browser.open(page)
    said = {
        seconds: browser.run(f"span({seconds} * 1e6)")
        for seconds in (119.7, 3599.8, 7199, 86_399, 172_799, 3_723)
    }

    assert said == {
        119.7: "2 m 0 s",
        3599.8: "1 h 0 m",
        7199: "2 h 0 m",
        86_399: "1 d 0 h",
        172_799: "2 d 0 h",
        3_723: "1 h 2 m",
    }


def test_the_command_that_is_named_can_be_pasted(browser: Browser, page: Path) -> None:
    """Also where the log's path has spaces and quotes in it."""
    browser.open(page)

    assert browser.run("forShell('a.log')") == "a.log"
    assert browser.run('forShell("it\'s a log")') == "'it'\\''s a log'"


def test_idle_time_is_collapsed_and_can_be_shown(browser: Browser, page: Path) -> None:
    """A day in which nothing happened does not squeeze the seconds in which something did."""
    browser.open(page)
    collapsed = browser.run("timeline.view.to - timeline.view.from")
    assert browser.run("timeline.gaps()") >= 1
    box = browser.run(
        "(r => [r.x + 5, r.y + 5])(document.getElementById('gaps').getBoundingClientRect())"
    )
    browser.click(*box)

    assert browser.run("timeline.gaps()") == 0
    assert browser.run("timeline.view.to - timeline.view.from") > 100 * collapsed


def test_a_click_says_what_a_run_was_and_leads_on_to_its_causes(
    browser: Browser, page: Path, headrace: Call, tmp_path: Path
) -> None:
    """From a bar to its attempts, to the event that led to it, and to what that led to."""
    browser.open(page)
    runs = headrace("runs", "list", tmp_path / "a.log", "-o", "json").json
    dead = next(run for run in runs if run["status"] == "dead" and run["rule"] == "hear")
    browser.click(*browser.run(f"timeline.placeOf({dead['run']})"))
    details = browser.run("document.getElementById('details').textContent")

    assert f"rule hear, run {dead['run']}, dead" in details
    assert "ValueError: </script><script>window.broken" in details
    assert "wait on('never.>') 3 s" in details
    assert f"headrace trace a.log --run {dead['run']}" in details
    assert browser.run("document.querySelectorAll('#details script, #details b').length") == 0
    browser.run(
        "[...document.querySelectorAll('#details .link')]"
        ".find(one => one.textContent.includes('said.nasty')).click()"
    )
    details = browser.run("document.getElementById('details').textContent")
    assert "said.nasty" in details
    assert "emitted by" in details
    keep(browser, "timeline-picked", tmp_path)


def test_search_finds_and_goes_from_one_to_the_next(
    browser: Browser, page: Path, tmp_path: Path
) -> None:
    """By task, key, error, subject or number: whatever one has at hand."""
    browser.open(page)
    browser.press("/", 191)
    browser.type("nobody is on call")
    browser.wait_for("timeline.results() === 2")
    browser.press("Enter", 13)
    first = browser.run("timeline.picked.row")
    keep(browser, "timeline-search", tmp_path)
    browser.press("Enter", 13)

    assert browser.run("document.getElementById('found').textContent") == "2 of 2"
    assert browser.run("timeline.picked.row") > first >= 0
    assert "task page" not in browser.run("document.getElementById('found').textContent")
    browser.run("document.getElementById('search').value = ''")
    browser.run("document.getElementById('search').dispatchEvent(new Event('input'))")
    browser.wait_for("timeline.results() === 0")


def test_the_wheel_zooms_and_a_drag_moves(browser: Browser, page: Path) -> None:
    """As in any such view: Ctrl and the wheel zoom at the pointer, a drag moves."""
    browser.open(page)
    length = "timeline.view.to - timeline.view.from"
    before = browser.run(length)
    browser.mouse("mouseWheel", 600, 400, deltaX=0, deltaY=-600, modifiers=2)
    browser.frame()
    zoomed, start = browser.run(length), browser.run("timeline.view.from")
    browser.mouse("mousePressed", 600, 600, button="left", clickCount=1)
    browser.mouse("mouseMoved", 500, 600, button="left", buttons=1)
    browser.mouse("mouseReleased", 500, 600, button="left", clickCount=1)
    browser.frame()

    assert zoomed < before / 5
    assert browser.run(length) == pytest.approx(zoomed)
    assert browser.run("timeline.view.from") > start
    browser.press("0", 48)
    assert browser.run(length) > 0.9 * before


def many() -> dict[str, object]:
    """A report of so many bars: chains of short runs, and 2 000 that go on at once."""
    runs = range(1, BARS + 1)
    begin = [run * 1000 if run % 50 else (run // 2000) * 2_000_000 for run in runs]
    end = [at + (700 if run % 50 else 2_000_000) for run, at in zip(runs, begin, strict=True)]
    none = [-1] * BARS
    empty: dict[str, list[int]] = {
        name: [] for name in ("row", "kind", "begin", "end", "text", "sequence", "at", "name")
    }
    return {
        "log": "many.log", "first": 1, "last": BARS, "events_total": BARS, "firings": 0,
        "failures": 0, "runs_total": BARS, "thinned": None, "damage": None, "base_ms": 1.7e12,
        "end": BARS * 1000 + 2_000_000, "strings": ["task", "call", "completed", "failed", "slow"],
        "runs": {
            "run": list(runs), "name": [0 if run % 50 else 4 for run in runs], "kind": [1] * BARS,
            "key": none, "parent": [0] * BARS, "event": [0] * BARS, "begin": begin, "end": end,
            "status": [3 if run % 997 == 0 else 2 for run in runs], "attempt": [1] * BARS,
            "error": none, "args": none,
        },
        "segments": empty, "points": empty, "marks": empty,
        "events": {"sequence": [], "at": [], "subject": [], "data": [], "run": [], "met": [],
                   "met_run": []},
        "heat": {"width": 1e6, "at": [n * 1_000_000 for n in range(100)],
                 "events": [1000] * 100, "failures": [1] * 100},
    }  # fmt: skip


def test_a_hundred_thousand_bars_stay_smooth(browser: Browser, tmp_path: Path) -> None:
    """Moving, zooming and searching are drawn within a frame or a few, however much there is."""
    path = tmp_path / "many.html"
    path.write_bytes(page_of(many()))
    browser.open(path)
    measured = browser.run(
        """(async () => {
            const frame = () => new Promise(r => requestAnimationFrame(r)), all = [];
            const press = async (key) => {
                document.dispatchEvent(new KeyboardEvent("keydown", { key }));
                await frame(); await frame();
                all.push(timeline.stats.ms);
            };
            for (const key of "0++++++++") await press(key);
            for (let i = 0; i < 10; i++) await press("ArrowRight");
            for (const key of "--------") await press(key);
            await press("0");
            return all.sort((a, b) => a - b);
        })()"""
    )
    keep(browser, "timeline-many", tmp_path)
    print(json.dumps({"median_ms": measured[len(measured) // 2], "worst_ms": measured[-1]}))

    assert len(measured) == 28
    assert measured[-1] < FRAME_MS_MAX, measured
    assert browser.run("timeline.lanes.map(lane => lane.runs)") == [98_000, 2_000]
