"""Whether a task makes the same documents and questions in every process.

Python's hash() of texts, and with it the order of a set, is another in each process: PYTHONHASHSEED, unless somebody
sets it, is drawn at random. So a task with functions of its own is asked in processes with other seeds, too. This
module is their program: it reads {name, data, variant} from standard input and prints [[line, digest], ...].
"""

import copy
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from lm_eval.utils import env as environment

from workflow_scripts.evaluate.documents import Item
from workflow_scripts.evaluate.tasks import EvaluationTask, load_task
from workflow_scripts.files.artifacts import ArtifactError, digest

PROGRAM = [sys.executable, "-m", "workflow_scripts.evaluate.repeat_check"]
SEEDS = ("1", "2")  # of Python's hash; two, as a set of few texts has the same order under half of all seeds


def has_functions(definition: object) -> bool:
    """Whether a task's definition calls Python beyond the harness's own templates."""
    if isinstance(definition, dict):
        return any(map(has_functions, definition.values()))
    return any(map(has_functions, definition)) if isinstance(definition, list) else callable(definition)


def require_repeatable(task: EvaluationTask, variant: dict) -> None:
    """ArtifactError with the first line of which the task makes another question in another process."""
    here = digests(task)
    asked = {"name": task.name, "data": str(task.data.resolve()), "variant": variant}
    with ThreadPoolExecutor() as pool:
        others = list(pool.map(_elsewhere, [asked] * len(SEEDS), SEEDS))
    for there in others:
        if here != there:
            line = next((a[0] for a, b in zip(here, there, strict=False) if a != b), here[0][0])
            raise ArtifactError(
                f"task {task.name}: {task.data}: line {line}: its own function makes another document of it in "
                "another process (hash(), the order of a set, the clock); no two cells would have the same items"
            )


def _elsewhere(asked: dict, seed: str) -> list[list]:
    """`digests` of a process with this seed of Python's hash."""
    done = subprocess.run(
        PROGRAM,
        input=json.dumps(asked),
        text=True,
        capture_output=True,
        check=False,
        env=os.environ | {"PYTHONHASHSEED": seed},
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ArtifactError(f"task {asked['name']}: can't be asked in another process: {last[0]}")
    found: list[list] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def compiled_templates() -> Iterator[None]:
    """The harness compiles a task's templates anew for each document; here it keeps them."""
    usual = environment.from_string
    environment.from_string = functools.cache(usual)
    try:
        yield
    finally:
        environment.from_string = usual


def digests(task: EvaluationTask) -> list[list]:
    """[line, digest of document and question] of each item."""
    return [
        [item.line.number, digest([repr(item.document), repr(question(task, item))])] for item in task.items
    ]


def question(task: EvaluationTask, item: Item) -> tuple:
    """Text, choices and right answer, as the task makes them of a copy of the document."""
    harness, document = task.task, copy.deepcopy(item.document)
    choices = harness.doc_to_choice(document) if harness.OUTPUT_TYPE == "multiple_choice" else None
    return harness.doc_to_text(document), choices, harness.doc_to_target(document)


def main() -> int:
    """Print the digests of what standard input asks for."""
    asked = json.load(sys.stdin)
    name, data, variant = asked["name"], asked["data"], asked["variant"]
    with compiled_templates():
        task = load_task(name, data, None, 1, None, variant.get("task"), variant.get("num_fewshot"))
        print(json.dumps(digests(task)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
