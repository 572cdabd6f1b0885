"""Plots that no report page has."""

import io
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from pipeline.report.curves import Line, over_cost, over_setting

PANELS = {
    "saturation": [Line("sds", 0, [5, 30], [0.4, 0.8], [0.1, np.nan]), Line("sctd", 1, [5], [0.5], [np.nan])],
    "luminance": [Line("sds", 0, [5, 30], [0.5, 0.5], [0.1, 0.1])],
    "specks": [Line("sds", 0, [5, 30], [0, 0.1], [0, 0])],
    "sharpness": [],
}


def texts(svg: bytes) -> list[str]:
    return [
        "".join(node.itertext()).strip() for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("text")
    ]


def test_a_plot_over_a_setting_has_a_panel_for_each_quantity_and_both_formats():
    drawn = over_setting(PANELS, "guidance.scale", {5: "5", 30: "30"})
    written = texts(drawn.svg)
    assert set(PANELS) <= set(written)
    assert {"sds", "sctd"} <= set(written)
    assert written.count("guidance.scale") == len(PANELS)
    image = Image.open(io.BytesIO(drawn.png))
    assert image.width > 1000, "three panels in a row"
    assert "minus ism" in texts(over_setting(PANELS, "scale", {5: "5", 30: "30"}, compared_with="minus ism").svg)
    assert drawn == over_setting(PANELS, "guidance.scale", {5: "5", 30: "30"}), "equal values give equal bytes"


def test_a_single_value_of_the_setting_is_drawn():
    assert "7.5" in texts(over_setting({"saturation": [Line("sds", 0, [0], [0.4], [0.1])]}, "scale", {0: "7.5"}).svg)


def test_costs_are_logarithmic_if_one_method_costs_much_more_than_another():
    def ticks(most: float) -> list[str]:
        ends = [Line("sds", 0, [250, 1000], [60, 65], [1, 1]), Line("sdi", 1, [most / 4, most], [60, 65], [1, 1])]
        return texts(over_cost({"CLIP": ends}, "seconds"))

    assert "0" in ticks(4000), "up to four times the cost"
    assert "0" not in ticks(8000)
    assert {"500", "1000", "2000", "5000"} <= set(ticks(8000)), "a logarithmic axis has plain numbers"
