"""The study in headless Chromium: volunteers rank by keyboard, by dragging and with lists, alone and three at once.

SEGMENTDREAMER_SCREENSHOTS names a folder for screenshots of the pages.
"""

import json
import os
import random
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import httpx2
import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.study.plan import QUESTIONS
from tests.support.real_browser import skip_or_fail
from tests.support.study_fixtures import HOSTILE, serving

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
DESKTOP, PHONE = (1280, 800), (390, 844)


@pytest.fixture
def browser(request):
    """A browser window of `size` pixels; `reduced` requests reduced motion."""
    size, reduced = request.param
    with chromium(size, *(["--force-prefers-reduced-motion"] if reduced else [])) as driver:
        yield driver


@contextmanager
def chromium(size, *flags):
    """Chromium with a separate profile."""
    if not (CHROMIUM and DRIVER):
        skip_or_fail("no chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--mute-audio"):
        options.add_argument(argument)
    for argument in flags:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        yield driver
    finally:
        driver.quit()


def shoot(browser, name):
    if folder := os.environ.get("SEGMENTDREAMER_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


def order(browser):
    return "".join(video.get_attribute("data-letter") for video in browser.find_elements(By.CSS_SELECTOR, ".films li"))


def ranks(browser):
    return {s.get_attribute("name"): s.get_property("value") for s in browser.find_elements(By.TAG_NAME, "select")}


def handle(browser, letter):
    return browser.find_element(By.CSS_SELECTOR, f"[data-letter={letter}] .handle")


def until(browser, condition):
    return WebDriverWait(browser, 30).until(condition)


def wait_for_draft(browser):
    """Wait until the draft has been saved."""
    browser.execute_async_script("saving.then(arguments[0])")


def drag(browser, letter, onto):
    target = browser.find_element(By.CSS_SELECTOR, f"[data-letter={onto}]")
    chain = ActionChains(browser, duration=50).move_to_element(handle(browser, letter)).click_and_hold()
    chain.move_to_element(target).move_by_offset(3, 3).release().perform()


def playing(browser):
    return browser.execute_script("return videos().filter((v) => !v.paused && v.currentTime > 0).length")


@pytest.mark.parametrize("browser", [(DESKTOP, False)], indirect=True)
def test_ranking_by_keyboard_and_by_drag(study, browser):
    store, made, database = study
    (token,) = database.invite([made.shuffled()])
    with serving(store) as (_, base):
        browser.get(f"{base}/i/{token}")
        shoot(browser, "welcome-desktop")
        browser.find_element(By.LINK_TEXT, "Begin").send_keys(Keys.ENTER)
        until(browser, lambda b: b.current_url.endswith("/step/1"))
        assert order(browser) == "ABC"
        assert ranks(browser) == {"A": "1", "B": "2", "C": "3"}
        until(browser, lambda b: playing(b) == 3)

        handle(browser, "C").send_keys(Keys.ARROW_LEFT)
        assert order(browser) == "ACB"
        assert browser.switch_to.active_element.get_attribute("aria-label") == "Move video C"
        assert browser.find_element(By.ID, "said").text == "Video C is now number 2 of 3."
        shoot(browser, "keyboard-desktop")
        browser.switch_to.active_element.send_keys(Keys.HOME)
        assert order(browser) == "CAB"
        browser.switch_to.active_element.send_keys(Keys.ARROW_UP)  # already first
        assert order(browser) == "CAB"
        assert ranks(browser) == {"C": "1", "A": "2", "B": "3"}
        until(browser, lambda b: playing(b) == 3)

        wait_for_draft(browser)
        browser.refresh()
        assert order(browser) == "CAB", "a refresh lost the order"
        browser.find_element(By.CSS_SELECTOR, "button[type=submit]").send_keys(Keys.ENTER)
        until(browser, lambda b: b.current_url.endswith("/step/2"))

        drag(browser, "A", onto="C")
        assert order(browser) == "BCA"
        drag(browser, "A", onto="B")
        assert order(browser) == "ABC"
        drag(browser, "C", onto="B")
        assert order(browser) == "ACB"
        assert ranks(browser) == {"A": "1", "C": "2", "B": "3"}
        shoot(browser, "dragged-desktop")
        browser.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
        until(browser, lambda b: b.current_url.endswith("/step/3"))

        browser.find_element(By.CSS_SELECTOR, "select[name=A]").send_keys("3")
        assert order(browser) == "BCA"
        browser.back()  # an answered step redirects to the next
        until(browser, lambda b: b.current_url.endswith("/step/3"))
        complaints = [entry["message"] for entry in browser.get_log("browser") if "favicon" not in entry["message"]]
        assert complaints == []
    shown = database.voter(token).shown
    group, competitors = shown[0]
    given = {(b.group, b.question): [b.ranks[c] for c in competitors] for b in database.ballots()}
    assert given == {(group, 0): [2, 3, 1], (group, 1): [1, 3, 2]}  # of A, B, C


@pytest.mark.parametrize("browser", [(PHONE, True)], indirect=True)
def test_a_phone_without_motion(study, browser):
    """Nothing overflows the screen or moves by itself, controls are large enough, and focus is visible."""
    store, made, database = study
    (token,) = database.invite([made.shuffled()])
    with serving(store) as (_, base):
        browser.get(f"{base}/i/{token}")
        shoot(browser, "welcome-phone")
        browser.get(f"{base}/step/1")
        until(browser, lambda b: b.execute_script("return videos().every((v) => v.readyState >= 2)"))
        assert playing(browser) == 0
        assert not browser.execute_script("return videos().some((v) => v.controls)"), (
            "controls would cover paused videos"
        )
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
        sizes = browser.execute_script(
            "return [...document.querySelectorAll('button, select')].map((e) => e.getBoundingClientRect())"
            ".map((r) => [r.width, r.height])"
        )
        assert all(width >= 44 and height >= 44 for width, height in sizes)
        handle(browser, "B").send_keys(Keys.ARROW_UP)
        assert order(browser) == "BAC"
        assert browser.execute_script("return getComputedStyle(document.activeElement).outlineWidth") == "3px"
        shoot(browser, "step-phone")
        drag(browser, "B", onto="C")
        assert order(browser) == "ACB"
        browser.find_element(By.ID, "pause").click()
        until(browser, lambda b: playing(b) == 3)
        browser.find_element(By.ID, "pause").click()
        assert playing(browser) == 0


@pytest.mark.parametrize("browser", [(DESKTOP, False)], indirect=True)
def test_two_tabs_cannot_vote_twice(study, browser):
    store, made, database = study
    (token,) = database.invite([made.shuffled()])
    with serving(store) as (_, base):
        browser.get(f"{base}/i/{token}")
        browser.get(f"{base}/step/1")
        first = browser.current_window_handle
        browser.switch_to.new_window("tab")
        browser.get(f"{base}/step/1")
        browser.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
        until(browser, lambda b: b.current_url.endswith("/step/2"))
        browser.switch_to.window(first)
        handle(browser, "C").send_keys(Keys.HOME)
        browser.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
        until(browser, lambda b: b.title == "Already answered")
        shoot(browser, "twice-desktop")
        browser.find_element(By.LINK_TEXT, "Continue").click()
        until(browser, lambda b: b.find_element(By.TAG_NAME, "h1").text == "Which looks better?")
    (ballot,) = database.ballots()
    assert [ballot.ranks[c] for c in database.voter(token).shown[0][1]] == [1, 2, 3]


@pytest.mark.parametrize("browser", [(DESKTOP, False)], indirect=True)
def test_page_works_without_javascript(study, browser):
    store, made, database = study
    (token,) = database.invite([made.shuffled()])
    with serving(store) as (_, base):
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        browser.get(f"{base}/i/{token}")
        browser.get(f"{base}/step/1")
        for letter, rank in zip("ABC", "231", strict=True):
            browser.find_element(By.CSS_SELECTOR, f"select[name={letter}]").send_keys(rank)
        shoot(browser, "plain-desktop")
        browser.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
        until(browser, lambda b: b.current_url.endswith("/step/2"))
    (ballot,) = database.ballots()
    assert [ballot.ranks[c] for c in database.voter(token).shown[0][1]] == [2, 3, 1]


# ---- three volunteers at once -------------------------------------------------------------------------------------


def competitors_by_letter(browser, base, store, made):
    """The group of this page, and the competitor behind each letter, identified by the bytes of its video."""
    known = {
        made.clip(store, group, c).read_bytes(): (group, c)
        for group in range(len(made.prompts))
        for c in range(len(made.competitors))
    }
    cookies = {cookie["name"]: cookie["value"] for cookie in browser.get_cookies()}
    found = {}
    for video in browser.find_elements(By.CSS_SELECTOR, ".films li"):
        address = video.find_element(By.TAG_NAME, "video").get_dom_attribute("src")
        answer = httpx2.get(f"{base}{address}", headers={"cookie": f"invitation={cookies['invitation']}"})
        found[video.get_attribute("data-letter")] = known[answer.content]
    (group,) = {group for group, _ in found.values()}
    return group, {letter: c for letter, (_, c) in found.items()}


def by_drag(browser, wanted):
    for place, letter in enumerate(wanted):
        if order(browser)[place] != letter:
            drag(browser, letter, onto=order(browser)[place])
    wait_for_draft(browser)


def by_keyboard(browser, wanted):
    for place, letter in enumerate(wanted):
        for _ in range(order(browser).index(letter) - place):
            handle(browser, letter).send_keys(Keys.ARROW_LEFT)
    wait_for_draft(browser)


def by_lists(browser, wanted):
    for rank, letter in enumerate(wanted, 1):
        browser.find_element(By.CSS_SELECTOR, f"select[name={letter}]").send_keys(str(rank))


def press_next(browser):
    browser.find_element(By.CSS_SELECTOR, "button[type=submit]").send_keys(Keys.ENTER)


def answer_in_another_tab(browser, step):
    """Submit in a second tab, then the reversed order in the first tab: the first answer counts."""
    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    browser.get(step)
    press_next(browser)
    until(browser, lambda b: b.current_url != step)
    browser.close()
    browser.switch_to.window(first)
    by_keyboard(browser, order(browser)[::-1])
    press_next(browser)
    until(browser, lambda b: b.title == "Already answered")
    browser.find_element(By.LINK_TEXT, "Continue").click()
    browser.find_element(By.LINK_TEXT, "Continue").click()


def volunteer(browser, base, token, study, barrier, rank_by, seed):
    """Answer all steps in lockstep with the others; returns {(group, question): competitors, best first}."""
    store, made, _ = study
    taste, given = random.Random(seed), {}
    browser.get(f"{base}/i/{token}")
    browser.find_element(By.LINK_TEXT, "Begin").click()
    for number in range(1, made.steps + 1):
        barrier.wait(120)
        until(browser, lambda b, number=number: b.current_url.endswith(f"/step/{number}"))
        group, shown = competitors_by_letter(browser, base, store, made)
        question = QUESTIONS.index(browser.find_element(By.TAG_NAME, "h1").text)
        assert browser.find_element(By.CSS_SELECTOR, ".prompt q").text == made.prompts[group], "the prompt is escaped"
        best_first = taste.sample(range(len(made.competitors)), len(made.competitors))
        wanted = "".join(next(letter for letter, c in shown.items() if c == wish) for wish in best_first)
        rank_by(browser, wanted)
        if number == 3 and rank_by is not by_lists:
            browser.refresh()
            assert order(browser) == wanted, "a refresh lost the order"
        given[group, question] = best_first
        if number == 4 and rank_by is by_keyboard:
            answer_in_another_tab(browser, f"{base}/step/{number}")
        else:
            press_next(browser)
    until(browser, lambda b: "Thank you!" in b.title)
    browser.get(f"{base}/step/1")
    assert browser.title == "Thank you!", "an answered step redirects"
    return given


def test_results_match_the_rankings_of_three_concurrent_volunteers(study):
    """They rank by dragging, by keyboard, and with lists without JavaScript."""
    store, made, database = study
    assert HOSTILE in made.prompts
    ways = by_drag, by_keyboard, by_lists
    tokens = database.invite([made.shuffled() for _ in ways])
    barrier = threading.Barrier(len(ways))
    with serving(store) as (_, base), ExitStack() as stack, ThreadPoolExecutor(len(ways)) as pool:
        browsers = [stack.enter_context(chromium(DESKTOP)) for _ in ways]
        browsers[2].execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        one = partial(volunteer, base=base, study=study, barrier=barrier)
        votes = [
            pool.submit(one, browser, token=token, rank_by=way, seed=seed)
            for seed, (browser, token, way) in enumerate(zip(browsers, tokens, ways, strict=True))
        ]
        rankings = [vote.result() for vote in votes]
    assert len(database.ballots()) == len(ways) * made.steps

    found = json.loads(CliRunner().invoke(app, ["study", "results", str(store.root), "--json"]).stdout)
    means = {(row["question"], row["method"]): row["mean_rank"] for row in found["ranks"]}
    for question in range(len(QUESTIONS)):
        for competitor, label in enumerate(made.labels):
            places = [given[g, question].index(competitor) + 1 for given in rankings for g in range(len(made.prompts))]
            assert means[f"q{question + 1}", label] == pytest.approx(sum(places) / len(places))
    assert {(row["voters"], row["rankings"]) for row in found["ranks"]} == {(3, 6)}
