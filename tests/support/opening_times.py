"""Measures how long the pages of a report of 40 prompts by 5 methods take to open.

`python tests/support/opening_times.py [RUN]` opens each page five times from disk, each time in a new Chromium
without a cache, and prints the medians as table rows. The run is `finished_run`'s with progress records; its assets,
turntables and contact sheets are those of RUN if given.
"""

import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from pipeline.leaderboard.table import leaderboard
from pipeline.report import pages, viewer
from pipeline.store.results import RunResults
from pipeline.store.run_folder import ASSET, CONTACT, TURNTABLE, Store
from tests.support import finished_run

PROMPTS, METHODS = [f"a thing of number {number}" for number in range(40)], ["sctd", "sds", "ism", "cds", "gcs"]
PAGES = "index.html", "prompts/001.html", "recipes.html", "view/0-0000cafe.html"
TIMES, POINTS = 5, 50
FLAGS = "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--use-angle=swiftshader"
TIMINGS = """
const [page] = performance.getEntriesByType("navigation");
const paint = performance.getEntriesByName("first-contentful-paint")[0];
return page.loadEventEnd && paint ? [paint.startTime, page.loadEventEnd] : null;
"""


def opened(url: str) -> tuple[float, float]:
    """Milliseconds from the start of the navigation to the first contentful paint, and to the end of loading."""
    from selenium import webdriver

    from tests.support.real_browser import wait_until

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS, "--enable-unsafe-swiftshader", "--window-size=1280,900"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        browser.get(url)
        return tuple(wait_until(lambda: browser.execute_script(TIMINGS), "the page is loaded"))
    finally:
        browser.quit()


def written(folder: Path, like: Path | None) -> Path:
    """Write the report of a large run; returns its folder."""
    store = Store(folder / "run")
    finished_run.write(store, folder / "weights", PROMPTS, METHODS)
    finished = RunResults.read(store)
    jobs = list(finished.records)
    real = [path.parent for path in sorted(like.glob(f"items/*/{ASSET}"))] if like else []
    for number, job in enumerate(jobs if real else []):
        for name in (ASSET, TURNTABLE, CONTACT):
            store.share(real[number % len(real)] / name, store.item(job) / name)
    lines = [
        json.dumps(
            {"stage": "generate", "job_id": job, "iteration": i, "loss": 1 / i, "gaussians": 10.0 * i, "seconds": i}
        )
        for job in jobs
        for i in range(1, POINTS + 1)
    ]
    store.write(store.root / "events" / "a-0000.jsonl", "\n".join(lines).encode())
    return pages.write([finished], leaderboard([finished]), Store(folder / "report"), viewer.fetch()).parent


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = written(Path(folder), Path(sys.argv[1]) if len(sys.argv) > 1 else None)
        largest = max(report.rglob("*.html"), key=lambda page: page.stat().st_size)
        print(f"largest page: {largest.relative_to(report)}, {largest.stat().st_size / 1e3:.0f} kB")
        for page in PAGES:
            times = [opened((report / page).as_uri()) for _ in range(TIMES)]
            paint, load = (statistics.median(column) for column in zip(*times, strict=True))
            print(f"| `{page}` | {paint / 1e3:.2f} s | {load / 1e3:.2f} s |", flush=True)


if __name__ == "__main__":
    main()
