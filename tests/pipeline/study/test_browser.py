"""Real headless Chromium: a volunteer ranks by keyboard and by drag. Skipped where there is no browser.

SEGMENTDREAMER_SCREENSHOTS names a folder for pictures of the pages.
"""

import os
import shutil
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from study_fixtures import serving

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium and chromedriver (Debian: apt-get install chromium chromium-driver)"
)
DESKTOP, PHONE = (1280, 800), (390, 844)


@pytest.fixture
def browser(request):
    """Of so many pixels; `reduced` asks for no motion."""
    size, reduced = request.param
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--mute-audio"):
        options.add_argument(argument)
    if reduced:
        options.add_argument("--force-prefers-reduced-motion")
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
    return "".join(film.get_attribute("data-letter") for film in browser.find_elements(By.CSS_SELECTOR, ".films li"))


def ranks(browser):
    return {s.get_attribute("name"): s.get_property("value") for s in browser.find_elements(By.TAG_NAME, "select")}


def handle(browser, letter):
    return browser.find_element(By.CSS_SELECTOR, f"[data-letter={letter}] .handle")


def until(browser, condition):
    return WebDriverWait(browser, 30).until(condition)


def kept(browser):
    """The draft has arrived."""
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
        assert browser.switch_to.active_element.get_attribute("aria-label") == "Move film C"
        assert browser.find_element(By.ID, "said").text == "Film C is now number 2 of 3."
        shoot(browser, "keyboard-desktop")
        browser.switch_to.active_element.send_keys(Keys.HOME)
        assert order(browser) == "CAB"
        browser.switch_to.active_element.send_keys(Keys.ARROW_UP)  # no further
        assert order(browser) == "CAB"
        assert ranks(browser) == {"C": "1", "A": "2", "B": "3"}
        until(browser, lambda b: playing(b) == 3)

        kept(browser)
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
        browser.back()  # an answered step leads on
        until(browser, lambda b: b.current_url.endswith("/step/3"))
        complaints = [entry["message"] for entry in browser.get_log("browser") if "favicon" not in entry["message"]]
        assert complaints == []
    shown = database.voter(token).shown
    group, competitors = shown[0]
    given = {(b.group, b.question): [b.ranks[c] for c in competitors] for b in database.ballots()}
    assert given == {(group, 0): [2, 3, 1], (group, 1): [1, 3, 2]}  # of A, B, C


@pytest.mark.parametrize("browser", [(PHONE, True)], indirect=True)
def test_a_phone_without_motion(study, browser):
    """Nothing is wider than the screen, nothing moves unless asked, what is pressed is large enough, focus is seen."""
    store, made, database = study
    (token,) = database.invite([made.shuffled()])
    with serving(store) as (_, base):
        browser.get(f"{base}/i/{token}")
        shoot(browser, "welcome-phone")
        browser.get(f"{base}/step/1")
        until(browser, lambda b: b.execute_script("return videos().every((v) => v.readyState >= 2)"))
        assert playing(browser) == 0
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
        until(browser, lambda b: b.title == "Answered already")
        shoot(browser, "twice-desktop")
        browser.find_element(By.LINK_TEXT, "Continue").click()
        until(browser, lambda b: b.find_element(By.TAG_NAME, "h1").text == "Which looks better?")
    (ballot,) = database.ballots()
    assert [ballot.ranks[c] for c in database.voter(token).shown[0][1]] == [1, 2, 3]


@pytest.mark.parametrize("browser", [(DESKTOP, False)], indirect=True)
def test_without_its_script_the_page_is_a_form(study, browser):
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
