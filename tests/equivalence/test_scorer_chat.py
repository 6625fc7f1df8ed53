"""Questions through a chat template, against the harness's own HFLM with apply_chat_template: prompts and scores."""

import json
import re
import shutil
from dataclasses import replace

import pytest
from lm_eval.api.instance import Instance
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from transformers.utils import chat_template_utils

from tests.equivalence import scorer_models
from workflow_scripts.evaluate import cell, chat
from workflow_scripts.evaluate import tasks as task_definitions
from workflow_scripts.evaluate.chat import Chat
from workflow_scripts.evaluate.open_book import with_passage
from workflow_scripts.evaluate.scorer import Scorer
from workflow_scripts.evaluate.tasks import load_task
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.recover.adapters import attach, create, save

TOLERANCE = 1e-4  # nats
TASKS = sorted(path.stem for path in task_definitions.DEFINITIONS.glob("*.yaml"))
FORMATS = [
    ("turns", False),
    ("turns", True),
    ("bos", True),
    ("day", False),
    ("no system", True),
    ("strict", True),
]
BOS = ("bos", True)  # of the template and of the tokenizer
SYSTEM = "You answer briefly."
PROMPT = {"kind": "prompt", "tokens": 6, "init": "random", "trained": True}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = scorer_models.write_benchmarks(tmp_path_factory.mktemp("items") / "set")
    scorer_models.write_probes(folder)
    shutil.copytree(folder / "sciq", folder / "sciq_closed")
    return folder


class Clock:
    """Stands for datetime in transformers' templates."""

    @staticmethod
    def now():
        return chat.DAY


@pytest.fixture(scope="module")
def pair(request):
    """(ours, HFLM) over one model; HFLM renders the template as it is, on the day that ours is always on."""
    template, bos = request.param
    model = scorer_models.model("llama", positions=1024)
    mine, theirs = scorer_models.tokenizer(bos, template), scorer_models.tokenizer(bos, template)
    chat.prepare(mine, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_template_utils, "datetime", Clock)
        yield Scorer(model, mine, row_tokens=96), HFLM(pretrained=model, tokenizer=theirs, batch_size=4)


def logged(outcome: dict, task: str) -> list[tuple[list, list]]:
    """Requests and responses of each document."""
    return [(sample["arguments"], sample["resps"]) for sample in outcome["samples"][task]]


def ours_and_harness(pair, loaded, monkeypatch) -> tuple[list, list]:
    """A task through `evaluate_task`, and through lm_eval.evaluate over HFLM."""
    scorer, harness = pair
    outcomes = []

    def kept(*args, **kwargs):
        outcomes.append(evaluate(*args, **kwargs))
        return outcomes[-1]

    with monkeypatch.context() as patch:
        patch.setattr(cell, "evaluate", kept)
        cell.evaluate_task(scorer, replace(loaded, chat=Chat(SYSTEM)), [])
    loaded.task.set_fewshot_seed(0)  # the same examples again
    theirs = evaluate(
        harness,
        {"tasks": {loaded.name: loaded.task}},
        bootstrap_iters=0,
        samples=None if loaded.samples is None else {loaded.name: loaded.samples},
        apply_chat_template=True,
        fewshot_as_multiturn=True,
        system_instruction=SYSTEM,
    )
    return logged(outcomes[0], loaded.name), logged(theirs, loaded.name)


def require_equal(mine: list, theirs: list) -> None:
    assert len(mine) == len(theirs) == len(scorer_models.QUESTIONS)
    for (asked, answers), (expected, responses) in zip(mine, theirs, strict=True):
        assert asked == expected
        for (answer,), (response,) in zip(answers, responses, strict=True):
            if isinstance(answer, str):
                assert answer == response
                continue
            assert answer[0] == pytest.approx(response[0], abs=TOLERANCE)
            assert answer[1] == response[1]


KINDS = ("arc_easy", "lambada_openai", "triviaqa", "winogrande")  # a task of each kind of request
CASES = [(BOS, task, None) for task in TASKS]
CASES += [(form, task, None) for form in FORMATS for task in KINDS if form != BOS]
CASES += [(form, task, 2) for form in (BOS, FORMATS[0], FORMATS[-1]) for task in (*KINDS, "webqs")]


@pytest.mark.parametrize(("pair", "task", "shots"), CASES, indirect=["pair"])
def test_every_task_equals_hflm(pair, data, task, shots, monkeypatch):
    loaded = load_task(task, data / task / "data.jsonl", None, 8, num_fewshot=shots)
    mine, theirs = ours_and_harness(pair, loaded, monkeypatch)
    require_equal(mine, theirs)
    context = mine[0][0][0][0]
    roles = re.findall(r"[\[<](user|assistant)[\]>]", context)
    assert roles == ["user", "assistant"] * (1 + (shots or 0))
    assert (SYSTEM in context) == ("no system role" not in pair[0].tokenizer.chat_template)
    for tokens in pair[0].encode([context]).values():
        assert tokens.count(0) == (pair[0].tokenizer.bos_token_id is not None)  # one BOS, never two


@pytest.mark.parametrize("pair", FORMATS, indirect=True)
def test_the_harness_own_entry_takes_the_scorer(pair, data):
    """`simple_evaluate` asks for the template's text and the tokenizer's name too."""
    rendered = chat.CLOCK.sub('"26 July 2024"', pair[1].chat_template(True))
    assert pair[0].chat_template(True) == rendered
    assert pair[0].chat_template() is None
    assert pair[0].tokenizer_name == pair[1].tokenizer_name


@pytest.mark.parametrize("pair", [BOS], indirect=True)
def test_examples_in_one_turn_equal_hflm(pair, data):
    found = []
    for lm in pair:
        loaded = load_task("arc_easy", data / "arc_easy/data.jsonl", None, 8, num_fewshot=2)
        tasks, samples = {"tasks": {"arc_easy": loaded.task}}, {"arc_easy": loaded.samples}
        outcome = evaluate(lm, tasks, bootstrap_iters=0, samples=samples, apply_chat_template=True)
        found.append(logged(outcome, "arc_easy"))
    require_equal(*found)
    assert found[0][0][0][0][0].count("[user]") == 1


@pytest.mark.parametrize("pair", [BOS, FORMATS[0]], indirect=True)
def test_a_passage_stands_in_the_questions_turn(pair, data, monkeypatch):
    path = data / "sciq_closed/data.jsonl"
    loaded = load_task("sciq_closed", path, None, 8, num_fewshot=1)
    mine, theirs = ours_and_harness(pair, with_passage(loaded, "{{ support }}\n"), monkeypatch)
    require_equal(mine, theirs)
    for (asked, _), line in zip(mine, path.read_text().splitlines(), strict=True):
        row = json.loads(line)
        turn = f"[user]\n{row['support']}\nQuestion: {row['question']}\nAnswer:</s>\n[assistant]\n"
        assert asked[0][0].endswith(turn)
        assert asked[0][0].count(row["support"]) == 1


@pytest.mark.parametrize("pair", [BOS], indirect=True)
def test_a_soft_prompt_stands_before_the_rendered_text(pair, data, tmp_path, monkeypatch):
    """Against PEFT's own prompt in HFLM, one sequence at a time."""
    scorer, harness = pair
    adapted = create(scorer_models.model("llama", positions=1024), PROMPT, 3)
    save(adapted, tmp_path / "prompt", "tiny")
    found = attach(scorer.model, scorer.tokenizer, PROMPT, [tmp_path / "prompt"])
    ours = Scorer(found.model, scorer.tokenizer, found.bank)
    theirs = HFLM(pretrained=adapted, tokenizer=harness.tokenizer, batch_size=1)
    loaded = load_task("arc_easy", data / "arc_easy/data.jsonl", None, 8)
    require_equal(*ours_and_harness((ours, theirs), loaded, monkeypatch))


@pytest.mark.parametrize("pair", [BOS], indirect=True)
def test_the_gold_answer_of_a_generation_begins_the_assistants_turn(pair, data):
    scorer = pair[0]
    loaded = load_task("triviaqa", data / "triviaqa/data.jsonl", None, 8)
    asked = replace(loaded, chat=Chat())
    (item, *_) = cell.evaluate_task(scorer, asked, [])
    question = item.row["question"]
    # Of the table: without the template.
    assert question == "Question: What is the capital of France?\nAnswer:"
    context = scorer.apply_chat_template([{"role": "user", "content": question}])
    ((loglik, _),) = scorer.loglikelihood(
        [Instance("loglikelihood", {}, (context, "Paris"), 0, ("any", 0, 1))]
    )
    assert item.row["gold"] == "Paris" and item.gold_bytes == len("Paris")
    assert loaded.delimiter({}) == " " and asked.delimiter({}) == ""
    assert item.row["gold_loglik"] == pytest.approx(loglik, abs=TOLERANCE)


def test_what_a_template_lacks_is_named():
    with pytest.raises(ArtifactError, match="its tokenizer has no chat template"):
        chat.prepare(scorer_models.tokenizer(), None)
    picky = scorer_models.tokenizer(template="no system")
    chat.prepare(picky, None)
    with pytest.raises(ArtifactError, match="takes no system message, so no method of kind text has a place"):
        chat.prepare(picky, "Be brief.")
    timed = scorer_models.tokenizer()
    timed.chat_template = "{{ strftime_now(form) }}"
    with pytest.raises(ArtifactError, match="asks for the time in another form"):
        chat.prepare(timed, None)
    several = scorer_models.tokenizer()
    several.chat_template = {"tool_use": "{{ messages }}", "rag": "{{ messages }}"}
    with pytest.raises(
        ArtifactError, match="has the chat templates rag, tool_use, and none is called default"
    ):
        chat.prepare(several, None)
    empty = scorer_models.tokenizer()
    empty.chat_template = ""  # of an empty chat_template.jinja
    with pytest.raises(ArtifactError, match="its chat template leaves out the question"):
        chat.prepare(empty, None)
    broken = scorer_models.tokenizer()
    broken.chat_template = "{{ nothing.at.all }}"
    with pytest.raises(ArtifactError, match="its chat template fails: 'nothing' is undefined"):
        chat.prepare(broken, None)


def test_a_system_message_that_is_left_out_is_said_once_and_recorded(capsys):
    """Some templates drop it without an error, some refuse it."""
    history = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How many?"}]
    dropping = scorer_models.tokenizer()
    dropping.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    )
    for tokenizer, words in (
        (dropping, "(it drops it)"),
        (scorer_models.tokenizer(template="no system"), "("),
    ):
        chat._say_once.cache_clear()
        chat.prepare(tokenizer, None)
        capsys.readouterr()
        assert "Be brief." not in chat.render(tokenizer, history) + chat.render(tokenizer, history)
        said = capsys.readouterr().err
        assert said.count(f"its chat template takes no system message {words}") == 1
        assert chat.described(tokenizer)["system_message"] == "left out"
    keeping = scorer_models.tokenizer(template="turns")
    chat._say_once.cache_clear()
    assert "Be brief." in chat.render(keeping, history) and not capsys.readouterr().err
    assert chat.described(keeping)["system_message"] == "read"
