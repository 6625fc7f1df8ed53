"""A rebuilt grid beside the archive that it was rebuilt from, file by file."""

from pathlib import Path
from typing import Any

from workflow_scripts.archive.packing import rolled_up
from workflow_scripts.files.artifacts import read_json
from workflow_scripts.plan.layout import VERDICT, is_outcome

PRESENT_RULE = 5  # first schema of verdict.json whose verdicts follow it


def held_against(archive: Path, index: dict, folder: Path) -> list[str]:
    """Sentences that say if the rebuilt verdict, tables, figures and audit equal the archive's.

    A verdict.json of an older schema counts as equal if all its values stand unchanged in the rebuilt one.
    """
    made = set(rolled_up(index["grid"], archive))
    packed = [name for name in index["files"] if name in made and is_outcome(name)]
    if not packed:
        return ["The archive holds no tables or figures to compare with."]
    older = [name for name in packed if _is_older(archive / name, folder / name)]
    differ = [name for name in packed if not _same(archive / name, folder / name, name in older)]
    if differ:
        sentences = [
            f"{len(packed) - len(differ)} of {len(packed)} files are equal to the archive's; these differ:"
        ]
        sentences += [f"  {name}" for name in differ]
    else:
        sentences = [f"All {len(packed)} tables, figures, verdict and audit are equal to the archive's."]
    for name in older:
        there, here = (_schema(read_json(root / name)) for root in (archive, folder))
        sentences.append(
            f"{name}: made by an older schema ({there}, now {here}), so the values of both were compared."
        )
        if there < PRESENT_RULE <= here:
            sentences.append("  Its verdicts follow an older rule; the rebuilt ones follow today's.")
    return sentences


def _schema(verdict: dict[str, Any]) -> int:
    """The version of a verdict.json; the first did not name it."""
    return verdict.get("schema", 1)


def _is_older(archived: Path, rebuilt: Path) -> bool:
    if archived.name != VERDICT.name or not rebuilt.is_file():
        return False
    return _schema(read_json(archived)) < _schema(read_json(rebuilt))


def _same(archived: Path, rebuilt: Path, older: bool) -> bool:
    if older:
        own = {key: value for key, value in read_json(archived).items() if key not in ("schema", "manifest")}
        return holds(read_json(rebuilt), own)
    return rebuilt.is_file() and archived.read_bytes() == rebuilt.read_bytes()


def holds(whole: Any, part: Any) -> bool:
    """True if JSON `whole` has every value of `part` in its place; its objects may have more keys."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(k in whole and holds(whole[k], v) for k, v in part.items())
    if isinstance(part, list):
        same_length = isinstance(whole, list) and len(whole) == len(part)
        return same_length and all(holds(*pair) for pair in zip(whole, part, strict=True))
    return type(whole) is type(part) and whole == part
