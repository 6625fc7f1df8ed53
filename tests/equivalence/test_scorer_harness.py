"""The scorer against the harness's own HFLM, on every task: same log-likelihoods, flags, strings."""

import json
import shutil

import pytest
import torch
from datasets import Dataset
from lm_eval.api.instance import Instance
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from tests.equivalence import scorer_models
from workflow_scripts.evaluate import tasks as task_definitions
from workflow_scripts.evaluate.scorer import Scorer
from workflow_scripts.evaluate.tasks import HARNESS, load_task

TOLERANCE = 1e-4  # nats; the issue allows 1e-3
TASKS = sorted(path.stem for path in task_definitions.DEFINITIONS.glob("*.yaml"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = scorer_models.write_benchmarks(tmp_path_factory.mktemp("items") / "set")
    scorer_models.write_probes(folder)
    shutil.copytree(folder / "sciq", folder / "sciq_closed")  # the same items, asked without their passage
    return folder


@pytest.fixture(
    scope="module",
    params=[("llama", False), ("llama", True), ("opt", True)],
    ids=lambda p: f"{p[0]}-bos-{p[1]}",
)
def pair(request):
    """(ours, HFLM) over one model; ours with rows so short that documents are spread over many."""
    family, bos = request.param
    model, tokenizer = scorer_models.model(family), scorer_models.tokenizer(bos)
    return Scorer(model, tokenizer, row_tokens=96), HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4)


def responses(lm, task: str, data) -> list:
    loaded = load_task(task, data / task / "data.jsonl", None, 8)
    logged = evaluate(lm, {"tasks": {task: loaded.task}}, bootstrap_iters=0)["samples"][task]
    return [sample["resps"] for sample in logged]


@pytest.mark.parametrize("task", TASKS)
def test_every_task_equals_hflm(pair, data, task):
    ours, harness = (responses(lm, task, data) for lm in pair)
    assert len(ours) == len(scorer_models.QUESTIONS)
    if isinstance(ours[0][0][0], str):
        assert ours == harness
        return
    for mine, theirs in zip(ours, harness, strict=True):
        for ((loglik, greedy),), ((expected, expected_greedy),) in zip(mine, theirs, strict=True):
            assert loglik == pytest.approx(expected, abs=TOLERANCE)
            assert greedy == expected_greedy


def requests(kind: str, arguments: list[tuple]) -> list[Instance]:
    return [Instance(kind, {}, each, 0, ("any", n, 1)) for n, each in enumerate(arguments)]


def test_empty_context_spaces_truncation_and_repeats_equal_hflm(pair):
    long = "Who wrote the play Hamlet? " * 60  # beyond the model's 256 positions
    arguments = [
        ("", " Paris"),
        ("What is ", "honey"),
        (long, " milk"),
        (long + " ", "milk and honey"),
        ("", " Paris"),
        ("<s>What", " is it"),
    ]
    ours, harness = pair
    mine = ours.loglikelihood(requests("loglikelihood", arguments))
    theirs = harness.loglikelihood(requests("loglikelihood", arguments), disable_tqdm=True)
    for (loglik, greedy), (expected, expected_greedy) in zip(mine, theirs, strict=True):
        assert loglik == pytest.approx(expected, abs=TOLERANCE)
        assert greedy == expected_greedy


def test_rolling_windows_equal_hflm(pair):
    texts = [("What do bees make? " * 80,), ("One short line",)]
    ours, harness = pair
    mine = ours.loglikelihood_rolling(requests("loglikelihood_rolling", texts))
    theirs = harness.loglikelihood_rolling(requests("loglikelihood_rolling", texts), disable_tqdm=True)
    assert mine == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("until", [["\n", ".", ","], ["e"], "a", ["the city"]])
def test_generation_equals_hflm(pair, until):
    contexts = [f"Question: {question}?\nAnswer:" for question, _ in scorer_models.QUESTIONS]
    arguments = [(context, {"until": until, "max_gen_toks": 12, "do_sample": False}) for context in contexts]
    ours, harness = pair
    assert ours.generate_until(requests("generate_until", arguments)) == harness.generate_until(
        requests("generate_until", arguments), disable_tqdm=True
    )


def test_a_generation_without_context_begins_at_the_beginning_of_text(pair):
    ours = pair[0]
    settings = {"until": ["\x00"], "max_gen_toks": 6, "do_sample": False}
    bare = Scorer(ours.model, ours.tokenizer)
    bare.encode = lambda strings, special=True: {
        string: ours.encode([string], special=False)[string] for string in strings
    }
    assert bare.encode([""]) == {"": []}  # as of a tokenizer without BOS
    (found,) = bare.generate_until(requests("generate_until", [("", settings)]))
    ids = torch.tensor([[ours.prefix_token_id]])
    expected = ours.model.generate(ids, max_new_tokens=6, do_sample=False)[0, 1:]
    assert found == ours.tokenizer.decode(expected, skip_special_tokens=True)


def test_batch_composition_changes_nothing(pair, data):
    model, tokenizer = pair[0].model, pair[0].tokenizer
    reference = responses(pair[0], "arc_easy", data)
    for row_tokens in (1, 40, 64, 2000):
        again = responses(Scorer(model, tokenizer, row_tokens=row_tokens), "arc_easy", data)
        torch.testing.assert_close(
            torch.tensor([[r[0][0] for r in doc] for doc in again]),
            torch.tensor([[r[0][0] for r in doc] for doc in reference]),
            atol=TOLERANCE,
            rtol=0,
        )


# Whose prompts are ours.
OURS = {"sciq_closed", "mmlu", "jeopardy", "squad", "squad_closed", "popqa", "simpleqa"}


@pytest.mark.parametrize("task", [task for task in TASKS if task not in OURS])
def test_prompts_are_the_harness_own(data, task):
    """Our definitions change where documents lie and triviaqa's doubled question mark, nothing that a model reads."""
    import yaml

    included = yaml.safe_load((task_definitions.DEFINITIONS / f"{task}.yaml").read_text())["include"]
    rows = [json.loads(line) for line in (data / task / "data.jsonl").read_text().splitlines()]
    config = task_definitions.load_yaml(HARNESS / included)
    split = config.get("test_split") or config["validation_split"]
    config |= {
        "task": task,
        "tag": None,
        "dataset_path": None,
        "dataset_name": None,
        "training_split": None,
        "validation_split": None,
        "test_split": split,
        "custom_dataset": lambda **_: task_definitions._dataset(Dataset.from_list(rows), split),
    }
    harness = TaskManager(include_defaults=False).load([config])["tasks"][task]
    own = load_task(task, data / task / "data.jsonl", None, 8).task
    for each in (harness, own):
        each.build_all_requests()
    for mine, theirs in zip(own.instances, harness.instances, strict=True):
        expected = theirs.args
        if task == "triviaqa":
            assert "??" in expected[0]
            assert mine.args[0] == expected[0].replace("??", "?")
            assert mine.args[1]["until"] == expected[1]["until"]
        else:
            assert mine.args == expected
    assert own.VERSION == harness.VERSION
