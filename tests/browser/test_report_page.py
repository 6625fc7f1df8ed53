"""The report's pages in a real browser: sort, filter, toggle, keyboard, no requests, accessibility.

Chromium must be installed. The accessibility rules are axe-core's: `npm install --no-save axe-core@4` in the
repository's root puts them where the test looks.
"""

import json
import re
from pathlib import Path

import pytest

from tests.unit.synthetic_page import GAINS, analysed
from tests.unit.synthetic_results import METHODS, PARAMETERS, study

AXE = Path(__file__).parents[2] / "node_modules/axe-core/axe.min.js"
PAGES = (
    "overview.html",
    "paper_audit.html",
    "tables/table1.html",
    "tables/table3.html",
    "tables/changes.html",
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """With adapters that were told the answers of one half of a task's items."""
    facts = METHODS["lora-r4"] | {"corpus": {"task": "triviaqa", "part": "even"}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "lora-facts", facts)
        patch.setitem(PARAMETERS, "lora-facts", 0)
        truth = study("m", GAINS | {"lora-facts": 0.1})
        return analysed(tmp_path_factory.mktemp("pages"), items=12, truth=truth)[0]


@pytest.fixture
def page(browser, results):
    browser.open(results / "overview.html")
    browser.wait_for("document.getElementById('ledger-count').textContent")  # a script unpacks the ledger
    return browser


def unfold(page) -> None:
    """Open what is folded."""
    page.js("document.querySelectorAll('details').forEach(d => { d.open = true })")


def column(page, table: str, number: int) -> list[str]:
    return page.js(
        f"Array.from(document.querySelector('{table}').tBodies[0].rows, r => r.cells[{number}].dataset.value)"
    )


@pytest.mark.parametrize("name", PAGES)
def test_a_page_asks_for_nothing_and_throws_nothing(browser, results, name):
    browser.open(results / name)
    assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in browser.requests if url.startswith("file:")]) == 1
    assert browser.errors == []
    assert browser.js("window.hacked") is None


@pytest.mark.parametrize("name", PAGES)
def test_no_accessibility_finding(browser, results, name):
    if not AXE.is_file():
        pytest.skip("axe-core is not there: npm install --no-save axe-core@4")
    browser.open(results / name)
    unfold(browser)
    browser.js(AXE.read_text() + "; 0")
    found = json.loads(browser.js("axe.run().then(r => JSON.stringify([r.passes.length, r.violations]))"))
    passes, violations = found
    assert passes > 10, "axe did not run"
    assert [(v["impact"], v["id"], v["nodes"][0]["html"][:200]) for v in violations] == []


def test_a_table_is_sorted_by_the_keyboard_both_ways_with_missing_values_last(page):
    table, number = "#tables ~ .scroll table.sortable", 2
    page.js(
        f"document.querySelector('{table}').tHead.rows[0].cells[{number}].querySelector('button').focus()"
    )
    for direction, reverse in (("ascending", False), ("descending", True)):
        page.press("Enter")
        assert (
            page.js(
                f"document.querySelector('{table}').tHead.rows[0].cells[{number}].getAttribute('aria-sort')"
            )
            == direction
        )
        values = column(page, table, number)
        numbers = [float(value) for value in values if value]
        assert numbers == sorted(numbers, reverse=reverse) and len(numbers) > 3
        assert "" in values and values[len(numbers) :] == [""] * (len(values) - len(numbers))


@pytest.mark.parametrize("width", [1400, 800])
@pytest.mark.parametrize("name", ["overview.html", "tables/table1.html", "tables/table3.html"])
def test_every_column_of_a_table_is_seen_in_a_wide_and_in_a_narrow_window(browser, results, name, width):
    browser.resize(width)
    browser.open(results / name)
    unfold(browser)
    for cells, text in (
        ("th", "smollm2-135m"),
        ("td:nth-child(2)", "random choice of idp-26-50-100"),
    ):  # as long as in the grids
        browser.js(
            f"document.querySelectorAll('.dense tbody {cells}').forEach(c => c.firstChild.textContent = '{text}')"
        )
    browser.js(
        "document.querySelectorAll('td.text').forEach(c => { c.innerHTML = c.innerHTML"
        ".replace(/^m (?=[·/])/, 'smollm2-135m ').replace('gptq-w3 ', 'gptq-w3-g64 ')"
        ".replace(/lora-(r4|facts)/, 'lora-r4-arc-easy-even') })"
    )
    numbers = "document.querySelectorAll('[aria-label=Training] td:not(.text)')"
    browser.js(f"{numbers}.forEach(c => {{ c.textContent = '1,234,567' }})")
    boxes = "Array.from(document.querySelectorAll('.scroll'))"
    found = browser.js(
        f"{boxes}.map(box => [box.scrollWidth, box.clientWidth, box.getAttribute('aria-label')])"
    )
    browser.resize(1280)
    assert found and [box for box in found if box[0] > box[1]] == []


@pytest.mark.parametrize("name", PAGES)
def test_a_narrow_window_scrolls_tables_and_not_the_page(browser, results, name):
    browser.resize(400)
    browser.open(results / name)
    root = "document.documentElement"
    widths = browser.js(f"[{root}.scrollWidth, {root}.clientWidth]")
    browser.resize(1280)
    assert widths[0] <= widths[1] > 300


def test_words_and_intervals_of_a_table_stay_whole_in_a_narrow_window(page):
    """A line of an interval, and of the method without a name of its own, is not broken inside."""
    page.resize(800)
    unfold(page)
    lines = "Math.round(e.getBoundingClientRect().height / parseFloat(getComputedStyle(e).lineHeight))"
    assert (
        page.js(f"Math.max(...Array.from(document.querySelectorAll('.means td small'), e => {lines}))") == 1
    )
    broken = (
        "e => { const r = document.createRange(); r.setStart(e.firstChild, 5); r.setEnd(e.firstChild, 17);"
    )
    broken += " return r.getClientRects().length }"
    cells = "document.querySelectorAll('.tasks td.text[data-value=none]')"
    assert page.js(f"Math.max(...Array.from({cells}, {broken}))") == 1


@pytest.mark.parametrize("width", [1400, 800])
def test_of_the_ledger_more_than_one_question_is_seen_and_the_words_of_answers_stay_whole(page, width):
    """As with the methods of a large grid beside the pair."""
    page.resize(width)
    page.js(
        "document.querySelectorAll('#ledger-body tr').forEach(row => { const others = row.lastElementChild;"
        "const one = others.firstElementChild; one.lastChild.textContent = ' idp-50-100-calibrated';"
        "for (let n = others.children.length; n < 18; n++) others.append(one.cloneNode(true));"
        "row.querySelectorAll('.given small').forEach(s => { s.textContent = 'building materials (-1.88)' }) })"
    )
    rows = page.js("document.querySelector('#ledger-body tr').offsetHeight")
    words = (
        "e => { const r = document.createRange(); r.setStart(e.firstChild, 9); r.setEnd(e.firstChild, 18);"
    )
    words += " return r.getClientRects().length }"
    broken = page.js(f"Math.max(...Array.from(document.querySelectorAll('td.given small'), {words}))")
    page.resize(1280)
    assert rows < page.js("document.querySelector('.items').clientHeight") and broken == 1


def test_the_table_of_contents_stays_in_view(page):
    page.js("document.getElementById('cells').scrollIntoView()")
    seen = page.js("document.querySelector('nav').getBoundingClientRect().toJSON()")
    heading = page.js("document.getElementById('cells').getBoundingClientRect().top")
    assert page.js("scrollY") > 500 and seen["top"] == 0 and heading >= seen["bottom"] - 1


def test_verdict_figure_and_the_first_rows_of_the_table_stand_on_the_first_screen(page):
    """1280 by 800, two cards without a caution: words and numbers of the verdict and the headline figure whole."""
    box = "document.querySelector('{}').getBoundingClientRect()"
    page.resize(1280, 800)
    page.js("document.querySelector('.card > .problem')?.remove()")
    page.js("document.querySelector('.cards').append(document.querySelector('.card').cloneNode(true))")
    cards, figure, row = (
        page.js(box.format(name) + ".toJSON()") for name in (".cards", ".headline img", ".dense tbody tr")
    )
    page.resize(1280)
    assert cards["top"] > 0 and max(cards["bottom"], figure["bottom"]) < row["top"] and row["bottom"] < 800
    assert cards["right"] < figure["left"]
    assert page.js("scrollY") == 0


def test_a_key_has_the_colour_of_the_bars_that_it_explains(page):
    """The cards' bars have labels of the same names in colours of their own."""
    for bar, keys in ((".bars .shares", ".bars-key"), (".card .support", ".card .legend")):
        colours = page.js(
            f"""Array.from(document.querySelectorAll('{keys} .key'), key => {{
                const part = document.querySelector('{bar}').appendChild(document.createElement('span'))
                part.className = key.className.replace('key ', '')
                const [ours, shown] = [key, part].map(e => getComputedStyle(e).backgroundColor)
                part.remove()
                return [ours, shown]
            }})"""
        )
        assert len(colours) > 1 and all(ours == shown for ours, shown in colours)


def test_the_reasons_of_a_verdict_open_by_the_keyboard(page):
    page.js("document.querySelector('.card summary').focus()")
    page.press("Enter")
    assert page.js("document.querySelector('.card details p').checkVisibility()")


@pytest.mark.parametrize("name", ["overview.html", "tables/table1.html", "tables/changes.html"])
def test_the_keyboard_shows_and_hides_the_intervals(browser, results, name):
    """Of tasks and domains, or of every number of a row of the changes."""
    ends = "Array.from(document.querySelectorAll('.dense .ends'))"
    shown = f"{ends}.filter(e => e.checkVisibility()).map(e => e.textContent)"
    browser.open(results / name)
    unfold(browser)
    everything = browser.js(f"{ends}.length")
    assert browser.js(shown) == [] and everything > 20
    browser.js("document.getElementById('ends').focus()")
    assert browser.js("document.activeElement.labels[0].textContent").startswith(" show the 95 % intervals")
    browser.press("Space")
    found = browser.js(shown)
    assert len(found) == everything and len(set(found)) > 3
    assert all(re.fullmatch(r"\[−?[\d.]+, −?[\d.]+\]", text) for text in found)
    browser.press("Space")
    assert browser.js(shown) == []


def test_a_verdict_is_no_larger_than_the_headings(page):
    size = "parseFloat(getComputedStyle(document.querySelector('{}')).fontSize)"
    assert page.js(size.format(".card .word")) < page.js(size.format("h2"))


def test_the_ledger_is_filtered_by_task_outcome_and_text(page):
    rows = "Array.from(document.getElementById('ledger-body').rows"
    shown = f"{rows}, r => r.cells[0].querySelector('small').textContent.split(' · ').slice(0, 2))"
    everything = page.js("document.getElementById('ledger-count').textContent")
    assert everything.startswith("108 items, 50 shown")  # 12 items of 9 tasks
    form = "document.getElementById('ledger-form')"
    page.js(f"{form}.task.value = '2'; {form}.task.dispatchEvent(new Event('input', {{bubbles: true}}))")
    found = page.js(shown)
    assert len(found) == 12 and len({task for task, _ in found}) == 1
    page.js(
        f"{form}.outcome.value = '0'; {form}.outcome.dispatchEvent(new Event('input', {{bubbles: true}}))"
    )
    kept = page.js(shown)
    assert 0 < len(kept) < 12 and {outcome for _, outcome in kept} == {"kept"}
    page.js(f"{form}.reset(); {form}.find.focus()")
    page.write("question 7 of <piqa>")
    assert [task for task, _ in page.js(shown)] == ["piqa"]


def test_choosing_a_method_filters_the_ledger(page):
    """Right and wrong part the items that the method answered; nothing must be set beside it."""
    form = "document.getElementById('ledger-form')"
    names = page.js(f"Array.from({form}.mark.options, o => o.text)")
    assert names[:3] == ["any method, right or wrong", "dense: right", "dense: wrong"]
    counts = []
    for name in ("lora-r4: right", "lora-r4: wrong"):
        chosen = names.index(name)
        page.js(f"{form}.mark.selectedIndex = {chosen}; {form}.dispatchEvent(new Event('input'))")
        counts.append(int(page.js("document.getElementById('ledger-count').textContent").split()[0]))
        mark = "r => r.querySelector('[data-method=lora-r4]').ariaLabel"
        marks = page.js(f"Array.from(document.getElementById('ledger-body').rows, {mark})")
        assert set(marks) == {name.split(": ")[1]}
    assert min(counts) > 0 and sum(counts) == 108


def test_more_of_the_ledger_is_shown_on_demand(page):
    page.js("document.getElementById('ledger-more').focus()")
    page.press("Enter")
    assert page.js("document.getElementById('ledger-body').rows.length") == 100
    page.press("Enter")
    assert page.js("document.getElementById('ledger-body').rows.length") == 108
    assert page.js("document.getElementById('ledger-more').hidden")


def test_a_hostile_answer_is_shown_as_text(page):
    text = page.js("document.getElementById('ledger-body').rows[0].textContent")
    assert "</script><img src=x onerror=window.hacked=1>" in text
    assert page.js("document.querySelectorAll('#ledger-body img').length") == 0


def test_rows_of_a_long_table_are_filtered_as_one_types(page):
    unfold(page)
    rates = "document.querySelector('[aria-label=Rates]')"
    page.js(f"{rates}.previousElementSibling.querySelector('input').focus()")
    page.write("lora-r4 world")
    visible = page.js(
        f"Array.from({rates}.querySelector('table').tBodies[0].rows).filter(r => !r.hidden)"
        ".map(r => [r.cells[4].textContent, r.cells[5].textContent])"
    )
    assert visible == [["lora-r4", "world"]]
    status = page.js(f"{rates}.previousElementSibling.querySelector('[role=status]').textContent")
    assert status.startswith("1 of ")


def test_a_manifest_opens_and_closes_by_the_keyboard(page):
    """Of a cell, inside the folded table of all cells, which the keyboard opens too."""
    page.js("document.querySelector('#cells ~ details summary').focus()")
    page.press("Enter")
    page.js("document.querySelector('[aria-label=Cells] summary').focus()")
    for state in (True, False):
        page.press("Enter")
        assert page.js("document.querySelector('[aria-label=Cells] details').open") is state


def test_the_keyboard_reaches_sections_and_scrolled_tables(page):
    page.js("document.activeElement.blur()")
    page.press("Tab")
    assert page.js("document.activeElement.textContent") == "Verdict"
    page.press("Enter")
    assert page.js("location.hash") == "#verdict"
    reached = set()
    for _ in range(40):
        page.press("Tab")
        reached.add(
            page.js("document.activeElement.getAttribute('aria-label') || document.activeElement.tagName")
        )
    assert {"Table 1. Quantised models: gptq-w3 (3 bits per weight, one grid per row)", "BUTTON"} <= reached


def test_what_has_the_focus_is_seen(page):
    page.js("document.querySelector('thead button').focus()")
    page.press("Tab")
    assert page.js("getComputedStyle(document.activeElement).outlineStyle") not in ("none", "")
