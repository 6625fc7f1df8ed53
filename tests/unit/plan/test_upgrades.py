"""Results of an older code: which of them differ in their code alone, and what a plan makes of the evidence."""

from collections import Counter
from pathlib import Path

import pytest

from workflow_scripts.commands.adopt import _equivalence
from workflow_scripts.files.artifacts import ArtifactError, read_json, recorded_digest, write_json
from workflow_scripts.plan.adopted import (
    TEXTS,
    equivalences,
    equivalent_codes,
    of_part,
    record_path,
    write_rows,
)
from workflow_scripts.plan.config import files, load, read
from workflow_scripts.plan.layout import BENCHMARK, CORPUS, EVALUATION, LATENCY, MODEL, Cell, companions
from workflow_scripts.plan.recipes import Plan
from workflow_scripts.plan.reruns import Reruns
from workflow_scripts.plan.upgrades import artefact_of, as_if, kinds_of, older_results, outdated_by, outvoted

ROOT = Path(__file__).parents[3]
GPTQ = "gptq group_size act_order static_groups"
CELL = Cell("smoke", "smollm2-135m", "gptq-w3-g64", "wikipedia", "lora-r2", 0)


@pytest.fixture(scope="module")
def config():
    config = read(*files(root=ROOT))
    config["grids"]["smoke"]["latency"] = config["grids"]["bench"]["latency"]
    return load(config)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def codes(plan: Plan) -> dict[str, str]:
    """Path of each artefact of `smoke` -> digest of today's code."""
    return {path: code for path, (_, code, _) in places(plan).items()}


def places(plan: Plan) -> dict[str, tuple[bool, str, str]]:
    """Path of each artefact of `smoke` -> whether all grids share it, digest of today's code, kind of method."""
    reruns, found = Reruns(plan, set), {}
    for path in plan.artefacts("smoke"):
        artefact, names = artefact_of(path)
        shared = artefact in (MODEL, CORPUS, BENCHMARK)
        found[path] = shared, reruns.arguments(artefact, names)["code"], kinds_of(plan, artefact, names)[0]
    return found


def older(letter: str, code: str) -> str:
    """The digest of an older version of a code."""
    return letter * 8 + code[8:]


def make(plan: Plan, letter: str, only=lambda path: True) -> None:
    """The results of `smoke` as an older version of every code made them."""
    today = codes(plan)
    by = {place: older(letter, place[1]) for place in places(plan).values()}
    recipes = as_if(plan, by).artefacts("smoke")
    for path in filter(only, today):
        made = {"code": older(letter, today[path]), "recipe": recipes[path]}
        write_json(path, made if path.startswith("resources/") else {"manifest": made})
        for file in companions(path):
            Path(file).touch()


def make_one(plan: Plan, path: str, letter: str) -> None:
    """One result as an older version of its own code alone made it."""
    place = places(plan)[path]
    code = older(letter, place[1])
    recipe = as_if(plan, {place: code}).artefacts("smoke")[path]
    write_json(path, {"manifest": {"code": code, "recipe": recipe}})
    for file in companions(path):
        Path(file).touch()


def record(found: list, grid: str | None, tasks: list[str] | None = None) -> None:
    """The evidence that `adopt` writes. tasks: that the cells were asked; None: of a release, which holds for all."""
    rows = {
        (result.new, result.kind): {
            "rule": result.artefact.rule,
            "kinds": [result.kind],
            "old": result.old,
            "new": result.new,
            "results": 1,
            "compared": [],
            "machine": {"host": "h", "cpu": "c", "python": "3"},
            "user": "me",
            "time": "now",
            **({"tasks": tasks} if tasks and result.artefact == EVALUATION else {}),
        }
        for result in found
        if result.shared == (grid is None)
    }
    write_rows(Path(record_path(grid)), [*equivalences(grid), *rows.values()])


def test_nothing_is_older_before_a_run_and_after_one(config):
    plan = Plan(config)
    assert older_results(plan, "smoke") == []
    for path, recipe in plan.artefacts("smoke").items():
        made = {"code": codes(plan)[path], "recipe": recipe}
        write_json(path, made if path.startswith("resources/") else {"manifest": made})
    assert older_results(plan, "smoke") == []


def test_results_that_differ_in_their_code_alone_are_found_but_no_timings(config):
    plan = Plan(config)
    make(plan, "0")
    found = older_results(plan, "smoke")
    assert {result.path for result in found} == {p for p in plan.artefacts("smoke") if not LATENCY.parse(p)}
    assert all(result.old == older("0", result.new) for result in found)
    kinds = Counter(result.kind for result in found if result.artefact.rule == "evaluate_cell")
    each = {"none": 1, "lora": 1, "prompt": 2, "prefix": 1, "idp": 1, "concat": 1}
    stored = (GPTQ, "sparsegpt sparsity")
    assert kinds == {"none on dense": 1} | {f"{kind} on {of}": n for kind, n in each.items() for of in stored}


def test_a_result_of_another_setting_or_input_is_none(config):
    make(Plan(config), "0")
    raw = config.dump()
    raw["methods"]["lora-r2"]["alpha"] = 3
    raw["compressors"]["sparsegpt-50"]["sparsity"] = 0.4
    found = older_results(Plan(load(raw)), "smoke")
    assert found
    assert not [
        result.path for result in found if "/lora-r2/" in result.path or "/sparsegpt-50/" in result.path
    ]


def test_an_evaluation_without_its_samples_is_none(config):
    make(Plan(config), "0")
    Path(companions(CELL.json)[0]).unlink()
    assert CELL.json not in {result.path for result in older_results(Plan(config), "smoke")}


def test_with_evidence_results_are_as_planned_and_the_manifest_still_gets_todays_code(config):
    make(Plan(config), "0")
    found = older_results(Plan(config), "smoke")
    record(found, None)
    record(found, "smoke")
    plan, forced = Plan(config), set()
    assert older_results(plan, "smoke") == []
    reruns = Reruns(plan, lambda: forced)
    for result in found:
        assert reruns.is_finished(result.artefact, result.names), result.path
        reruns.force_if_outdated(result.artefact, result.names)
    assert forced == set()
    assert plan.evaluate(CELL)["code"] == Plan(config, lambda grid: {}).evaluate(CELL)["code"]
    assert {*plan.adopted_codes(CELL).values()} == {older("0", plan.evaluate(CELL)["code"])}
    assert Plan(config, lambda grid: {}).adopted_codes(CELL) == {}


def test_evidence_of_one_grid_and_one_code_says_nothing_of_others(config):
    make(Plan(config), "0")
    found = older_results(Plan(config), "smoke")
    record([result for result in found if not result.kind.startswith("lora")], "smoke")
    plan, bare = Plan(config), Plan(config, lambda grid: {})
    other = CELL._replace(grid="bench")
    assert plan.evaluate_recipe(other) == bare.evaluate_recipe(other)
    lora = bare.train(CELL)["code"]
    assert (lora, bare.adapter_kind(CELL)) not in equivalent_codes("smoke")
    assert {
        result.kind for result in older_results(plan, "smoke") if result.artefact.rule == "train_adapter"
    } == {f"lora on {GPTQ}", "lora on sparsegpt sparsity"}


def test_evidence_of_one_kind_of_method_says_nothing_of_another_of_the_same_code(config):
    """One digest serves cells without a method and with prompts. Prompts' cells that come later, by a restore or with
    another block, were not compared."""
    make(Plan(config), "0", only=lambda path: "/evaluations/" not in path or "/none/" in path)
    found = older_results(Plan(config), "smoke")
    assert {result.kind for result in found if result.artefact.rule == "evaluate_cell"} == {
        f"none on {of}" for of in ("dense", GPTQ, "sparsegpt sparsity")
    }
    record(found, None)
    record(found, "smoke")
    make(Plan(config, lambda grid: {}), "0", only=lambda path: "/prompt-" in path)
    none, prompt = CELL._replace(method="none"), CELL._replace(method="prompt-50")
    plan = Plan(config)
    assert plan.evaluate(none)["code"] == plan.evaluate(prompt)["code"]
    assert plan.evaluate_recipe(none) == recorded_digest(none.json, "recipe")
    assert plan.evaluate_recipe(prompt) != recorded_digest(prompt.json, "recipe")
    assert prompt.json in {result.path for result in older_results(plan, "smoke")}


def test_evidence_holds_for_the_models_whose_results_were_there(config):
    """An edit of one architecture was adopted by results of another: results of the first that came later, restored
    from an archive, counted as planned though nobody had compared any."""
    raw = config.dump()
    raw["models"]["other"] = raw["models"]["smollm2-135m"]
    raw["grids"]["smoke"]["blocks"]["core"]["models"].append("other")
    both, later = load(raw), CELL._replace(model="other")

    def comes_later(path: str) -> bool:
        return path.startswith("results/") and "/other/" in path

    make(Plan(both), "0", only=lambda path: not comes_later(path))
    found = older_results(Plan(both), "smoke")
    record(found, None)
    rows = [_equivalence(Plan(both), [one], []) for one in found if not one.shared]
    write_rows(Path(record_path("smoke")), rows)
    make(Plan(both, lambda grid: {}), "0", only=comes_later)
    plan = Plan(both)
    assert plan.evaluate_recipe(CELL) == recorded_digest(CELL.json, "recipe")
    mine = (plan.compression(later), later.training, later.json)
    assert [path for path in mine if plan.artefacts("smoke")[path] == recorded_digest(path, "recipe")] == []
    assert plan.adopted_codes(later) == {} != plan.adopted_codes(CELL)
    assert {*mine} <= {result.path for result in older_results(plan, "smoke")}


def test_evidence_of_evaluations_holds_for_the_tasks_that_were_compared(config):
    """An edit of generation was adopted by cells that generate nothing. Then a task that generates was added: some
    cells took its answers from another grid's, by the older code, others were evaluated by today's."""
    make(Plan(config), "0")
    *compared, added = config.grids["smoke"].tasks
    found = older_results(Plan(config), "smoke")
    record(found, None)
    record(found, "smoke", compared)
    plan = Plan(config)
    assert plan.train_recipe(CELL) == recorded_digest(CELL.training, "recipe")
    assert plan.evaluate_recipe(CELL) != recorded_digest(CELL.json, "recipe")
    codes = plan.adopted_codes(CELL)
    assert {*codes} == {*(f"benchmark {task}" for task in compared), "corpus wikipedia"}
    assert {*codes.values()} == {older("0", plan.evaluate(CELL)["code"])}
    again = older_results(plan, "smoke")
    assert {result.artefact for result in again} == {EVALUATION} and CELL.json in {r.path for r in again}
    record(again, "smoke", [*compared, added])
    assert older_results(Plan(config), "smoke") == []
    assert f"benchmark {added}" in Plan(config).adopted_codes(CELL)


def test_a_task_is_taken_over_from_the_first_code_of_its_chain(config):
    """Two upgrades with a task added between them: the first tasks' answers bear the code of before both."""
    bare = Plan(config, lambda grid: {})
    today, kind = bare.evaluate(CELL)["code"], bare.evaluation_kind(CELL)
    first, *_ = config.grids["smoke"].tasks
    parts = [of_part(kind, part) for part in (*config.grids["smoke"].tasks, TEXTS)]
    known = {(today, part): "b" * 64 for part in parts} | {("b" * 64, parts[0]): "a" * 64}
    codes = Plan(config, lambda grid: known).adopted_codes(CELL)
    assert codes.pop(f"benchmark {first}") == "a" * 64 and {*codes.values()} == {"b" * 64}
    assert Plan(config, lambda grid: known | {("a" * 64, parts[0]): today}).adopted_codes(CELL)


def test_kinds_of_one_code_that_two_older_codes_made_are_both_found(config):
    make(Plan(config), "0", only=lambda path: "/none/" in path or "/evaluations/" not in path)
    plan = Plan(config)
    recipes = as_if(
        plan, {p: older("2" if p[2].startswith("prompt on") else "0", p[1]) for p in places(plan).values()}
    ).artefacts("smoke")
    for path, (_, code, kind) in places(plan).items():
        if kind.startswith("prompt on") and ("/evaluations/" in path or "/adapters/" in path):
            write_json(path, {"manifest": {"code": older("2", code), "recipe": recipes[path]}})
            for file in companions(path):
                Path(file).touch()
    found = {
        r.kind.split()[0]: r.old[:8]
        for r in older_results(plan, "smoke")
        if r.artefact.rule == "evaluate_cell"
    }
    assert found == {"none": "0" * 8, "prompt": "2" * 8}


def test_evidence_of_two_upgrades_leads_back_to_the_code_that_made_the_results(config):
    """0 made everything, 1 was adopted and made a cell more, today's code is asked about both."""
    today = Plan(config)
    make(today, "0", only=lambda path: "concat" not in path)
    now = codes(today)
    for shared, grid in ((True, None), (False, "smoke")):
        rows = [
            {
                "rule": "r",
                "kinds": [kind],
                "old": older("0", code),
                "new": older("1", code),
                "results": 1,
                "compared": [],
                "machine": {"host": "h", "cpu": "c", "python": "3"},
                "user": "me",
                "time": "now",
            }
            for place, code, kind in {*places(today).values()}
            if place == shared
        ]
        write_rows(Path(record_path(grid)), rows)
    by = {place: older("0", place[1]) for place in places(today).values()}
    recipes = as_if(Plan(config), by).artefacts("smoke")
    for path in (p for p in now if "concat" in p):
        write_json(path, {"manifest": {"code": older("1", now[path]), "recipe": recipes[path]}})
        Path(companions(path)[0]).touch()
    found = older_results(Plan(config), "smoke")
    assert {result.path for result in found} == {p for p in now if not LATENCY.parse(p)}
    assert {result.old[:8] for result in found} == {"0" * 8}


def test_of_several_older_codes_that_of_most_results_is_asked_about(config):
    plan = Plan(config)
    make(plan, "0")
    make(plan, "2", only=lambda path: path.endswith("/lora-r2/seed-0.json") and "gptq" in path)
    found = older_results(Plan(config), "smoke")
    assert {result.old[:8] for result in found} == {"0" * 8}
    assert CELL.json not in {result.path for result in found}


def test_an_adopted_code_is_not_asked_again_because_of_a_few_results_of_another(config):
    """Each adoption took the one before it back, for a recipe takes one code of a kind."""
    make(Plan(config), "0")
    record(found := older_results(Plan(config), "smoke"), None)
    record(found, "smoke")
    plan = Plan(config)
    one = CELL._replace(method="prompt-50").json  # of two results of its kind
    make_one(plan, one, "2")
    assert [result.path for result in outvoted(plan, "smoke")] == [one]
    assert older_results(plan, "smoke") == []
    by = {result.place: result.old for result in outvoted(plan, "smoke")}
    others = set(outdated_by(plan, as_if(plan, by), "smoke"))
    assert others and all("/evaluations/" in path and "/prompt-100/" in path for path in others)


def test_results_of_todays_code_stay_if_they_are_more(config):
    plan = Plan(config)
    recipes, now, one = plan.artefacts("smoke"), codes(plan), CELL._replace(method="prompt-50").json
    for path in now:
        if path != one and not LATENCY.parse(path):
            made = {"code": now[path], "recipe": recipes[path]}
            write_json(path, made if path.startswith("resources/") else {"manifest": made})
            for file in companions(path):
                Path(file).touch()
    make_one(plan, one, "0")
    assert older_results(plan, "smoke") == []
    assert [result.path for result in outvoted(plan, "smoke")] == [one]


def test_two_sets_of_a_tasks_data_are_two_kinds(config):
    names = [{"benchmarks": data, "task": "arc_easy"} for data in ("pypi", "hub")]
    assert len({kinds_of(Plan(config), BENCHMARK, of)[0] for of in names}) == 2


def test_evidence_that_was_changed_is_refused(config):
    make(Plan(config), "0")
    record(older_results(Plan(config), "smoke"), "smoke")
    path = Path(record_path("smoke"))
    value = read_json(path)
    path.write_text(path.read_text().replace(value["equivalences"][0]["old"], "f" * 64))
    with pytest.raises(ArtifactError, match=r"results/smoke/adopted\.json: was changed after it was written"):
        Plan(config).evaluate(CELL)


def test_the_page_is_told_of_the_evidence_that_a_release_brings_for_cells(shipped, monkeypatch):
    rows = [
        {"rule": rule, "old": "a", "new": "b", "kinds": ["none"]}
        for rule in ("evaluate_cell", "train_adapter")
    ]
    monkeypatch.setattr("workflow_scripts.plan.adopted.released", lambda: rows)
    assert Plan(shipped).analysis("smoke", "draw_page")["adopted"] == rows[:1]
