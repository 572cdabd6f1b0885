"""Headless Chromium through its driver. Tests are skipped without it, except in CI."""

import shutil
from collections.abc import Iterator

import pytest

from tests.support.real_browser import skip_or_fail

FLAGS = "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--use-angle=swiftshader", "--mute-audio"
WEBGL_FLAGS = "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """Chromium with access to this machine only."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        skip_or_fail("no chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (
        *FLAGS,
        *WEBGL_FLAGS,
        "--window-size=1280,900",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    found.set_page_load_timeout(60)
    yield found
    found.quit()
