"""The documentation site: it builds offline without warnings, is complete, and has no dead links."""

import ast
import http.server
import re
import shutil
import subprocess
import sys
import threading
from functools import cache, partial
from pathlib import Path
from urllib.parse import unquote

import html5lib
import pytest

from pipeline.cli.app import loaded
from sctd.recipe.objective import ENTRIES
from tests.support.paths import ROOT

DOCS = ROOT / "docs"
OFFLINE = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}


def build(root: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", "docs", "-d", f"{out}-state", ".", out]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, env=OFFLINE)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("docs") / "site"
    done = build(ROOT, out)
    assert (done.returncode, done.stderr) == (0, "")
    return out


@cache
def parsed(page: Path):
    return html5lib.parse(page.read_text(encoding="utf-8"), namespaceHTMLElements=False)


@cache
def ids(page: Path) -> set[str]:
    return {element.get("id") for element in parsed(page).iter() if element.get("id")}


def text_of(page: Path) -> str:
    return "".join(parsed(page).itertext())


def pages(site: Path) -> list[Path]:
    return [page for page in sorted(site.rglob("*.html")) if "_static" not in page.parts]


def test_every_page_of_the_docs_is_on_the_site(site):
    sources = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *DOCS.glob("*.ipynb")]
    assert len(sources) > 50
    assert [page for page in sources if not (site / page.relative_to(ROOT)).with_suffix(".html").is_file()] == []


def test_first_page_redirects_to_the_docs(site):
    refresh = parsed(site / "index.html").find(".//meta[@http-equiv='refresh']").get("content")
    assert (site / refresh.partition("url=")[2]) == site / "docs" / "index.html"


def test_pages_load_local_files_only(site):
    loading = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}
    loaded = [
        element.get(loading[element.tag], "")
        for page in pages(site)
        for element in parsed(page).iter()
        if element.tag in loading
    ]
    assert len(loaded) > 500
    assert [address for address in loaded if "//" in address] == []
    styles = [style.read_text(encoding="utf-8") for style in (site / "_static").rglob("*.css")]
    assert [
        found for style in styles for found in re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//\S+", style)
    ] == []


def test_every_internal_link_has_a_target(site):
    broken, followed = [], 0
    for page in pages(site):
        for link in parsed(page).iter("a"):
            address = link.get("href", "")
            if not address or "://" in address or address.startswith("mailto:"):
                continue
            path, _, anchor = address.partition("#")
            found = (page.parent / unquote(path)).resolve() if path else page
            followed += 1
            if not found.is_file() or (anchor and found.suffix == ".html" and unquote(anchor) not in ids(found)):
                broken.append(f"{page.relative_to(site)}: {address}")
    assert broken == []
    assert followed > 5000


def commands(command, name: str = "segmentdreamer"):
    yield name, command
    for word, sub in getattr(command, "commands", {}).items():
        yield from commands(sub, f"{name} {word}")


def test_every_visible_command_and_option_is_documented(site):
    text, documented = text_of(site / "docs" / "reference" / "cli.html"), 0
    for name, command in commands(loaded()):
        assert (f"\n{name}#" in text or f"{name}¶" in text) == (not command.hidden), name
        for option in () if command.hidden else command.params:
            documented += 1
            assert option.param_type_name == "argument" or option.opts[0] in text, (name, option.name)
    assert documented > 150


def public_functions(module: str) -> list[str]:
    path = ROOT / (module.replace(".", "/") + ".py")
    path = path if path.is_file() else path.with_suffix("") / "__init__.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    return [f"{module}.{node.name}" for node in found if ast.get_docstring(node)]


@pytest.mark.parametrize("package", ["sctd", "evaluation", "cluster", "pipeline"])
def test_reference_has_every_public_function_of_its_modules(site, package):
    page = site / "docs" / "reference" / f"{package}.html"
    modules = [name.removeprefix("module-") for name in ids(page) if name.startswith("module-")]
    assert len(modules) >= 5
    assert [name for module in modules for name in public_functions(module) if name not in ids(page)] == []


def test_reference_has_each_objective_with_its_equation(site):
    page = site / "docs" / "reference" / "sctd.html"
    for entry in ENTRIES.values():
        assert entry.function.replace(":", ".") in ids(page)
    assert "Eq. 10 before its weight b(t)" in text_of(page)
    assert "Float[Tensor, 'num 3']" in text_of(page)


def test_link_to_a_source_file_targets_its_reference(site):
    links = {link.get("href") for link in parsed(site / "docs" / "objectives" / "ism.html").iter("a")}
    assert "../reference/sctd.html#module-sctd.objectives.ism" in links


# ---- in a browser ------------------------------------------------------------------------------------------------


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def served(site):
    """The URL of the served site."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


WIDE = (
    "recipe",
    "benchmark",
    "cluster",
    "errors",
    "results/README",
    "howto/leaderboard",
    "reference/sctd",
    "reference/cli",
)


@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_the_screen(width, browser, served):
    """Wider tables and code scroll in their own frames."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        for page in WIDE:
            browser.get(f"{served}/docs/{page}.html")
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width, page
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_search_finds_pages_and_functions(browser, served):
    from selenium.webdriver.support.ui import WebDriverWait

    for words, expected in (
        ("Bonferroni", "docs/benchmark.html"),
        ("frechet_distance", "docs/reference/evaluation.html"),
    ):
        browser.get(f"{served}/search.html?q={words}")
        read = "return [...document.querySelectorAll('#search-results a')].map(a => a.href)"
        found = WebDriverWait(browser, 30).until(lambda driver: driver.execute_script(read))  # noqa: B023
        assert any(expected in address for address in found), (words, found)


def test_theme_can_be_dark(browser, served):
    browser.get(f"{served}/docs/index.html")
    colours = set()
    for _ in range(3):  # light, dark, system
        browser.execute_script("document.querySelector('button.theme-toggle').click()")
        colours.add(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2


# ---- failing builds -----------------------------------------------------------------------------------------------


def small(root: Path, text: str, contents: str = "root: docs/index\nentries: [{file: docs/page}]\n") -> Path:
    """A source tree with the real settings and two pages."""
    shutil.copytree(DOCS, root / "docs", ignore=shutil.ignore_patterns("*.md", "*.ipynb", "results", "images"))
    (root / "docs" / "_toc.yml").write_text(contents)
    (root / "docs" / "index.md").write_text("# Index\n\n## A section\n")
    (root / "docs" / "page.md").write_text(text)
    return root


GOOD = "# Page\n\n[one](index.md#a-section)\n"


def test_small_tree_builds(tmp_path):
    assert build(small(tmp_path, GOOD), tmp_path / "site").returncode == 0


@pytest.mark.parametrize(
    ("text", "contents", "warning"),
    [
        ("# Page\n\n[one](nowhere.md)\n", {}, "target not found: 'nowhere.md'"),
        ("# Page\n\n[one](index.md#no-section)\n", {}, "local id not found in doc 'docs/index': 'no-section'"),
        ("# Page\n\n[one](#no-section)\n", {}, "target not found: 'no-section'"),
        ("# Page\n\n[one](decisions/)\n", {}, "target not found: 'decisions/README.md'"),
        ("# Page\n\n![one](none.png)\n", {}, "image file not readable"),
        (GOOD, {"contents": "root: docs/index\n"}, "document isn't included in any toctree"),
    ],
    ids=["a page", "an anchor elsewhere", "an anchor here", "a folder", "an image", "not in the contents"],
)
def test_dead_link_fails_the_build(text, contents, warning, tmp_path):
    done = build(small(tmp_path, text, **contents), tmp_path / "site")
    assert done.returncode == 1
    assert warning in done.stderr
