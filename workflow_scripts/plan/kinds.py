"""Kinds of results: the settings that choose what a rule's code does. Evidence of one kind says nothing of another.

A kind has a word for each switch, each choice among words, and each key that may be absent and is there. Sizes choose
no code. A checkpoint or recipe of somebody else is a kind by its name: a file that nobody has read yet says its format.
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import ClassVar, Literal, get_origin

from workflow_scripts.plan import model_limits
from workflow_scripts.plan.adopted import of_part
from workflow_scripts.plan.layout import Cell
from workflow_scripts.plan.schema.compressors import External, Recipe
from workflow_scripts.plan.schema.keys import Entry
from workflow_scripts.plan.schema.methods import Trained
from workflow_scripts.plan.slices import DESCRIPTIVE_KEYS, Slices, lesson_of

# Keys of a model that serve forecasts, checks, or its evaluations alone.
OF_MODEL = ("parameters", "learned_positions", *model_limits.HINTS, "chat")
# Keys of a compressor that choose how weights are computed, not how they are stored.
COMPUTED = ("clip", "true_sequential", "forward", "count", "layers", "rank", "ratio", "distilled")
# Keys of a method that choose how an adapter is made, not how it is attached.
OF_TRAINING = ("start", "init", "trained", "layers")
OF_TEXT = ("corpus", "seed_offset", "training")
# Keys of a source that say where its files lie and what they must be, not how they are read.
OF_PLACE = ("repo", "revision", "package", "version", "sha256", "file_sha256", "items", "split", "model")
NAMING = ("algorithm", "kind", "source", "reader", "peft_type")  # their values speak for themselves
ON = " on "  # between what was done to a compressed model and how that is stored
FORMATS = (".jsonl", ".txt", ".gguf")


class Kinds(Slices):
    """A checked configuration's kinds of results."""

    CACHED: ClassVar[tuple[str, ...]] = (
        *(*Slices.CACHED, "compressor_kind", "_stored", "_attached_kind", "_asked", "_trained"),
    )

    def source_kinds(self, catalogue: str, name: str, task: str | None = None) -> tuple[str, ...]:
        """A source by its name, for which evidence of its own counts, and by the way in which it is fetched, for which
        a release's counts. One that is taught has no such way: its lesson is a training."""
        source = self.source(catalogue, name, task)
        own = f"{name}/{task}" if task else name
        if lesson_of(source):
            return (own,)
        found = words(source, {*OF_MODEL, *DESCRIPTIVE_KEYS, *OF_PLACE, "algorithm", "distilled"})
        place = getattr(source, "path", None) or getattr(source, "file", None) or ""
        suffix = Path(place).suffix
        form = suffix if suffix in FORMATS else "folder" if found[0] == "local" else ""
        found += [form] * bool(form) + ["in an archive"] * ("!" in place) + ["several files"] * ("*" in place)
        found += ["trusted_code"] * (catalogue == "models" and name in self.config.trusted_code)
        return own, " ".join(found)

    def compressor_kind(self, compressor: str) -> str:
        """Of compressed models."""
        return self._words_of_compressor(compressor, ())

    def adapter_kind(self, cell: Cell) -> str:
        """Of adapters."""
        return f"{self._trained(cell.grid, cell.method)}{ON}{self._stored(cell.compressor)}"

    def evaluation_kind(self, cell: Cell) -> str:
        """Of evaluations."""
        chat = ", chat" if self.config.models[cell.model].chat else ""
        return f"{self.similarity_kind(cell)}{self._asked(cell.grid)}{chat}"

    def similarity_kind(self, cell: Cell) -> str:
        """Of similarities."""
        return f"{self._attached_kind(cell.method)}{ON}{self._stored(cell.compressor)}"

    def _stored(self, compressor: str) -> str:
        return self._words_of_compressor(compressor, COMPUTED)

    def _words_of_compressor(self, compressor: str, without: Collection[str]) -> str:
        entry = self.config.compressors[compressor]
        if isinstance(entry, Recipe) or (isinstance(entry, External) and not entry.lesson):
            return f"{entry.algorithm} {compressor}"
        return " ".join(words(entry, {*without, *OF_PLACE}))

    def _attached_kind(self, method: str) -> str:
        return " ".join(words(self.config.methods[method], (*OF_TRAINING, *OF_TEXT)))

    def _asked(self, grid: str) -> str:
        found = words(self.grid(grid).evaluation, ("items", "generation_tokens", "perplexity"))
        found += ["worked examples"] * any(
            task["num_fewshot"] is not None for task in self.task_settings(grid).values()
        )
        return "".join(f", {word}" for word in found)

    def _trained(self, grid: str, method: str) -> str:
        entry, settings = self.config.methods[method], self.training(grid, method)
        found = words(entry, OF_TEXT)
        if isinstance(entry, Trained) and entry.corpus:
            text = entry.corpus
            found += ["items of a task"] if text.task else ["items of a family"] if text.tasks else []
        if (objective := settings.get("objective", "text")) != "text":
            found += [objective, *(key for key in ("temperature", "mixture") if key in settings)]
        return ", ".join([" ".join(found), *words(self.regime(grid), ())])


def of_model(kind: str, model: str) -> tuple[str, str]:
    """Kinds of which evidence counts for a result: its own, of this model, since code may depend on the architecture,
    and the one for which a release's counts."""
    return of_part(kind, model), kind


def words(entry: Entry, without: Collection[str]) -> list[str]:
    """What an entry chooses, its own name first; defaults are left out."""
    named = [value for key in NAMING if key not in without and (value := getattr(entry, key, None))]
    return [*named, *_words(entry, {*without, *NAMING})]


def _words(entry: Entry, without: Collection[str]) -> Iterator[str]:
    for key, field in type(entry).model_fields.items():
        value = getattr(entry, key)
        if key in without or value is None or value == field.default:
            continue
        if get_origin(field.annotation) is Literal:
            yield f"{key} {value}"
        elif isinstance(value, bool):
            yield key if value else f"not {key}"
        elif field.default is None:
            yield key
