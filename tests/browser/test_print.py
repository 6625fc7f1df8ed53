"""The report on paper: whole, with the headings of its tables on every page, without forms and menus."""

import re

import pytest

from tests.unit.synthetic_page import analysed
from workflow_scripts.report.landing import style

# As Snakemake nests the first view: columns as high as the window.
SNAKEMAKE = """<style>.h-screen {{ height: 100vh }} .w-screen {{ width: 100vw }} .overflow-auto {{ overflow: auto }}
.flex {{ display: flex }}</style><style>{style}</style><div id="app"><div class="flex w-screen h-screen">
<nav class="h-screen overflow-auto">menu</nav><div class="grow flex h-screen overflow-auto"><div class="flex"><div>
<div class="prose"><div class="landing">{cards}</div></div></div><div id="rulegraph">rules</div>
</div></div></div></div>"""
pytestmark = pytest.mark.slow


def pages(pdf: bytes) -> int:
    return len(re.findall(rb"/Type\s*/Page\b", pdf))


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    browser.open(analysed(tmp_path_factory.mktemp("print"), items=12)[0] / "overview.html")
    browser.wait_for("document.getElementById('ledger-count').textContent")
    return browser


def test_the_page_prints_what_is_open_and_no_part_of_the_items(page):
    shown = "Array.from(document.querySelectorAll('{}'), e => e.checkVisibility())"
    page.show_as("print")
    hidden = page.js(shown.format("nav, #ledger-form, #ledger-body, #ledger-more, #ends"))
    folded = page.js(shown.format("[aria-label=Rates], [aria-label=Cells]"))
    heads = page.js("Array.from(document.querySelectorAll('thead button'), e => getComputedStyle(e).display)")
    page.show_as("")
    assert len(hidden) == 5 and not any(hidden + folded) and len(folded) == 2
    assert set(heads) == {"contents"}  # Chromium leaves the box of a button out on the next page
    closed = pages(page.print())
    page.js("document.querySelectorAll('details.fold').forEach(d => { d.open = true })")
    assert 3 <= closed < pages(page.print())


def test_the_first_view_of_snakemakes_report_is_printed_whole_and_without_its_menu(browser, tmp_path):
    cards = "".join(f'<section class="card"><p>{"word " * 300}</p></section>' for _ in range(9))
    file = tmp_path / "report.html"
    file.write_text(SNAKEMAKE.format(style=style(), cards=cards))
    browser.open(file)
    assert pages(browser.print()) > 1
    browser.show_as("print")
    shown = browser.js("['nav', '#rulegraph'].map(e => document.querySelector(e).checkVisibility())")
    browser.show_as("")
    assert shown == [False, False]
