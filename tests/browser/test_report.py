"""The report pages and the viewer in a real browser, opened from disk."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.errors import UserError
from pipeline.leaderboard.table import leaderboard
from pipeline.report import pages, viewer
from pipeline.store.results import RunResults
from pipeline.store.run_folder import Store
from sctd.formats import ply
from tests.support import finished_run
from tests.support.real_browser import assert_asset_is_upright, dominates, screenshot, skip_or_fail, wait_until

PROMPTS, METHODS = ["a red ball", "<script>alert(1)</script>"], ["sds", "sctd", "ism"]
PHONE = {"width": 375, "height": 740, "deviceScaleFactor": 2, "mobile": True}


@pytest.fixture(scope="module")
def files() -> viewer.Files:
    try:
        return viewer.fetch()
    except UserError as error:
        skip_or_fail(f"the viewer cannot be fetched: {error}")


@pytest.fixture(scope="module")
def report(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("browser")
    store = Store(folder / "run")
    finished_run.write(store, folder / "weights", PROMPTS, METHODS, failed=[(1, 2)])
    finished = RunResults.read(store)
    return pages.write([finished], leaderboard([finished]), Store(folder / "report"), files).parent


@pytest.fixture
def opened(browser, report):
    """Opens a page of the report. The test fails if a page logged an error."""
    browser.get_log("browser")

    def open_page(path: str):
        browser.get((report / path).as_uri())
        return browser

    yield open_page
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []


def shown_asset(browser) -> np.ndarray:
    wait_until(lambda: browser.execute_script("return document.body.classList.contains('shown')"), "the asset is shown")
    wait_until(lambda: dominates(screenshot(browser), 0).mean() > 0.01, "red is visible")
    return screenshot(browser)


def column(browser, name: str) -> list[str]:
    return browser.execute_script(
        "const i = [...document.querySelectorAll('#leaderboard thead th')]"
        ".findIndex((head) => head.dataset.column === arguments[0]);"
        "return [...document.querySelectorAll('#leaderboard tbody tr')].map((row) => row.cells[i].dataset.value)",
        name,
    )


def test_table_sorts_best_first_and_reverses(opened):
    browser = opened("index.html")
    assert column(browser, "method") == METHODS
    head = browser.find_element("css selector", "th[data-column='clip@embedded'] button")
    head.click()
    values = [float(value) for value in column(browser, "clip@embedded")]
    assert values == sorted(values, reverse=True)
    head.click()
    assert [float(value) for value in column(browser, "clip@embedded")] == values[::-1]
    browser.find_element("css selector", "th[data-column='fd@embedded'] button").click()
    values = [float(value) for value in column(browser, "fd@embedded")]
    assert values == sorted(values)
    browser.find_element("css selector", "th[data-column='method'] button").click()
    assert column(browser, "method") == sorted(METHODS)
    assert browser.find_element("css selector", "[aria-sort]").get_attribute("data-column") == "method"


def test_detail_columns_can_be_shown(opened):
    browser = opened("index.html")
    head = browser.find_element("css selector", "th[data-column='clip_p10@embedded']")
    assert not head.is_displayed()
    browser.find_element("id", "details").click()
    assert head.is_displayed()


def test_the_plots_of_scores_over_cost_are_shown_one_at_a_time(browser, tmp_path):
    store = Store(tmp_path / "run")
    finished_run.write(store, tmp_path / "weights", PROMPTS, METHODS[:1])
    finished_run.add_snapshots(store)
    finished = RunResults.read(store)
    browser.get(pages.write([finished], leaderboard([finished]), Store(tmp_path / "report"), None).as_uri())
    plots = browser.find_elements("css selector", ".quality img")
    assert [plot.value_of_css_property("display") for plot in plots] == ["block", "none"]
    browser.find_element("id", "over2").click()
    assert [plot.value_of_css_property("display") for plot in plots] == ["none", "block"]
    assert plots[1].get_attribute("alt") == "Scores over seconds, by method"


def test_turntables_turn_and_follow_the_slider_together(opened):
    browser = opened("prompts/001.html")
    times = "return [...document.querySelectorAll('video.turntable')].map((v) => v.currentTime)"
    wait_until(lambda: min(browser.execute_script(times)) > 0.2, "all turntables turn")
    browser.execute_script(
        "const s = document.getElementById('azimuth'); s.value = 180; s.dispatchEvent(new Event('input'))"
    )
    wait_until(lambda: all(abs(x - 2.51) < 0.05 for x in browser.execute_script(times)), "all are at 180°")
    assert len(browser.execute_script(times)) == len(METHODS)
    assert browser.find_element("id", "degrees").text == "180°"
    assert browser.find_element("id", "play").text == "play"


def test_worst_views_show_their_azimuth(opened):
    browser = opened("prompts/001.html")
    times = "return [...document.querySelectorAll('video[data-degrees]')].map((v) => v.currentTime)"
    wait_until(lambda: all(abs(x - 2.51) < 0.05 for x in browser.execute_script(times)), "the worst view is shown")
    assert browser.execute_script("return document.querySelectorAll('video[data-degrees]').length") == len(METHODS)


def test_images_and_plots_load(opened):
    for path in ("index.html", "prompts/001.html", "prompts/002.html"):
        browser = opened(path)
        browser.execute_script("document.querySelectorAll('img').forEach((image) => { image.loading = 'eager' })")
        sizes = "return [...document.images].map((image) => image.complete && image.naturalWidth)"
        wait_until(lambda: all(browser.execute_script(sizes)), f"all images of {path} are loaded")  # noqa: B023
        assert browser.execute_script(sizes), path


@pytest.mark.parametrize("path", ["index.html", "recipes.html", "prompts/001.html", "prompts/002.html"])
def test_no_page_is_wider_than_a_phone(opened, path):
    browser = opened(path)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE["width"]


def test_hostile_prompt_is_not_executed(opened):
    browser = opened("prompts/002.html")
    assert browser.find_element("tag name", "h1").text == PROMPTS[1]  # an alert would raise an exception


def test_viewer_shows_an_asset_from_disk(opened):
    browser = opened("prompts/001.html")
    browser.find_element("link text", "Open in the viewer").click()
    first = shown_asset(browser)
    assert_asset_is_upright(first)
    assert "a red ball, sds" in browser.find_element("tag name", "h1").text
    _drag(browser)
    wait_until(lambda: np.abs(screenshot(browser) - first).mean() > 1, "a drag turns the asset")


@pytest.mark.usefixtures("files")
def test_an_exported_page_shows_the_asset_without_any_other_file(browser, tmp_path):
    splats = finished_run.with_spherical_harmonics(finished_run.asset())
    (tmp_path / "ball.ply").write_bytes(ply.to_ply(splats))
    result = CliRunner().invoke(app, ["export", str(tmp_path / "ball.ply"), "--to", "html", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    (tmp_path / "alone").mkdir()
    page = (tmp_path / "ball.html").rename(tmp_path / "alone" / "ball.html")
    assert page.stat().st_size < 1.2 * 2**20
    browser.get_log("browser")
    browser.get(page.as_uri())
    first = shown_asset(browser)
    assert_asset_is_upright(first)
    assert browser.find_element("tag name", "h1").text == "ball"
    _drag(browser)
    wait_until(lambda: np.abs(screenshot(browser) - first).mean() > 1, "a drag turns the asset")
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []


def test_viewer_fits_a_phone(opened):
    browser = opened("index.html")
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    browser.get(browser.current_url.replace("index.html", "view/0-0000cafe.html"))
    pixels = shown_asset(browser)
    assert_asset_is_upright(pixels)
    columns = np.nonzero(dominates(pixels, 0))[1]
    assert 0 < columns.min() < columns.max() < pixels.shape[1] - 1


@pytest.mark.usefixtures("files")
def test_view_serves_an_asset_on_loopback(browser, tmp_path):
    (tmp_path / "asset.ply").write_bytes(ply.to_ply(finished_run.with_spherical_harmonics(finished_run.asset())))
    main = "from pipeline.cli.app import main; main()"
    command = [sys.executable, "-c", main, "view", str(tmp_path), "--port", "0", "--no-browser"]
    served = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    try:
        url = re.search(r"http://127\.0\.0\.1:\d+/", served.stdout.readline())
        assert url
        browser.get(url[0])
        assert_asset_is_upright(shown_asset(browser))
    finally:
        served.terminate()
        served.wait()
        served.stdout.close()


def _drag(browser) -> None:
    from selenium.webdriver import ActionChains

    canvas = browser.find_element("css selector", "#viewer canvas")
    ActionChains(browser).move_to_element(canvas).click_and_hold().move_by_offset(160, 0).release().perform()
