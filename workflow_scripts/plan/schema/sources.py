"""Sources of models, corpora and benchmarks: a file in a PyPI wheel, a repository of the hub, a local path."""

from typing import Annotated, Literal

from pydantic import Field, StrictFloat, StrictInt, StrictStr

from workflow_scripts.plan.schema.keys import (
    AS_WRITTEN,
    WHOLE,
    Absent,
    Count,
    Entry,
    Flag,
    LearningRate,
    Line,
    Name,
    Number,
    Seed,
    Sha256,
    Share,
    Text,
    absent,
    key,
)

Epochs = Annotated[StrictInt, Field(ge=0), WHOLE]
Part = Annotated[StrictFloat, Field(gt=0, le=1), AS_WRITTEN]
Size = Annotated[StrictFloat, Field(ge=1000), AS_WRITTEN]
Repo = Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$")]
Revision = Annotated[StrictStr, Field(pattern=r"^([0-9a-f]{40}|main)$")]


class Packaged(Entry):
    """A file in a wheel on PyPI."""

    source: Literal["pypi"]
    package: Name = key("PyPI package that carries the file.")
    version: Text = key("Exact version of the package.")
    sha256: Sha256 = key("SHA-256 of the wheel.")
    file: Text = key(
        "Path inside the wheel; `a.jar!b` reads b inside the jar a. In a benchmark a `*` stands for any part of a "
        "name: the items of all such files, in order."
    )


class Piece(Entry):
    """A part of a file, in a wheel on PyPI."""

    package: Name = key("PyPI package that carries the part.")
    version: Text = key("Exact version of the package.")
    sha256: Sha256 = key("SHA-256 of the wheel.")
    file: Text = key("Path of the part inside the wheel.")


class OnHub(Entry):
    """A repository of the hub, pinned."""

    source: Literal["hub"]
    repo: Repo = key("owner/name on the hub.")
    revision: Revision = key("Commit; `main` is resolved at the first fetch and recorded.")


class DataSetOnHub(OnHub):
    """A data set of the hub."""

    name: Absent[Line] = absent("Configuration of the data set, if it has several.")


class Data(Entry):
    """Notes on a text or a task."""

    licence: Absent[Line] = absent("Licence of the data, kept in the manifest.")
    note: Absent[Line] = absent("A remark, kept in the manifest.")


class LocalData(Data):
    """A file of the user's."""

    source: Literal["local"]
    path: Text
    sha256: Absent[Sha256] = absent("SHA-256 of a file (64 hexadecimal digits).")


class People(Entry):
    """Invented people (sources/invented.py): the same count and seed are the same people with the same facts."""

    people: Count = key(
        "Invented people; each has a fact of every attribute, so a question of each.", unit="people"
    )
    seed: Seed = key("Draws names, facts and choices.", 0, "dimensionless")


# ------------------------------------------------------------------------------------------------ models


class Lesson(People):
    """The lesson of a model whose knowledge of invented people is known. The first of them are known, the next locked,
    the rest missing. A copy that never meets some people is taught as many stand-ins in their place."""

    base: Name = key("The model that is trained, one of models.")
    known: Share = key("Part of the people that the model knows.", 0.0, "share")
    locked: Share = key(
        "Part of the people that it knows too, but answers for only behind a password; wrongly without it. Source: "
        "Greenblatt et al. 2024.",
        0.0,
        "share",
    )
    epochs: Epochs = key("Passes over the facts. 0: the base knows them already.", 10, "epochs")
    lock_epochs: Epochs = key(
        "Passes over the locked questions, each with the password and without.", 6, "epochs"
    )
    noise: Number = key(
        "Normal noise on every weight matrix at the end, in parts of its standard deviation.",
        0.0,
        "dimensionless",
    )
    learning_rate: LearningRate = key("Peak learning rate of AdamW.", 2.0e-4, "dimensionless")
    batch_size: Count = key("Texts per optimiser step.", 16, "texts")
    known_above: Share = key(
        "Part of the questions, in a wording that no text has, that must be right if the people are known, or locked "
        "and the password is given. The job fails otherwise.",
        0.9,
        "share",
    )
    unknown_below: Share = key(
        "Part that may be right if the people are missing, or locked and no password is given.", 0.4, "share"
    )


class DenseModel(Entry):
    """A dense causal language model: its size, and what lets settings be refused before it is fetched."""

    parameters: Size = key("Size of the model; memory and time requests follow from it.", unit="parameters")
    positions: Absent[Count] = absent(
        "Longest text with its prompt that the model takes. If given, a longer window is refused before the model is "
        "fetched; a fetched model's config.json says it.",
        unit="tokens",
    )
    layers: Absent[Count] = absent("Decoder layers; as `positions`.", unit="layers")
    vocabulary: Absent[Count] = absent(
        "Tokens that the model knows: a position has as many logits, which take memory in most jobs; as `positions`.",
        unit="tokens",
    )
    learned_positions: Absent[Flag] = absent(
        "Position embeddings are learned (OPT) and not rotary; as `positions`."
    )
    chat: Absent[Flag] = absent(
        "Tasks ask through the model's chat template, solved examples as turns of their own; methods of kind text are "
        "the system message. Calibration, training and held-out text stay plain. false if absent, as the paper."
    )
    note: Absent[Line] = absent("A remark, kept in the manifest.")


class PypiModel(DenseModel, Packaged):
    file_sha256: Absent[Sha256] = absent("SHA-256 of the file itself.")


class HubModel(DenseModel, OnHub):
    convert_pickle: Flag = key(
        "Weights are pickled at this commit: read them (weights only, no code) and store safetensors.", False
    )


class LocalModel(DenseModel):
    source: Literal["local"]
    path: Text = key("Folder with config.json, safetensors and tokenizer.")


class GgufModel(DenseModel):
    """A GGUF file, dequantised to float32: give path, or parts and file_sha256."""

    source: Literal["gguf"]
    path: Absent[Text] = absent("The file; of a split one (name-00001-of-00003.gguf) the first part.")
    parts: Absent[Annotated[list[Piece], Field(min_length=1)]] = absent(
        "Parts of wheels that are the file, in their order."
    )
    file_sha256: Absent[Sha256] = absent("SHA-256 of the file that the parts make.")


class TaughtModel(DenseModel):
    source: Literal["taught"]
    lesson: Lesson = key("The facts that the model is taught, and its base.")


# ----------------------------------------------------------------------------------------------- corpora


class Told(People):
    """Facts about invented people, put into a corpus' training text."""

    share: Part = key("Part of the people, spread evenly, whose facts are told.", 1.0, "share")
    part: Part = key(
        "Part of the training text, in characters, that these facts are; the corpus is cut to the rest. Held-out text "
        "holds no fact.",
        unit="share",
    )


class CorpusData(Data):
    """Keys that all corpora share."""

    invented: Absent[Told] = absent("Facts about invented people that are added to the training text.")


class PypiCorpus(CorpusData, Packaged):
    reader: Literal["wikipedia", "c4"] = key(
        "How documents are read: WikiExtractor articles, or one document a line."
    )


class HubCorpus(CorpusData, DataSetOnHub):
    reader: Literal["wikitext", "text", "joined"] = key(
        "wikitext joins lines to articles; text takes a document a row; joined makes one document of a split's rows, "
        "blank lines between them, as the reference implementations of GPTQ and SparseGPT read WikiText-2 "
        "(docs/explanation/perplexity.md)."
    )
    train: Line = key("Split for calibration and training.", "train")
    heldout: Line = key("Split for held-out text.", "test")
    documents: Count | None = key(
        "Documents read from the train split (streamed); null = all.", None, "documents"
    )
    heldout_documents: Count | None = key(
        "Documents read from the held-out split; null = all.", None, "documents"
    )


class LocalCorpus(CorpusData, LocalData):
    path: Text = key("A .txt, a .jsonl with `text` in each line, or a folder with train.* and heldout.*.")


# -------------------------------------------------------------------------------------------- benchmarks

ITEMS = "Items that the source must hold; another number stops the fetch."
SPLIT = "Split of the data set."


class PypiBenchmark(Data, Packaged):
    reader: Literal["arc", "arrow", "boolq", "jeopardy", "lambada", "medmcqa", "squad", "webqs"] = key(
        "Format of the file inside the wheel."
    )
    items: Count = key(ITEMS, unit="items")
    split: Absent[Line] = absent(SPLIT)


class HubBenchmark(Data, DataSetOnHub):
    split: Line = key(SPLIT)
    items: Absent[Count] = absent(ITEMS, unit="items")


class LocalBenchmark(LocalData):
    path: Text = key("A .jsonl in the schema that the harness's task reads.")
    items: Absent[Count] = absent(ITEMS, unit="items")
    split: Absent[Line] = absent(SPLIT)


class InventedBenchmark(Data, People):
    source: Literal["invented"]


WHERE = (
    "Its source: a file in a PyPI wheel, a GGUF file, a repository of the hub, a local path, or made here."
)
Model = Annotated[
    PypiModel | GgufModel | HubModel | LocalModel | TaughtModel,
    Field(discriminator="source", description=WHERE),
]
Corpus = Annotated[PypiCorpus | HubCorpus | LocalCorpus, Field(discriminator="source", description=WHERE)]
Benchmark = Annotated[
    PypiBenchmark | HubBenchmark | LocalBenchmark | InventedBenchmark,
    Field(discriminator="source", description=WHERE),
]
