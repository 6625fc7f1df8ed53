"""The pages: configuration that loads, a complete reference, links that lead somewhere, numbers of the audit."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from tests import tiny
from tests.docs.examples import PAGES, ROOT, blocks
from workflow_scripts.evaluate import tasks
from workflow_scripts.judge.verdict import MEANING
from workflow_scripts.plan import config, requests
from workflow_scripts.plan.layout import QUESTIONS
from workflow_scripts.plan.recipes import Plan
from workflow_scripts.plan.schema.problems import json_schema

DOCS = ROOT / "docs"


def hook(name: str):
    """A script of docs/hooks/, which is no package."""
    specification = importlib.util.spec_from_file_location(name, DOCS / "hooks" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


reference, paper = hook("reference"), hook("paper")
SCHEMA = json_schema()
KEYS = [
    (f"{name}.{key}", rule)
    for name, part in (("Config", SCHEMA), *SCHEMA["$defs"].items())
    for key, rule, _ in reference.rows("", part, SCHEMA)
    if "enum" not in rule or len(rule["enum"]) > 1  # not the value that selects the type
]

YAML = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}:{block.line}")
    for page in PAGES
    for block in blocks(page)
    if block.language == "yaml"
]


@pytest.mark.parametrize("block", YAML)
def test_configuration_on_a_page_is_valid(block, tmp_path, monkeypatch):
    if "/" in block.title:  # a file of the product that the page tells to add
        assert block.title.startswith("workflow_scripts/evaluate/tasks/")
        (tmp_path / block.title.rpartition("/")[2]).write_text(block.content)
        monkeypatch.setattr(tasks, "DEFINITIONS", tmp_path)
        definition = tasks.definition(block.title.rpartition("/")[2].removesuffix(".yaml"))
        assert definition["doc_to_text"] in block.content and "doc_to_choice" in definition
        return
    mine = tmp_path / "mine.yaml"
    mine.write_text(block.content)
    under = [tiny.main(tmp_path)] if "models: [tiny]" in block.content else []
    plan = Plan(config.load(config.read(*config.files(*under, mine, root=ROOT))))
    for grid in yaml.safe_load(block.content).get("grids", {}):
        assert plan.cells(grid)


def test_every_key_of_the_configuration_says_what_it_is():
    assert len(KEYS) > 120
    silent = [key for key, rule in KEYS if not rule.get("description")]
    assert not silent, f"plan/schema: no description: {silent}"


def types(rule: dict) -> set[str]:
    return {rule["type"]} if isinstance(rule.get("type"), str) else set(rule.get("type", ()))


def test_every_number_of_the_configuration_has_a_unit():
    numbers = [(key, rule) for key, rule in KEYS if {"integer", "number"} & types(rule)]
    assert len(numbers) > 20
    assert not [key for key, rule in numbers if "unit" not in rule], "plan/schema: no unit"


def test_the_reference_has_every_key_of_the_shipped_configuration():
    page = reference.config()
    shipped = config.read(*config.files(root=ROOT))
    for catalogue, entries in shipped.items():
        for entry in entries.values() if isinstance(entries, dict) else ():
            for key in entry if catalogue != "benchmarks" else {k for task in entry.values() for k in task}:
                assert reference.code(key) in page or f"`{key}` (" in page, f"{catalogue}: {key}"


def test_the_reference_names_every_rule():
    names = [name for name, *_ in reference.blocks()]
    text = "".join(file.read_text() for file in (ROOT / "rules").glob("*.smk"))
    assert len(names) == len(set(names)) == len(re.findall(r"^ *rule\b.*:$", text, re.MULTILINE))
    assert {"fetch_model", "train_adapter", "judge", "plot_figures", "report_grid"} <= set(names)
    where = {name: where for name, _, where in reference.blocks()}
    assert where["fetch_model"] == "main process" and where["evaluate_cell"] == "a job"
    assert where["judge"] == "main process, or a job in `cpu_partition`"


FILES = sorted((ROOT / "workflow_scripts" / "files" / "schemas").glob("*.schema.yaml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_key_of_a_file_says_what_it_is(file):
    root = yaml.safe_load(file.read_text())
    keys = [(key, rule) for key, rule, _ in reference.rows("", root, root)]
    silent = [key for key, rule in keys if not rule.get("description")]
    assert keys and not silent, f"{file.name}: no description: {silent}"


def test_files_stand_where_the_rules_write_them():
    made = {
        re.sub(r"\{+\w+\}+", "*", path)
        for _, text, _ in reference.blocks()
        for path in reference.outputs(text)
    }
    for name, path in reference.FORMATS.items():
        assert (ROOT / "workflow_scripts" / "files" / "schemas" / f"{name}.schema.yaml").is_file()
        for file in path.split("` and `"):
            # by a person, by a run as it starts, and by the command adopt
            by_hand = (str(requests.SITE), QUESTIONS.path("<grid>"), "results/<grid>/adopted.json")
            assert re.sub(r"<\w+>", "*", file) in made or file in by_hand, file


def test_every_mark_is_replaced():
    marks = [mark for page in PAGES for mark in reference.MARK.findall(page.read_text())]
    assert sorted(marks) == sorted(reference.PARTS)
    for mark in marks:
        text = reference.on_page_markdown(f"a\n\n<!-- reference: {mark} -->\n")
        assert "<!--" not in text and text.count("\n") > 5
    assert all(f"`{word}`" in reference.verdicts() for word in MEANING)


def test_every_page_is_in_the_navigation():
    navigation = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text())
    pages = [str(page.relative_to(DOCS)) for page in PAGES if page.is_relative_to(DOCS)]
    assert sorted(navigation) == sorted(pages)


def anchors(page) -> set[str]:
    text = reference.on_page_markdown(page.read_text())
    named = set(re.findall(r"^#+ .*\{#([\w.-]+)\}$", text, re.MULTILINE))
    heads = re.findall(r"^#+ ([^{\n]+)$", text, re.MULTILINE)
    return named | {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", head).strip().lower()) for head in heads}


def test_every_link_between_pages_leads_somewhere():
    links = [(page, link) for page in PAGES for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text())]
    assert len(links) > 10
    for page, link in links:
        if not link.startswith("http"):
            file, _, anchor = link.partition("#")
            target = (page.parent / file).resolve() if file else page
            assert target.exists(), f"{page}: {link}"
            assert not anchor or anchor in anchors(target), f"{page}: {link}"


def test_the_readme_counts_cells_and_adapters_as_they_are_planned():
    plan = Plan(config.load(config.read(*config.files(root=ROOT))))
    rows = re.findall(r"^\| `([\w-]+)` \| (\d+) \| (\d+) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert {name for name, *_ in rows} == plan.config.grids.keys()
    for name, cells, adapters in rows:
        assert (int(cells), int(adapters)) == (len(plan.cells(name)), len(plan.adapters(name))), name


def test_the_numbers_on_the_paper_are_those_of_the_audit():
    page = (DOCS / "explanation" / "paper.md").read_text()
    assert page == paper.page(page), "run: python docs/hooks/paper.py"
    own = page[: page.index(paper.BEGIN)] + page[page.index(paper.END) :]
    assert re.findall(r"\d+\.\d+", own) == ["6.7", "3.3", "4.2"]  # OPT's size and two sections, no result


def test_messages_and_states_are_the_products_own():
    page = (DOCS / "reference" / "states.md").read_text()
    source = "".join(
        file.read_text()
        for file in [*(ROOT / "workflow_scripts").rglob("*.py"), *(ROOT / "rules").glob("*.smk")]
    )
    states = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert len(states) > 8
    for state in states:
        if state == "Directory cannot be locked":
            import snakemake.persistence

            source += Path(snakemake.persistence.__file__).read_text()
        parts = re.split(r"<\w+>: <\w+>: <\w+> \(log: <\w+>\)|\.\.\.|\d+ of \d+", state)
        assert all(part.strip(" ()") in source for part in parts), state


def test_every_test_that_a_page_names_is_there():
    named = {
        (file, name)
        for page in PAGES
        for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text())
    }
    assert len(named) > 25
    absent = [f"{file}::{name}" for file, name in named if f"def {name}(" not in (ROOT / file).read_text()]
    assert not absent
