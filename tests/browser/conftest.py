"""A real Chromium without a window, through its driver. Where there is none, tests say so; CI must have one."""

import shutil
from collections.abc import Iterator

import pytest

from tests.support.real_browser import miss

FLAGS = "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--use-angle=swiftshader", "--mute-audio"
FLAGS_OF_WEBGL = "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """Chromium that can reach nothing but this machine and its disk."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        miss("there is no Chromium with its driver here (Debian: apt-get install chromium chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        *FLAGS,
        *FLAGS_OF_WEBGL,
        "--window-size=1280,900",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    found.set_page_load_timeout(60)
    yield found
    found.quit()
