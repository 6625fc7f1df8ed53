"""Tasks, training regimes and grids."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StrictInt

from workflow_scripts.plan.schema.keys import (
    WHOLE,
    Absent,
    Count,
    Entry,
    LearningRate,
    Length,
    Line,
    Name,
    Names,
    Number,
    PositiveNumber,
    Precision,
    Seed,
    Share,
    Template,
    Text,
    absent,
    key,
    unique,
)
from workflow_scripts.plan.schema.methods import Objective

SequenceLength = Annotated[StrictInt, Field(ge=2, le=2**20), WHOLE]
Whole = Annotated[StrictInt, Field(ge=0), WHOLE]
Rounds = Annotated[StrictInt, Field(ge=3), WHOLE]
Label = Literal["no_loss", "displaced", "forgotten", "both", "unrecovered"]
Repeatable = Annotated[list[Name], Field(min_length=1)]  # names, each as often as it is wanted


class Strata(Entry):
    """Fields of an item by which a report groups a task's items."""

    subject: Absent[Text] = absent("Field that names the item's subject.")
    popularity: Absent[Text] = absent(
        "Field with the popularity of the item's entity, a number; `mentions`: documents of the training text that "
        "name the question's entity."
    )


class Task(Entry):
    domain: Literal["world", "common", "language"] = key("Domain of the paper's tables.")
    task: Line | None = key(
        "The harness's task (or the file in evaluate/tasks) that this entry is a variant of; null = the entry's own "
        "name.",
        None,
    )
    num_fewshot: Whole | None = key(
        "Solved examples before each question, drawn from the task's own data; null = as the task defines (0 for the "
        "nine).",
        None,
        "examples",
    )

    context: Absent[Template] = absent(
        "Jinja template over an item's fields that gives the passage with its answer, and the white space behind it; "
        "methods of kind context put it before the question."
    )
    strata: Absent[Strata] = absent(
        "How a report groups the items: lost and recovered by subject, or by tenths of popularity."
    )
    wordings: Absent[Annotated[list[Template], Field(min_length=1), AfterValidator(unique)]] = absent(
        "Jinja templates over an item's fields that write its question and right answer as training text (for methods "
        "with corpus: {task, part}); each item is written in every wording."
    )


# ---------------------------------------------------------------------------------------------- training


class Tuner(Objective):
    """Optimiser settings and objective."""

    learning_rate: LearningRate = key("Peak learning rate of AdamW.", unit="dimensionless")
    weight_decay: Number = key("AdamW's weight decay.", 1.0e-5, "dimensionless")
    warmup: Share = key("Part of the steps with a rising learning rate.", 0.05, "share")


class Regime(Entry):
    """Budget and settings of training."""

    tokens: Count = key("Training text per adapter; the paper's is 40,960,000.", unit="tokens")
    sequence_length: SequenceLength = key("Length of a packed window.", 256, "tokens")
    batch_size: Count = key("Windows per optimiser step.", 8, "windows")
    micro_batch: Count = key("Windows per forward pass; gradients accumulate up to batch_size.", 8, "windows")
    schedule: Literal["linear", "cosine", "constant"] = key(
        "Learning rate after warm-up: falling to 0 in a line or half a cosine, or constant.", "linear"
    )
    precision: Precision = key("Precision of the frozen model's forward and backward pass.", "fp32")
    checkpoint_minutes: PositiveNumber = key("Time between checkpoints.", 2, "minutes")
    heldout_windows: Count = key(
        "Held-out windows on which the loss is measured before and after.", 8, "windows"
    )
    lora: Tuner = key("Optimiser settings of LoRA, and of methods of kind peft.")
    prompt: Tuner = key("Optimiser settings of prompt tuning.")
    prefix: Tuner = key("Optimiser settings of prefix tuning.")


# ------------------------------------------------------------------------------------------------- grids


class Windows(Entry):
    """A sample of text."""

    length: Length = key("Length of a window.", unit="tokens")


class Calibration(Windows):
    windows: Count = key("Calibration windows, drawn from the corpus' training text.", unit="windows")


class Perplexity(Windows):
    corpora: Names = key("Corpora whose held-out text is measured.")
    windows: Count | None = key("Windows per corpus; null = all held-out text.", unit="windows")


class Evaluation(Entry):
    items: Count | None = key("Items per task, the same ones in every cell; null = all.", None, "items")
    generation_tokens: Count | None = key(
        "Upper limit of generated tokens beside each task's own (triviaqa's longest alias + margin; else its "
        "definition's, or 256); null = none.",
        None,
        "tokens",
    )
    precision: Precision = key("Precision of the model's body in evaluation.", "fp32")
    perplexity: Perplexity = key("Perplexity of held-out text.")


class Similarity(Windows):
    methods: Names = key("Methods that are measured if the grid has their cell.")
    corpus: Name = key("Held-out text used.")
    windows: Count = key("Windows of held-out text.", unit="windows")


class Latency(Entry):
    compressors: Repeatable = key(
        "Compressors for which latency is measured (with the grid's models and corpora)."
    )
    methods: Repeatable = key("Methods that are timed; members of IDP and concatenation come with them.")
    batch: Count = key("Sequences per forward pass.", unit="sequences")
    sequence: Count = key("Length of a sequence.", unit="tokens")
    generate: Whole = key("Generated tokens timed after the prefill.", 8, "tokens")
    repeats: Rounds = key("Timed rounds after one warm-up; intervals cover 95 % from six on.", unit="rounds")


class Pair(Entry):
    prompt: Name = key("The method that redirects: of kind prompt, prefix, idp, concat, text or fewshot.")
    lora: Name = key("The method that adds parameters: of kind lora or peft.")

    def items(self) -> list[tuple[str, str]]:
        """(role, method) of both."""
        return [("prompt", self.prompt), ("lora", self.lora)]


class Block(Entry):
    models: Names = key("Names in models.")
    compressors: Names = key("Names in compressors.")
    corpora: Names = key("Names in corpora, or `none` if nothing is calibrated or trained.")
    methods: Names = key("Names in methods.")
    seeds: Annotated[list[Seed], Field(min_length=1), AfterValidator(unique)] = key(
        "Replicates: each seed draws calibration text, training text, order and start. Method none on a compressor "
        "that calibrates nothing has no seed but 0.",
        [0],
    )


class Grid(Entry):
    """A union of blocks with its budget."""

    description: Line = key("One line for reports.", "")
    benchmarks: Name = key("The set of task data.")
    tasks: Names = key("The grid's tasks; named, so that a task added to the catalogue changes no grid.")
    training: Name = key("The training regime.")
    device: Name = key(
        "Device of plan/devices.yaml whose speed `make forecast` and the report assume.", "cpu-2"
    )
    calibration: Calibration = key("Text that calibrated compressors see.")
    evaluation: Evaluation = key("Evaluation of every cell.")
    similarity: Absent[Similarity] = absent(
        "Layerwise similarity to the dense model (figure 5); absent = not measured."
    )
    latency: Absent[Latency] = absent("Latency measurement (paper, 3.3); absent = not measured.")
    pair: Pair = key("The two methods that the verdict compares, named before the run.")
    metric: Literal["accuracy", "choice_loglik", "bits_per_byte"] = key(
        "The primary metric, named before the run: its verdict is the grid's, over the informative tasks.",
        "accuracy",
    )
    expected: Absent[dict[Name, dict[Name, Label]]] = absent(
        "Compressor -> corpus -> the label that its verdict should have, written before the run: of copies whose truth "
        "is known. `python -m workflow_scripts truth` holds the verdicts against it."
    )
    blocks: dict[Name, Block] = key(
        "Blocks by name; the grid is their union, each a product of its lists.", min_length=1
    )

    @property
    def compared(self) -> Similarity:
        """Settings of the similarity measurement; KeyError if there is none."""
        if self.similarity is None:
            raise KeyError("the grid measures no similarity")
        return self.similarity

    @property
    def timed(self) -> Latency:
        """Settings of the latency measurement; KeyError if there is none."""
        if self.latency is None:
            raise KeyError("the grid measures no latency")
        return self.latency
