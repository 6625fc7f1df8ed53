"""The date on which a grid's question (its pair of methods and primary metric) was first planned, and the cells that
were evaluated by then.

A run writes results/<grid>/questions.json as it starts. A question that was changed after results could be seen is no
question that was asked before the run.
"""

import os
import time
from pathlib import Path
from typing import Any

from workflow_scripts.files.artifacts import read_json, write_json
from workflow_scripts.files.locks import hold

ADVICE = "put an older copy back, or delete it: reports will then say that nothing is known of the time"


def note(path: str, question: dict[str, Any], code: str, config: str, cells: list[str]) -> None:
    """Add a grid's question to its record at `path`, if it is not the last one there. ArtifactError for a damaged one.

    question: {pair, metric}. code, config: digests of the code that judges and of the configuration. cells: paths of
    the grid's evaluations.
    """
    with hold(path):
        known = read(path)
        if known and {key: known[-1][key] for key in question} == question:
            return
        entry = {
            "planned": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "code": code,
            "config": config,
            "cells": len(cells),
            "evaluated": sum(map(os.path.exists, cells)),
        }
        write_json(path, {"questions": [*known, question | entry]}, schema="questions")


def read(path: str | Path) -> list[dict[str, Any]]:
    """The questions of a grid in the order in which they were planned; empty without a record."""
    if not os.path.exists(path):
        return []
    found: list[dict[str, Any]] = read_json(path, "questions", ADVICE)["questions"]
    return found


def late_changes(path: str | Path) -> list[str]:
    """A sentence for each question of the record that was planned after cells of the grid had been evaluated."""
    sentences = []
    for number, entry in enumerate(read(path)):
        if entry["evaluated"]:
            names = f"{entry['pair']['prompt']} and {entry['pair']['lora']} by {entry['metric'].replace('_', ' ')}"
            seen = f"{entry['evaluated']} of {entry['cells']} cells were evaluated by then"
            before = "was first noted" if number == 0 else "took the place of another question"
            sentences.append(f"The question ({names}) {before} at {entry['planned']}: {seen}.")
    return sentences
