"""Today's code beside a release: a stage that makes other numbers is found, and must be in the changelog."""

import subprocess
from pathlib import Path

import pytest

from tests import equivalences, tiny_sources
from tests.workflow.conftest import Checkout, product_copy
from tests.workflow.test_adopt import UNMERGED, edit
from workflow_scripts.plan import adopted
from workflow_scripts.plan.config import files, load, read
from workflow_scripts.plan.layout import KINDS
from workflow_scripts.plan.recipes import ANALYSIS, Plan
from workflow_scripts.plan.reruns import Reruns
from workflow_scripts.plan.upgrades import SOURCES, artefact_of, as_if, kinds_of


@pytest.mark.slow
def test_what_a_release_made_otherwise_is_named_and_the_rest_is_equivalent(copied, tmp_path, capfd):
    """The release's LoRA is not merged into the weights: its training makes the same, its cells do not."""
    assert equivalences.compare(copied.folder, tmp_path / "same") == (set(), [])
    edit(copied, *UNMERGED)
    copied.snakemake()
    changed, found = equivalences.compare(copied.folder, tmp_path / "today")
    assert changed == {"evaluate_cell"}
    assert [one["rule"] for one in found] == ["train_adapter"]
    assert "lora-r2/seed-0.json" in capfd.readouterr().out
    assert equivalences.told("v1", changed, found) == [
        "Makes what v1 made: train_adapter",
        "Makes something else than v1, or nothing that compares: evaluate_cell",
    ]


def test_a_configuration_that_today_refuses_compares_nothing(copied, tmp_path, capsys):
    (copied.folder / "config.yaml").write_text("unheard: of\n")
    changed, found = equivalences.compare(copied.folder, tmp_path / "today")
    assert {"fetch_model", "compress_model", "train_adapter", "evaluate_cell"} <= changed and not found
    assert "unheard" in capsys.readouterr().out


def test_a_stage_counts_as_stated_by_a_line_of_its_own_in_the_newest_numbers_alone():
    """One sentence that named all seven stages passed whatever moved."""
    text = "## Unreleased\n\n### Numbers\n\n{}\n\n### Fixed\n\n- `a`: b\n\n## 1\n\n### Numbers\n\n- `c`: d\n"
    told = text.format("- `judge`: intervals\n  are wider.\n- `evaluate_cell`: perplexity")
    assert equivalences.stated(told) == {"judge", "evaluate_cell"}
    for line in (
        "Nothing compares: `judge`, `evaluate_cell`.",
        "- `judge`, `evaluate_cell`: moves",
        "- `judge`:",
    ):
        assert equivalences.stated(text.format(line)) == set()
    assert equivalences.stated("## 2\n\n### Added\n\n## 1\n\n### Numbers\n\n- `b`: c\n") == set()


def test_the_changelog_names_stages_that_there_are():
    text = (equivalences.ROOT / "CHANGELOG.md").read_text()
    rules = {artefact.rule for artefact in (*SOURCES, *KINDS.values())} | {*ANALYSIS}
    assert equivalences.stated(text) <= rules and "evaluate_cell" in equivalences.stated(text)


@pytest.mark.parametrize(("changelog", "status"), [("- `judge`: x", 1), ("- `train_adapter`: x", 0)])
def test_a_stage_that_moved_and_is_not_stated_fails(changelog, status, tmp_path, monkeypatch, capsys):
    (tmp_path / "CHANGELOG.md").write_text(f"## Unreleased\n\n### Numbers\n\n{changelog}\n")
    monkeypatch.setattr(equivalences, "ROOT", tmp_path)
    monkeypatch.setattr(equivalences, "last_release", lambda: "v1")
    monkeypatch.setattr(equivalences, "_git", lambda *_: "v1's commit")
    monkeypatch.setattr(equivalences, "run_release", lambda *_: tmp_path)
    monkeypatch.setattr(equivalences, "compare", lambda *_: ({"train_adapter"}, []))
    monkeypatch.setattr("sys.argv", ["equivalences"])
    assert equivalences.main() == status
    assert ("lacks lines under Numbers: '- `train_adapter`: ...'" in capsys.readouterr().err) == bool(status)


def test_the_last_release_is_the_tag_before_head(tmp_path):
    def git(*words: str) -> None:
        who = ["-c", "user.name=u", "-c", "user.email=u@u"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init", "--quiet")
    for tag in ("v1", "v2"):
        git("commit", "--allow-empty", "-m", tag)
        git("tag", tag)
    assert equivalences.last_release(tmp_path) == "v1"
    git("commit", "--allow-empty", "-m", "later")
    assert equivalences.last_release(tmp_path) == "v2"


def test_a_clone_without_tags_has_no_release(tmp_path, monkeypatch, capsys):
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    assert equivalences.last_release(tmp_path) is None
    monkeypatch.setattr(equivalences, "last_release", lambda: None)
    monkeypatch.setattr("sys.argv", ["equivalences"])
    assert equivalences.main() == 2
    assert "Nothing was compared: HEAD has no tag before it" in capsys.readouterr().err


def test_a_release_that_is_none_is_told_in_a_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["equivalences", "--release", "v9.9"])
    assert equivalences.main() == 2
    assert capsys.readouterr().err == "Nothing was compared: this clone has no release 'v9.9'.\n"


def renamed(value: object, names: dict[str, str]) -> object:
    """A configuration in which entries have other names."""
    if isinstance(value, dict):
        return {names.get(key, key): renamed(entry, names) for key, entry in value.items()}
    if isinstance(value, list):
        return [renamed(entry, names) for entry in value]
    return names.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize("grid", ["my-tiny", "smoke"])
def test_what_a_release_ships_holds_for_users_names(grid, tmp_path, monkeypatch):
    """It was shipped by the tiny grid's own names: of a user's grid, and of smoke, nothing counted as planned."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(adopted, "RELEASED", tmp_path / "released.json")
    tiny = tiny_sources.config(tmp_path / "sources", tmp_path)
    names = {name: f"my-{name}" for kind in ("models", "corpora") for name in tiny[kind]}
    mine = renamed(tiny, names)
    mine |= {"benchmarks": {"mine": tiny["benchmarks"]["local"]}}
    mine["grids"]["my-tiny"]["benchmarks"] = "mine"
    plan = Plan(load(tiny))
    users = Plan(load(mine if grid == "my-tiny" else read(*files(root=equivalences.ROOT))))
    before = as_if(users, {place: place[1][::-1] for place in _places(users, grid).values()}).artefacts(grid)
    assert not {*before.values()} & {*users.artefacts(grid).values()}
    about = {
        "results": 1,
        "compared": [],
        "machine": {"host": "h", "cpu": "c", "python": "3"},
        "user": "u",
        "time": "t",
    }
    rows = [
        {"rule": artefact_of(path)[0].rule, "kinds": [kind], "old": code[::-1], "new": code} | about
        for path, (_, code, kind) in _places(plan, "tiny").items()
    ]
    adopted.write_rows(adopted.RELEASED, equivalences.shipped(plan, "tiny", rows))
    after = Plan(users.config).artefacts(grid)
    assert {path for path in before if before[path] != after[path]} == set()


@pytest.mark.slow
def test_each_source_of_the_release_is_fetched_without_a_network(tmp_path, monkeypatch):
    checkout = Checkout(product_copy(tmp_path / "clone"))
    config = tiny_sources.config(tmp_path / "sources", checkout.folder)
    checkout.write_config(config)
    for name, value in tiny_sources.environment(tmp_path / "sources").items():
        monkeypatch.setenv(name, value)
    sources = [path for path in Plan(load(config)).artefacts("tiny") if path.startswith("resources/")]
    assert len(sources) == len(config["models"]) + len(config["corpora"]) + len(config["benchmarks"]["local"])
    cells = [f"results/tiny/evaluations/{model}/dense/none/none/seed-0.json" for model in ("filed", "cached")]
    checkout.snakemake("--", *sources, *cells)
    assert all((checkout.folder / path).exists() for path in (*sources, *cells))


def _places(plan: Plan, grid: str) -> dict[str, tuple[bool, str, str]]:
    """Path of each artefact -> whether all grids share it, digest of its code, its own kind."""
    found, reruns = {}, Reruns(plan, set)
    for path in plan.artefacts(grid):
        artefact, names = artefact_of(path)
        code = reruns.arguments(artefact, names)["code"]
        found[path] = artefact in SOURCES, code, kinds_of(plan, artefact, names)[0]
    return found


@pytest.mark.parametrize("grid", [None, "tiny"])
def test_recipes_accept_what_a_release_ships(grid, tmp_path, monkeypatch):
    machine = {"host": "h", "cpu": "c", "python": "3"}
    row = {"rule": "evaluate_cell", "kinds": ["lora"], "old": "a" * 64, "new": "b" * 64, "results": 1}
    row |= {"compared": [], "machine": machine, "user": "u", "time": "t"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(adopted, "RELEASED", tmp_path / "released.json")
    assert adopted.equivalent_codes(grid) == {}
    adopted.write_rows(adopted.RELEASED, [row])
    assert adopted.equivalent_codes(grid) == {("b" * 64, "lora"): "a" * 64}
    adopted.write_rows(Path(adopted.record_path("tiny")), [row | {"new": "c" * 64}])
    monkeypatch.setattr(adopted, "PACKAGE", tmp_path / "package")
    assert adopted.evidence_of("tiny", ["b" * 64]) == "released.json"
    assert adopted.evidence_of("tiny", ["c" * 64]) == "results/tiny/adopted.json"
