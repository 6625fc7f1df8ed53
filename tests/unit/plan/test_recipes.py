"""grid: cells, their inputs, and recipes that change exactly with what determines an artefact."""

from workflow_scripts.plan.config import files, load, named_files
from workflow_scripts.plan.digests import MODULES
from workflow_scripts.plan.forecast import foreseen
from workflow_scripts.plan.layout import Cell
from workflow_scripts.plan.recipes import ANALYSIS, Plan
from workflow_scripts.plan.reruns import Reruns
from workflow_scripts.plan.schema.problems import json_schema
from workflow_scripts.plan.slices import UNTRAINED
from workflow_scripts.report.figure_style import FAMILIES
from workflow_scripts.report.tables import TYPES


def changed_recipes(before: Plan, after: Plan, grid: str) -> tuple[set, set, set]:
    """(compressed, adapters, cells) whose recipes differ between two plans of a grid."""
    compressed = {
        cell[:4]
        for cell in before.cells(grid)
        if before.compressed_recipe(cell) != after.compressed_recipe(cell)
    }
    adapters = {a[1:] for a in before.adapters(grid) if before.train_recipe(a) != after.train_recipe(a)}
    cells = {c[1:] for c in before.cells(grid) if before.evaluate(c)["recipe"] != after.evaluate(c)["recipe"]}
    return compressed, adapters, cells


def edited(config, path, value):
    config = part = config.dump()
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return Plan(load(config))


def test_members_of_other_text_are_trained_on_the_cells_own_weights(shipped):
    """The path's corpus is the calibration corpus; the method's is the text alone."""
    plan = Plan(shipped)
    cell = Cell("bench", "smollm2-135m", "gptq-w3-g64", "wikipedia", "idp-50-corpora", 0)
    members = plan.members(cell)
    assert [plan.training_text(member).corpus for member in members] == ["wikipedia", "c4-sample"]
    assert {plan.compression(member) for member in members} == {plan.compression(cell)}
    other = edited(shipped, ["corpora", "c4-sample", "file"], "exllamav3/conversion/other.utf8")
    assert [plan.train_recipe(m) == other.train_recipe(m) for m in members] == [True, False]
    assert plan.compressed_recipe(cell) == other.compressed_recipe(cell)
    assert plan.evaluate_recipe(cell) != other.evaluate_recipe(cell)


def test_the_learning_rate_of_one_method_changes_its_adapters_and_cells_alone(shipped):
    after = edited(shipped, ["methods", "prompt-50", "training"], {"learning_rate": 0.02})
    compressed, adapters, cells = changed_recipes(Plan(shipped), after, "smoke")
    assert not compressed
    assert {a[3] for a in adapters} == {"prompt-50"} and len(adapters) == 2
    assert {c[3] for c in cells} == {"prompt-50", "idp-50-100", "concat-50-100"} and len(cells) == 6


def test_adding_a_method_a_task_set_or_a_model_changes_nothing_else(shipped):
    for path, value in (
        (["methods", "prompt-7"], {"kind": "prompt", "tokens": 7}),
        (["tasks", "copa"], {"domain": "common"}),
        (["models", "other"], {"source": "local", "path": "x", "parameters": 1e6}),
        (["benchmarks", "mine"], {"arc_easy": {"source": "local", "path": "x"}}),
        (["compressors", "gptq-w2-mine"], {"algorithm": "gptq", "bits": 2}),
        (["activation_memory"], 0.5),
    ):
        assert changed_recipes(Plan(shipped), edited(shipped, path, value), "smoke") == (set(), set(), set())


def test_a_compressor_setting_changes_everything_that_stands_on_it(shipped):
    after = edited(shipped, ["compressors", "gptq-w3-g64", "damping"], 0.1)
    compressed, adapters, cells = changed_recipes(Plan(shipped), after, "smoke")
    assert {key[2] for key in compressed} == {"gptq-w3-g64"}
    assert {a[1] for a in adapters} == {c[1] for c in cells} == {"gptq-w3-g64"}
    assert (len(adapters), len(cells)) == (4, 7)


def test_the_precision_of_forward_passes_is_in_the_slice_only_where_it_is_named(shipped):
    assert (
        "forward"
        not in Plan(shipped).compress("smoke", "smollm2-135m", "gptq-w3-g64", "wikipedia", "0")["compressor"]
    )
    after = edited(shipped, ["compressors", "gptq-w3-g64", "forward"], "bf16")
    compressed, _, _ = changed_recipes(Plan(shipped), after, "smoke")
    assert {key[2] for key in compressed} == {"gptq-w3-g64"}


def test_a_chat_changes_a_models_evaluations_alone(shipped):
    before = Plan(shipped)
    plain = edited(shipped, ["models", "smollm2-135m", "chat"], False)
    chat = edited(shipped, ["models", "smollm2-135m", "chat"], True)
    cells = before.cells("smoke")
    assert all(plain.evaluate(cell) == before.evaluate(cell) for cell in cells)
    assert "chat" not in before.evaluate(cells[0])
    assert changed_recipes(before, chat, "smoke") == (set(), set(), {cell[1:] for cell in cells})
    assert all(chat.evaluate(cell)["chat"] is True for cell in cells)
    assert chat.recipe("models", "smollm2-135m") == before.recipe("models", "smollm2-135m")
    for cell in before.similarity_cells("smoke"):
        assert chat.similarity(cell) == before.similarity(cell)


def test_items_change_cells_but_not_adapters(shipped):
    after = edited(shipped, ["grids", "smoke", "evaluation", "items"], 11)
    compressed, adapters, cells = changed_recipes(Plan(shipped), after, "smoke")
    assert not compressed and not adapters and len(cells) == 15


def test_what_no_result_depends_on_is_in_no_recipe(shipped):
    before = Plan(shipped)
    for path in (
        ["models", "smollm2-135m", "note"],
        ["corpora", "wikipedia", "licence"],
        ["benchmarks", "pypi", "sciq", "note"],
    ):
        after = edited(shipped, path, "other words")
        assert after.artefacts("bench") == before.artefacts("bench"), path
        assert "other words" in after.details(*path[:-1]).values()
    after = edited(shipped, ["training", "bench", "checkpoint_minutes"], 30)
    assert after.artefacts("bench") == before.artefacts("bench")


def test_the_text_that_teaches_an_idp_to_choose_is_an_input_of_its_cells(shipped):
    """On the dense model, with members of other text, nothing else stands on the path's corpus."""
    plan = Plan(shipped)
    place = Cell("bench", "smollm2-135m", "dense", "wikitext2", "idp-50-corpora", 0)
    after = edited(shipped, ["corpora", "wikitext2", "heldout"], "validation")
    for method, changes in (("idp-50-corpora", False), ("idp-50-corpora-learned", True)):
        cell = place._replace(method=method)
        assert (plan.evaluate_recipe(cell) != after.evaluate_recipe(cell)) == changes
        files = Reruns(plan, set).centring_text({**cell._asdict(), "seed": "0"})
        assert [file.path for file in files] == ["resources/corpora/wikitext2/manifest.json"] * changes


def test_a_fetch_checks_the_templates_that_a_method_fills_in(shipped):
    config = shipped.dump()
    smoke = config["grids"]["smoke"]
    config["grids"] = {"smoke": smoke}
    plain = {"task": "sciq_closed", "num_fewshot": None, "strata": {}}
    assert Plan(load(config)).variant("sciq-closed") == plain
    smoke["tasks"].append("sciq-closed")
    smoke["blocks"]["core"]["methods"].append("open-book")
    assert Plan(load(config)).variant("sciq-closed") == plain | {"context": "{{ support.lstrip() }}\n"}
    smoke["blocks"]["core"]["methods"].append("lora-r4-triviaqa-even")
    assert len(Plan(load(config)).variant("triviaqa")["wordings"]) == 3
    assert Plan(load(config)).variant("nobody") == {}


def test_a_passage_is_given_to_the_open_book_cells_alone(shipped):
    config = shipped.dump()
    smoke = config["grids"]["smoke"]
    smoke["tasks"].append("sciq-closed")
    smoke["blocks"]["core"]["methods"].append("open-book")
    plan = Plan(load(config))
    assert plan.analysis("smoke", "find_answers")["contexts"] == {"sciq-closed": "{{ support.lstrip() }}\n"}
    assert "contexts" not in Plan(shipped).analysis("smoke", "find_answers")
    (cell,) = (c for c in plan.cells("smoke") if c[2:5] == ("gptq-w3-g64", "wikipedia", "open-book"))
    given = plan.evaluate(cell)["tasks"]
    assert [task for task in given if "context" in given[task]] == ["sciq-closed"]
    assert all(
        "context" not in task for task in plan.evaluate(cell._replace(method="none"))["tasks"].values()
    )
    assert plan.members(cell) == []
    after = edited(plan.config, ["tasks", "sciq-closed", "context"], "{{ support }}\n\n")
    compressed, adapters, cells = changed_recipes(plan, after, "smoke")
    assert not compressed and not adapters and {c[3] for c in cells} == {"open-book"}


def with_facts(shipped):
    config = shipped.dump()
    config["grids"]["smoke"]["blocks"]["core"]["methods"].append("lora-r4-triviaqa-even")
    return load(config)


def test_an_adapter_of_a_tasks_items_stands_on_these_and_their_wordings(shipped):
    """The path's corpus still calibrates the weights; no evaluation depends on the wordings."""
    plan = Plan(with_facts(shipped))
    (adapter,) = (
        a for a in plan.adapters("smoke") if a[2:5] == ("gptq-w3-g64", "wikipedia", "lora-r4-triviaqa-even")
    )
    assert plan.train(adapter)["method"]["corpus"] == {"task": "triviaqa", "part": "even"}
    assert plan.train(adapter)["scored"] == {"triviaqa": 10}  # no other is trained on
    (text,) = (Reruns(plan, set).training_text({**adapter._asdict(), "seed": "0"}),)
    assert text == (
        "resources/benchmarks/pypi/triviaqa/manifest.json",
        plan.recipe("benchmarks", "pypi", "triviaqa"),
    )
    after = edited(plan.config, ["tasks", "triviaqa", "wordings"], ["{{ question }} {{ answer.value }}"])
    compressed, adapters, cells = changed_recipes(plan, after, "smoke")
    assert not compressed and {a[3] for a in adapters} == {c[3] for c in cells} == {"lora-r4-triviaqa-even"}
    assert "wikipedia" in {name for names in plan.training_corpora("smoke").values() for name in names}


def test_an_adapter_of_a_family_stands_on_its_tasks_and_on_how_many_items_are_scored(shipped):
    config = shipped.dump()
    config["grids"]["smoke"]["blocks"]["core"]["methods"] += [
        "prompt-50-trivia",
        "prompt-50-science",
        "idp-50-families",
    ]
    config["grids"]["smoke"]["tasks"].remove("webqs")
    plan = Plan(load(config))
    (adapter,) = (
        a for a in plan.adapters("smoke") if a[2:5] == ("gptq-w3-g64", "wikipedia", "prompt-50-trivia")
    )
    assert plan.train(adapter)["scored"] == dict.fromkeys(plan.tasks("smoke"), 10)  # any might ask the same
    reruns, names = Reruns(plan, set), {**adapter._asdict(), "seed": "0"}
    assert reruns.training_text(names) == reruns.corpus("wikipedia")  # on whose held-out text it is watched
    assert reruns.family(names) == [reruns.benchmark("smoke", task) for task in ("webqs", "triviaqa")]
    assert reruns.asked(names) == reruns.benchmarks(names)
    other = edited(plan.config, ["benchmarks", "pypi", "piqa", "items"], 1837)  # of a scored task
    assert {a[3] for a in changed_recipes(plan, other, "smoke")[1]} == {
        "prompt-50-trivia",
        "prompt-50-science",
    }
    assert "resources/benchmarks/pypi/webqs/manifest.json" in plan.artefacts("smoke")  # fetched, not scored
    after = edited(plan.config, ["grids", "smoke", "evaluation", "items"], 11)
    _, adapters, _ = changed_recipes(plan, after, "smoke")
    assert {a[3] for a in adapters} == {"prompt-50-trivia", "prompt-50-science"}


def test_a_repair_depends_on_weights_and_calibration_text_and_on_no_training_budget(shipped):
    config = shipped.dump()
    methods = config["grids"]["smoke"]["blocks"]["core"]["methods"]
    methods += ["eora-r4", "lora-r4-eora", "lora-r4"]
    plan = Plan(load(config))
    cells = {a.method: a for a in plan.adapters("smoke") if a.compressor == "gptq-w3-g64"}
    eora, start, lora = (cells[name] for name in ("eora-r4", "lora-r4-eora", "lora-r4"))
    assert (
        plan.train(eora)["calibration"] == plan.train(start)["calibration"] == {"windows": 16, "length": 512}
    )
    assert "calibration" not in plan.train(lora)
    assert sorted(plan.train(eora)["training"]) == sorted(UNTRAINED)
    budget = edited(plan.config, ["training", "smoke", "tokens"], 20480)
    assert budget.train_recipe(eora) == plan.train_recipe(eora)
    assert budget.train_recipe(start) != plan.train_recipe(start)
    windows = edited(plan.config, ["grids", "smoke", "calibration", "windows"], 17)
    uncalibrated = eora._replace(compressor="rtn-w3")
    assert windows.train_recipe(uncalibrated) != plan.train_recipe(uncalibrated)
    assert [plan.repairs(cell) for cell in (eora, start, lora)] == [True, True, False]


def test_a_path_reaches_the_job_though_no_recipe_holds_it(shipped):
    after = edited(shipped, ["models", "mine"], {"source": "local", "path": "a", "parameters": 1e6})
    assert after.details("models", "mine") == {"path": "a"}
    assert after.fetch("models", "mine")["spec"] == {"source": "local", "allow_remote_code": False}


def test_a_grids_description_changes_the_pages_that_show_it_alone(shipped):
    before, after = Plan(shipped), edited(shipped, ["grids", "smoke", "description"], "Other words.")
    assert after.artefacts("smoke") == before.artefacts("smoke")
    changed = [
        entry
        for entry in (*ANALYSIS, "report_grid")
        if after.analysis("smoke", entry)["recipe"] != before.analysis("smoke", entry)["recipe"]
    ]
    assert changed == ["draw_page", "report_grid"]


def test_few_shot_changes_the_tasks_of_its_cells_alone(shipped):
    cell = Cell("bench", "smollm2-135m", "gptq-w3-g64", "wikipedia", "fewshot-4", 0)
    plan = Plan(shipped)
    assert cell in plan.cells("bench")
    assert {task["num_fewshot"] for task in plan.evaluate(cell)["tasks"].values()} == {4}
    assert {
        task["num_fewshot"] for task in plan.evaluate(cell._replace(method="none"))["tasks"].values()
    } == {None}
    assert plan.members(cell) == [] and plan.adapters("bench") == Plan(shipped).adapters("bench")


def test_every_kind_of_method_has_its_modules_its_type_in_the_tables_and_its_marks_in_the_figures():
    methods = json_schema()["properties"]["methods"]["additionalProperties"]
    kinds = set(methods["discriminator"]["mapping"])
    assert kinds == set(MODULES) == set(TYPES) == set(FAMILIES)
    assert len(FAMILIES) == len({marker for _, _, marker, _ in FAMILIES.values()})


def test_a_reports_commands_carry_the_options_of_its_run(shipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = named_files([tmp_path / "mine.yaml", "/elsewhere/more.yaml", *files(root=tmp_path)])
    assert named == ["mine.yaml", "/elsewhere/more.yaml"]
    assert Plan(shipped).command("bench") == "snakemake"
    plan = Plan(
        shipped.model_copy(update={"grid": "bench", "blocks": ["core", "seeds"], "called_with": named})
    )
    asked = "snakemake --configfile mine.yaml /elsewhere/more.yaml"
    assert plan.command("bench") == f"{asked} --config grid=bench 'blocks=[core,seeds]' --"
    assert plan.command("smoke") == f"{asked} --"
    assert plan.command("smoke", "--force") == asked.replace("snakemake", "snakemake --force") + " --"
    assert plan.make("forecast", "bench") == (
        "make forecast GRID=bench BLOCKS=core,seeds 'CONFIG=mine.yaml /elsewhere/more.yaml'"
    )
    assert (
        foreseen(plan, "smoke").command == "make forecast GRID=smoke 'CONFIG=mine.yaml /elsewhere/more.yaml'"
    )
