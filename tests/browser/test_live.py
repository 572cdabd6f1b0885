"""The live view in a real browser: it shows the asset during training and updates without a reload."""

from dataclasses import replace

import pytest
import torch

from pipeline.report.live import LiveView
from pipeline.store.run_folder import SNAPSHOT, Store
from sctd.formats import splat
from tests.support import finished_run
from tests.support.real_browser import assert_asset_is_upright, dominates, screenshot, wait_until

PROMPT = "<img src=x onerror=alert(1)> {alert(2)}"
RECORD = {"kind": "progress", "stage": "generate", "worker": 0, "job_id": "cafe", "iterations": 300, "gaussians": 900.0}


@pytest.fixture
def live(tmp_path, browser):
    live = LiveView(Store(tmp_path), {"cafe": PROMPT}, 0)
    yield live
    browser.get("about:blank")
    live.close()


def test_page_shows_gaussians_and_progress_and_updates(live, browser, tmp_path):
    snapshot = tmp_path / "items" / "cafe" / "attempt-1-ab" / SNAPSHOT
    live.store.write(snapshot, splat.to_splat(finished_run.asset()))
    live.take(RECORD | {"iteration": 7, "loss": 0.5})
    browser.get(live.url)
    wait_until(lambda: dominates(screenshot(browser), 0).mean() > 0.02, "red is visible")
    wait_until(lambda: dominates(screenshot(browser), 2).mean() > 0.001, "blue is visible")
    assert_asset_is_upright(screenshot(browser))
    text = browser.find_element("tag name", "body").text
    assert all(part in text for part in (PROMPT, "7 of 300", "0.5", "900")), text  # an alert would raise an exception
    assert not browser.find_elements("css selector", "img[src='x']")

    asset = finished_run.asset()
    live.store.write(snapshot, splat.to_splat(replace(asset, sh=torch.full_like(asset.sh, -1.7))))
    live.take(RECORD | {"iteration": 8, "loss": 0.25})
    wait_until(lambda: dominates(screenshot(browser), 0).mean() < 0.01, "the asset is black")
    wait_until(lambda: "8 of 300" in browser.find_element("tag name", "body").text, "the panel is updated")
