"""A resumable store of answered requests: lines of JSON, appended as answers come, each with its own checksum."""

import json
import os
from pathlib import Path

from workflow_scripts.files.artifacts import digest


class AnswerStore:
    """Answers of one model under one method; `fingerprint` (weights, adapters, settings, code) is in every checksum.

    A line is {"key", "answer", "sum"}. A line that is cut short, damaged or of another fingerprint is skipped when the
    store is opened, so its request is simply computed again. Lines are handed to the system one by one: a killed
    process loses none that it has written.
    """

    def __init__(self, path: Path, fingerprint: str):
        self.path, self.fingerprint, self.damaged = Path(path), fingerprint, 0
        self._answers: dict[str, dict] = {}
        lines = self.path.read_bytes().split(b"\n") if self.path.exists() else []
        for line in filter(None, lines):
            try:
                entry = json.loads(line)
                intact = entry["sum"] == self._checksum(entry["key"], entry["answer"])
            except (ValueError, KeyError, TypeError):
                intact = False
            if intact:
                self._answers[entry["key"]] = entry["answer"]
            else:
                self.damaged += 1
        self._handle = open(self.path, "ab")  # noqa: SIM115 - held for the life of the store
        if lines and lines[-1]:
            self._handle.write(b"\n")  # after a line cut short

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> dict | None:
        return self._answers.get(key)

    def put(self, key: str, answer: dict) -> None:
        self._answers[key] = answer
        line = json.dumps({"key": key, "answer": answer, "sum": self._checksum(key, answer)}) + "\n"
        self._handle.write(line.encode())
        self._handle.flush()

    def close(self) -> None:
        os.fsync(self._handle.fileno())
        self._handle.close()

    def _checksum(self, key: str, answer: dict) -> str:
        return digest([self.fingerprint, key, answer])[:16]
