"""Digests of the definitions of tasks, for recipes and for results that a cell takes over."""

import functools

from workflow_scripts.files.artifacts import PACKAGE, sha256_file


@functools.cache
def definition_digest(task: str) -> str:
    """Digest of the task's definition among ours; a task of the harness alone is versioned by its library."""
    file = PACKAGE / "evaluate" / "tasks" / f"{task}.yaml"
    return sha256_file(file) if file.is_file() else task


@functools.cache
def definition_files(tasks: frozenset[str]) -> dict[str, str]:
    """Our definitions of these tasks: path in the checkout -> digest."""
    files = {task: f"{PACKAGE.name}/evaluate/tasks/{task}.yaml" for task in sorted(tasks)}
    return {
        file: definition_digest(task) for task, file in files.items() if (PACKAGE.parent / file).is_file()
    }
