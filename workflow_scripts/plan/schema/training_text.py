"""Checks of the text that adapters are trained on: a corpus, or items of tasks, and what of these a grid scores."""

import math
from collections.abc import Iterable, Iterator, Mapping

from workflow_scripts.plan.names import unknown
from workflow_scripts.plan.schema.configuration import Config
from workflow_scripts.plan.schema.grids import Grid
from workflow_scripts.plan.schema.methods import TrainingText
from workflow_scripts.plan.schema.sources import Benchmark


def of_text(config: Config, key: str, text: TrainingText) -> Iterator[str]:
    """The mistakes in the text that a method names."""
    given = [text.corpus is not None, text.task is not None or text.part is not None, text.tasks is not None]
    if sum(given) != 1 or (text.task is None) != (text.part is None):
        yield f"{key}: give either a corpus' name, task and part, or tasks"
    if text.corpus is not None and text.corpus not in config.corpora:
        yield unknown(key, text.corpus, config.corpora, "name in corpora")
    named = {"task": text.task} if text.task is not None else {}
    named |= {f"tasks[{index}]": task for index, task in enumerate(text.tasks or ())}
    for place, task in named.items():
        if task not in config.tasks:
            yield unknown(f"{key}.{place}", task, config.tasks, "name in tasks")
        elif config.tasks[task].wordings is None:
            said = f"tasks.{task} has no wordings, in which its items would be written; give it some"
            yield f"{key}.{place}: {said}"


def tasks_told(config: Config, method: str) -> list[str]:
    """The tasks on whose items a method, or a member of it, is trained."""
    texts = _texts(config, method)
    named = [text.task for text in texts if text.task is not None]
    return [*named, *(task for text in texts for task in text.tasks or ())]


def of_grid(config: Config, method: str, grid: Grid) -> Iterator[str]:
    """The problems of the tasks on whose items a method of the grid is trained."""
    data, items = config.benchmarks.get(grid.benchmarks, {}), grid.evaluation.items
    for text in _texts(config, method):
        if text.task in config.tasks and text.task not in grid.tasks:
            yield f"is trained on items of {text.task}, of which this grid scores none; add it to tasks"
        for task in text.tasks or ():
            if task in config.tasks and task not in data:
                yield f"is trained on items of {task}, which benchmarks.{grid.benchmarks} lacks; give it a source there"
                continue
            known = getattr(data.get(task), "items", None) or math.inf
            if items is None or items >= known:
                for asked in _asking(data, task, grid.tasks):
                    also = "" if asked == task else f" (the same file as {task}'s)"
                    yield (
                        f"is trained on the items that the grid does not score, and it scores all of {asked}{also}; "
                        f"lower evaluation.items, or take {asked} from tasks or {task} from the family"
                    )


def _texts(config: Config, method: str) -> list[TrainingText]:
    """The texts of their own on which a method and its members are trained."""
    names = [method, *(member.adapter for member in config.methods[method].combines)]
    texts = (getattr(config.methods[name], "corpus", None) for name in names if name in config.methods)
    return [text for text in texts if text is not None]


def _asking(data: Mapping[str, Benchmark], task: str, tasks: Iterable[str]) -> list[str]:
    """Those of `tasks` whose items lie in the file of `task`."""
    files = {name: _file(data[name]) for name in (task, *tasks) if name in data}
    return [name for name in tasks if files.get(name) == files.get(task, "")]


def _file(source: Benchmark) -> dict:
    """What says where items come from."""
    return {key: value for key, value in source.dump().items() if key not in ("note", "licence", "items")}
