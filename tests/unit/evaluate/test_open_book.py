"""Open book: the passage stands before each question, and nothing else of the prompt changes."""

import json

import pytest

from tests.equivalence import scorer_models
from workflow_scripts.evaluate import task_check
from workflow_scripts.evaluate.cell import task_of
from workflow_scripts.evaluate.open_book import with_passage
from workflow_scripts.evaluate.settings import CellSettings
from workflow_scripts.evaluate.tasks import load_task
from workflow_scripts.files.artifacts import ArtifactError

PASSAGE = "{{ support.lstrip() }}\n"


def sciq(number: int, **more: str) -> dict:
    wrong = {f"distractor{i}": f"wrong {i}" for i in (1, 2, 3)}
    support = f"  It is right {number}.\n"
    return {
        "question": f"Which {number}?",
        "correct_answer": f"right {number}",
        "support": support,
        **wrong,
        **more,
    }


@pytest.fixture
def data(tmp_path):
    """Five questions with their passages."""
    folder = tmp_path / "sciq-closed"
    folder.mkdir()
    (folder / "data.jsonl").write_text("".join(json.dumps(sciq(n)) + "\n" for n in range(5)))
    return folder / "data.jsonl"


def prompts(loaded):
    """The contexts of all requests, in order."""
    loaded.task.build_all_requests(samples=loaded.samples)
    return [instance.args[0] for instance in loaded.task.instances]


def test_the_closed_variant_asks_without_the_passage_and_open_book_gives_back_the_harness_own_prompt(data):
    data.write_text(data.read_text() + json.dumps(sciq(5, support="")) + "\n")  # as one in nine of SciQ's
    closed = load_task("sciq-closed", data, None, None, base="sciq_closed")
    own = load_task("sciq", data, None, None)
    assert prompts(closed)[0] == "Question: Which 0?\nAnswer:"
    opened = with_passage(load_task("sciq-closed", data, None, None, base="sciq_closed"), PASSAGE)
    assert prompts(opened) == prompts(own) and prompts(own)[0].startswith("It is right 0.\n\nQuestion: ")
    assert prompts(own)[-1] == "\nQuestion: Which 5?\nAnswer:"  # its own line break, without a passage too


def test_a_cell_has_the_passage_only_if_its_method_gives_it(data):
    tokenizer = scorer_models.tokenizer()
    asked = {"items": 3, "generation_tokens": None}
    plain = {"task": "sciq_closed", "num_fewshot": None}
    for task, begins in ((plain, "Question: "), (plain | {"context": PASSAGE}, "It is right ")):
        settings = CellSettings({"kind": "none"}, {"sciq-closed": task}, asked)
        found = prompts(task_of(data.parent, settings, tokenizer))
        assert len(found) == 12 and all(prompt.startswith(begins) for prompt in found)


def test_solved_examples_stand_before_the_passage_as_they_were(data):
    loaded = load_task("sciq-closed", data, 2, None, base="sciq_closed", num_fewshot=1)
    (first, *_) = prompts(with_passage(loaded, PASSAGE))
    example, _, question = first.partition("\n\n")
    assert example.startswith("Question: Which") and "right" in example
    assert question.startswith("It is right ") and question.endswith("?\nAnswer:")


def test_a_field_that_stands_for_the_prompt_is_still_read(tmp_path):
    """LAMBADA-like prompts are templates; a bare field name is one too."""
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(sciq(n)) + "\n" for n in range(3)))
    loaded = load_task("sciq-closed", tmp_path / "data.jsonl", None, None, base="sciq_closed")
    loaded.task.config.doc_to_text = "question"
    assert prompts(with_passage(loaded, "{{ support }}"))[0] == "  It is right 0.\nWhich 0?"


def test_a_template_runs_in_the_sandbox_and_is_named_with_its_line(data):
    for template, said in (
        ("{{ support.__class__.__mro__ }}", "access to attribute '__class__' .* is unsafe"),
        ("{{ 1 // 0 }}", "by zero"),
        ("{{ support", "is no Jinja template"),
    ):
        loaded = load_task("sciq-closed", data, None, None, base="sciq_closed")
        with pytest.raises(ArtifactError, match=f"line 1: the context .*{said}"):
            with_passage(loaded, template)


@pytest.mark.parametrize(
    ("templates", "said"),
    [
        (
            {"context": "{{ support }}\n"},
            "line 3: the context '.*' can't be filled in: a field of it is null",
        ),
        (
            {"wordings": ["{{ question }}", "{{ support }}"]},
            "line 3: the wording '{{ support }}' can't be filled",
        ),
        ({}, None),
    ],
)
def test_a_row_that_does_not_fill_in_a_template_is_named_at_the_fetch(templates, said, tmp_path):
    rows = [sciq(0), sciq(1), {key: value for key, value in sciq(2).items() if key != "support"}]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    variant = {"task": "sciq_closed", "num_fewshot": None} | templates

    def checked():
        return task_check.check(tmp_path / "mine.jsonl", "mine", "sciq-closed", variant)

    if said is None:
        assert checked() == []
        return
    with pytest.raises(ArtifactError, match=f"mine: {said}"):
        checked()


def test_what_has_no_passage_is_named(data, tmp_path):
    loaded = load_task("sciq-closed", data, None, None, base="sciq_closed")
    with pytest.raises(ArtifactError, match=r"line 1: the context .*'passage' is undefined"):
        with_passage(loaded, "{{ passage }}\n")
    rows = [{"sentence": "The cup met the _ .", "option1": "hat", "option2": "mat", "answer": "1"}] * 2
    (tmp_path / "winogrande.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    winogrande = load_task("winogrande", tmp_path / "winogrande.jsonl", None, None)
    with pytest.raises(ArtifactError, match="task winogrande: its prompt is no template"):
        with_passage(winogrande, "{{ sentence }}\n")
