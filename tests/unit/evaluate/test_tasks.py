"""Items: nested samples, hashes that are the same everywhere, caps that cut no right answer."""

import json

import pytest
from datasets import Dataset
from lm_eval.tasks import TaskManager
from lm_eval.utils import apply_template

from tests.equivalence import scorer_models
from workflow_scripts.evaluate import tasks as task_definitions
from workflow_scripts.evaluate.cell import evaluate_task
from workflow_scripts.evaluate.scorer import Scorer
from workflow_scripts.evaluate.task_check import check
from workflow_scripts.evaluate.tasks import (
    DEFINITIONS,
    HARNESS,
    MARGIN,
    generation_cap,
    harness_definition,
    load_task,
    load_yaml,
)
from workflow_scripts.files.artifacts import ArtifactError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = scorer_models.write_benchmarks(tmp_path_factory.mktemp("items") / "set")
    return scorer_models.write_probes(folder)


def test_a_smaller_budget_evaluates_the_same_documents(data):
    whole = load_task("hellaswag", data / "hellaswag" / "data.jsonl", None, None)
    part = load_task("hellaswag", data / "hellaswag" / "data.jsonl", 3, None)
    assert len(part.task.eval_docs) == 3
    for i, line in enumerate(part.lines):
        assert part.hashes[i] == whole.hashes[line]
        assert part.task.eval_docs[i]["query"] == whole.task.eval_docs[line]["query"]


def test_cap_is_the_longest_alias_and_a_margin(data):
    tokenizer = scorer_models.tokenizer()
    loaded = load_task("triviaqa", data / "triviaqa" / "data.jsonl", None, None, tokenizer)
    aliases = [alias for _, answers in scorer_models.QUESTIONS for alias in answers[:2]]
    longest = max(len(tokenizer(f" {alias}")["input_ids"]) for alias in aliases)
    assert loaded.task.config.generation_kwargs["max_gen_toks"] == longest + MARGIN
    assert generation_cap([["a", "b"], "c"], tokenizer) >= 1 + MARGIN
    assert loaded.gold(loaded.task.eval_docs[0]) == "Paris"


@pytest.mark.parametrize(("limit", "expected"), [(None, None), (1000, None), (5, 5)])
def test_generation_tokens_is_an_upper_limit_of_the_longest_answer(data, limit, expected):
    tokenizer, file = scorer_models.tokenizer(), data / "triviaqa" / "data.jsonl"
    own = load_task("triviaqa", file, None, None, tokenizer).task.config.generation_kwargs["max_gen_toks"]
    loaded = load_task("triviaqa", file, None, limit, tokenizer)
    assert loaded.task.config.generation_kwargs["max_gen_toks"] == (expected or own) and loaded.capped


def test_a_task_of_the_harness_works_by_its_name(tmp_path):
    """copa has no definition of ours: the harness's YAML is used with local documents."""
    rows = [
        {
            "premise": "The man slept.",
            "choice1": "He was tired.",
            "choice2": "He was hungry.",
            "question": "cause",
            "label": 0,
            "idx": n,
        }
        for n in range(3)
    ]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_task("copa", tmp_path / "data.jsonl", 2, None)
    assert loaded.primary == "acc" and len(loaded.task.eval_docs) == 2
    assert loaded.task.doc_to_text(rows[0]).endswith("because")


@pytest.mark.parametrize("name", ["jeopardy", "squad_closed", "popqa", "simpleqa"])
def test_a_free_answer_is_scored_by_any_accepted_one(data, name):
    loaded = load_task(name, data / name / "data.jsonl", None, None)
    assert loaded.primary == "acc" and not loaded.capped
    document = loaded.items[0].document
    assert loaded.gold(document) == "Paris"
    score = loaded.task.process_results
    assert score(document, [" I think Paris."]) == {"acc": 1} and score(document, [" Oslo"]) == {"acc": 0}
    assert score(document, [" London"]) == {"acc": int(name in ("squad_closed", "popqa"))}  # its second alias


def test_mmlu_asks_every_subject_as_the_harness_does(data):
    ours = load_task("mmlu", data / "mmlu/data.jsonl", None, None).task.config.description
    subjects = [path.stem.removeprefix("mmlu_") for path in HARNESS.glob("mmlu/default/mmlu_*.yaml")]
    assert len(subjects) == 57
    for subject in subjects:
        theirs = load_yaml(HARNESS / f"mmlu/default/mmlu_{subject}.yaml")["description"]
        assert apply_template(ours, {"subject": subject}) == apply_template(theirs, {})


def reasoning(name: str) -> list[dict]:
    """Items whose gold answers are far shorter than what leads to them."""
    letters = {"options": ["a", "b"], "answer": "A", "answer_index": 0, "category": "law", "src": "x"}
    made = {
        "gsm8k_cot": lambda n: {"question": f"question number {n}", "answer": f"x #### {n + 1}"},
        "gsm8k": lambda n: {"question": f"question number {n}", "answer": f"x #### {n + 1}"},
        "mmlu_pro_law": lambda n: (
            letters | {"question": f"q {n}", "cot_content": "A: Let's think.", "question_id": n}
        ),
        "bbh_cot_fewshot_boolean_expressions": lambda n: {"input": f"q {n}", "target": "True"},
        "nq_open": lambda n: {"question": f"who {n}", "answer": ["Bob", "B"]},
    }
    return [made[name](n) for n in range(12)]


def written(folder, rows: list[dict]):
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "data.jsonl"


@pytest.mark.parametrize(
    ("name", "tokens"),
    [
        ("gsm8k_cot", 256),
        ("gsm8k", 256),
        ("mmlu_pro_law", 2048),
        ("bbh_cot_fewshot_boolean_expressions", 1024),
        ("nq_open", 256),
    ],
)
def test_other_tasks_generate_as_many_tokens_as_the_harness_lets_them(name, tokens, tmp_path):
    file, tokenizer = written(tmp_path, reasoning(name)), scorer_models.tokenizer()
    for limit, expected in ((None, tokens), (5000, tokens), (9, 9)):
        loaded = load_task(name, file, 3, limit, tokenizer)
        loaded.task.build_all_requests(samples=loaded.samples)
        scorer = Scorer(scorer_models.model("llama", positions=4096), tokenizer)
        assert {scorer._settings(each.args[1])[1] for each in loaded.task.instances} == {expected}
        assert loaded.capped == (limit == 9)


@pytest.mark.parametrize("name", ["gsm8k_cot", "bbh_cot_fewshot_boolean_expressions"])
def test_worked_examples_of_a_definition_are_shown_as_by_the_harness(name, tmp_path):
    file = written(tmp_path, reasoning(name))
    config = load_yaml(harness_definition(name))
    split = config.get("test_split") or config["validation_split"]
    config |= {
        "dataset_path": None,
        "dataset_name": None,
        "tag": None,
        "training_split": None,
        "custom_dataset": lambda **_: task_definitions._dataset(Dataset.from_list(reasoning(name)), split),
    }
    harness = TaskManager(include_defaults=False).load([config])["tasks"][name]
    harness.set_fewshot_seed(0)
    harness.build_all_requests()
    own = load_task(name, file, 4, None)
    own.task.build_all_requests(samples=own.samples)
    expected = {
        each.doc["question" if "question" in each.doc else "input"]: each.args[0]
        for each in harness.instances
    }
    assert len(own.task.instances) == 4
    for each in own.task.instances:
        prompt = expected[each.doc["question" if "question" in each.doc else "input"]]
        assert each.args[0] == prompt and len(prompt) > 800
    if name == "gsm8k_cot":
        assert "There are 15 trees in the grove" in prompt and prompt.count("The answer is") == 8


def test_too_few_documents_or_worked_examples_for_the_shots_are_said(data, tmp_path):
    file = data / "sciq" / "data.jsonl"  # six documents
    assert load_task("sciq_5shot", file, 2, None, None, "sciq", 5).task.config.num_fewshot == 5
    with pytest.raises(ArtifactError, match=r"sciq_6shot: 6 solved examples .* its 6 documents leave .* 5$"):
        load_task("sciq_6shot", file, 2, None, None, "sciq", 6)
    lines = written(tmp_path, reasoning("gsm8k_cot")[:2])  # its eight examples are its own
    assert load_task("gsm8k_cot", lines, 2, None).task.config.num_fewshot == 8
    with pytest.raises(ArtifactError, match=r"gsm8k_cot: 9 solved examples .* its definition brings 8$"):
        load_task("gsm8k_cot", lines, 2, None, None, None, 9)


LINES = {
    "nq_open": [{"question": f"who was {n}", "answer": ["Bob", "B"]} for n in range(3)],
    "gsm8k": [{"question": f"What is {n} + 1?", "answer": f"One more. #### {n + 1}"} for n in range(7)],
    "truthfulqa_mc2": [{"question": "Q?", "mc2_targets": {"choices": ["a", "b", "c"], "labels": [1, 1, 0]}}],
    "wikitext": [{"page": "some text"}],
    "squad_completion": [{"text": "The fox is", "value": "red"}],
}


def named(folder, name):
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES[name]))
    return load_task(name, folder / "data.jsonl", 3, 8, scorer_models.tokenizer())


@pytest.mark.parametrize("name", ["nq_open", "gsm8k"])
def test_a_task_without_acc_counts_by_exact_match_of_its_first_filter(name, tmp_path, monkeypatch):
    """gsm8k reads a generated answer in two ways; the first wants `#### ` before the number. Its examples are five."""
    task, model = named(tmp_path, name), scorer_models.model("llama")
    right = {"nq_open": "Bob", "gsm8k": LINES["gsm8k"][task.lines[1]]["answer"]}[name]
    scorer = Scorer(model, scorer_models.tokenizer())
    monkeypatch.setattr(scorer, "generate_until", lambda requests, **_: ["no", right, "It is 7"])
    monkeypatch.setattr(scorer, "selections", dict.fromkeys(((name, i) for i in range(3)), 0))
    items = evaluate_task(scorer, task, [])
    assert [item.row["doc_id"] for item in items] == task.lines
    assert [item.row["correct"] for item in items] == [False, True, False]
    assert all(item.row["gold_loglik"] < 0 for item in items)


def test_tasks_that_say_of_no_item_whether_it_is_right_are_refused(tmp_path):
    with pytest.raises(ArtifactError, match="wikitext: output type loglikelihood_rolling gives no accuracy"):
        named(tmp_path, "wikitext")
    with pytest.raises(ArtifactError, match="squad_completion: a definition in Python gives no accuracy"):
        named(tmp_path, "squad_completion")
    scorer = Scorer(scorer_models.model("llama"), scorer_models.tokenizer())
    with pytest.raises(
        ArtifactError, match=r"truthfulqa_mc2: .*: line 1: its acc is 0\.\d+, neither right nor wrong"
    ):
        evaluate_task(scorer, named(tmp_path, "truthfulqa_mc2"), [])


def test_few_shot_variants_show_solved_examples_from_their_own_data_but_never_the_question(data):
    file = data / "arc_easy" / "data.jsonl"
    plain, shots = (
        load_task("arc_easy", file, 4, None),
        load_task("arc_2shot", file, 4, None, None, "arc_easy", 2),
    )
    assert shots.name == "arc_2shot" and shots.hashes == plain.hashes
    plain.task.build_all_requests(samples=plain.samples)
    shots.task.build_all_requests(samples=shots.samples)
    assert len(plain.task.instances) == len(shots.task.instances) == 16
    for alone, behind in zip(plain.task.instances, shots.task.instances, strict=True):
        question, choice = alone.args
        examples, rest = behind.args[0].rsplit("\n\n", 1)
        assert (rest, behind.args[1]) == (question, choice)
        assert examples.count("Question:") == 2 and question not in examples


@pytest.mark.parametrize("name", [path.stem for path in sorted(DEFINITIONS.glob("*.yaml"))])
def test_every_task_takes_solved_examples(data, name):
    """webqs has a list of answers and no single one: its examples show the first by the alphabet."""
    asked = "sciq" if name == "sciq_closed" else name  # sciq's items without their passage
    file = data / asked / "data.jsonl"
    loaded = load_task(name, file, 3, 8, scorer_models.tokenizer(), None, 2)
    for line in loaded.samples:
        document = loaded.task.eval_docs[line]
        shown = loaded.task.fewshot_context(document, 2)
        plain = loaded.task.fewshot_context(document, 0)
        if name == "mmlu":  # whose description stands before the examples
            shown, plain = (text.split("\n\n", 1)[1] for text in (shown, plain))
        for with_examples, alone in [(shown, plain)] if isinstance(shown, str) else zip(shown, plain):
            assert with_examples.endswith(alone) and with_examples.count("\n\n") == 2
            assert alone not in with_examples.removesuffix(alone), "a worked example is the question itself"
    if name == "webqs":
        answers = {json.loads(row)["question"]: min(json.loads(row)["answers"]) for row in file.open()}
        example = shown.split("\n\n")[0]
        question, answer = example.removeprefix("Question: ").split("\nAnswer: ")
        assert answers[question] == answer


ARC = [
    {
        "id": f"q{n}",
        "question": f"what {n}x",
        "choices": {"text": list("wxyz"), "label": list("ABCD")},
        "answerKey": "ABCD"[n % 4],
    }
    for n in range(6)
]
REPEATED = {  # file, and the field that stands in the prompt once
    "webqs": ([{"question": f"who {n}x?", "answers": [f"z{n}", f"a{n}"]} for n in range(8)], "question"),
    "arc_easy": (ARC + [row | {"id": "again", "question": row["question"] + " "} for row in ARC], "question"),
    "triviaqa": (
        [
            {"question": f"who {n % 4}x?", "id": n, "answer": {"value": "x", "aliases": ["x"]}}
            for n in range(9)
        ],
        "question",
    ),
    "gpqa_main_n_shot": (
        [
            {"Question": f"Q{n % 6}x?", "Correct Answer": "a", "Record ID": n}
            | {f"Incorrect Answer {i}": f"b{i}" for i in (1, 2, 3)}
            for n in range(12)
        ],
        "Question",
    ),
    "mmlu_abstract_algebra": (
        [{"question": f"what {n % 5}x", "choices": list("wxyz"), "answer": 0, "id": n} for n in range(9)],
        "question",
    ),
}


@pytest.mark.parametrize("name", REPEATED)
def test_a_question_that_the_file_repeats_or_the_task_changes_is_none_of_its_own_examples(name, tmp_path):
    """webqs sorts the answers of an example where they stand; the others stand twice, with another number."""
    rows, key = REPEATED[name]
    loaded = load_task("mine", written(tmp_path, rows), None, 8, scorer_models.tokenizer(), name, 3)
    loaded.task.build_all_requests(samples=loaded.samples)
    assert len(loaded.items) == len(rows)
    for request in loaded.task.instances:
        assert request.args[0].count(request.doc[key].strip()) == 1
        assert request.args[0].count("x") >= 4, "three examples"


def test_too_few_other_questions_for_the_shots_are_said(tmp_path):
    file = written(tmp_path, [row | {"id": n} for n in range(3) for row in ARC[:2]])
    with pytest.raises(ArtifactError, match=r"task mine: 4 solved examples .* 6 documents leave 3 beside"):
        load_task("mine", file, None, None, None, "arc_easy", 4)


@pytest.mark.parametrize(("said", "right"), [("", False), (" \n", False), ("!", True), ("Ok", True)])
def test_a_blank_answer_is_never_right(said, right, tmp_path, monkeypatch):
    """Without its punctuation an alias may be nothing, which a blank answer would equal."""
    answer = {"value": "Ok", "aliases": ["Ok", "!!!"]}
    rows = [{"question": f"who {n}", "question_id": str(n), "answer": answer} for n in range(2)]
    task = load_task("triviaqa", written(tmp_path, rows), None, 8, scorer_models.tokenizer())
    scorer = Scorer(scorer_models.model("llama"), scorer_models.tokenizer())
    monkeypatch.setattr(scorer, "generate_until", lambda requests, **_: [said] * 2)
    monkeypatch.setattr(scorer, "selections", dict.fromkeys((("triviaqa", i) for i in range(2)), 0))
    assert [item.row["correct"] for item in evaluate_task(scorer, task, [])] == [right] * 2


@pytest.mark.parametrize(
    ("name", "key", "hidden"),
    [
        ("piqa", "label", -1),
        ("winogrande", "answer", ""),
        ("hellaswag", "label", "-1"),
        ("arc_easy", "answerKey", ""),
    ],
)
def test_a_hidden_label_is_refused_with_its_line(data, tmp_path, name, key, hidden):
    documents = [json.loads(line) for line in (data / name / "data.jsonl").open()]
    documents[2][key] = hidden
    with pytest.raises(ArtifactError, match=rf"task {name}: .*: line 3: the label `{key}` is {hidden!r}"):
        load_task(name, written(tmp_path, documents), None, None)


def test_unknown_task_and_broken_data_say_so(data, tmp_path):
    with pytest.raises(ArtifactError, match="no_such_task"):
        load_task("no_such_task", data / "sciq" / "data.jsonl", 1, None)
    (tmp_path / "data.jsonl").write_text('{"question": \n')
    with pytest.raises(ArtifactError, match="line 1: not JSON"):
        load_task("sciq", tmp_path / "data.jsonl", None, None)


@pytest.mark.parametrize("error", [ImportError("No module named 'x'"), FileNotFoundError("no\nsuch module")])
def test_a_definition_whose_code_can_not_be_loaded_is_named_in_one_line(error, tmp_path, monkeypatch):
    def fails(path):
        raise error

    monkeypatch.setattr(task_definitions, "load_yaml", fails)
    (tmp_path / "data.jsonl").write_text("")
    with pytest.raises(ArtifactError, match=f"task gsm8k: .* {type(error).__name__}: [^\n]*$"):
        check(tmp_path / "data.jsonl", "mine.jsonl", "gsm8k", {})
