"""Methods by which performance is recovered."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, StrictFloat, StrictInt, model_serializer, model_validator

from workflow_scripts.plan.schema.keys import (
    AS_WRITTEN,
    WHOLE,
    Absent,
    Count,
    Entry,
    Flag,
    LearningRate,
    Name,
    Number,
    PositiveNumber,
    Seed,
    Share,
    Text,
    absent,
    key,
    unique,
)

Shots = Annotated[StrictInt, Field(ge=1, le=64), WHOLE]
Rank = Annotated[StrictInt, Field(ge=1, le=4096), WHOLE]
RepairRank = Annotated[StrictInt, Field(ge=2, le=64), WHOLE]
Layer = Annotated[StrictInt, Field(ge=0), WHOLE]
PromptLength = Annotated[StrictInt, Field(ge=1, le=65536), WHOLE]
Dropout = Annotated[StrictFloat, Field(ge=0, lt=1), AS_WRITTEN]


ALL_LINEAR = "all-linear"  # of `targets`: every linear of the decoder layers


def _with_default(targets: dict[str, list[str]]) -> dict[str, list[str]]:
    return {**targets, "default": targets.get("default", [ALL_LINEAR])}


def with_a_name(core_schema: Any, handler: Any) -> dict:
    """The JSON schema of an entry for which a name may stand."""
    rule = handler(core_schema)
    handler.resolve_ref_schema(rule)["type"] = ["string", "object"]
    return rule


class Method(Entry):
    """A method: whether it trains an adapter, and which prompts it combines."""

    trains: ClassVar[bool] = False

    @property
    def combines(self) -> list["Member"]:
        return []


class Objective(Entry):
    """The objective of a training."""

    objective: Absent[Literal["text", "kl_dense"]] = absent(
        "`text` (as if absent): the next token of the text; `kl_dense`: the dense model's distribution of it, so that "
        "the text tells nothing that the dense model did not hold."
    )
    temperature: Absent[PositiveNumber] = absent(
        "With kl_dense: T, by which both models' logits are divided (1 if absent); the divergence counts T^2.",
        unit="dimensionless",
    )
    mixture: Absent[Share] = absent(
        "With kl_dense: weight of the divergence (1 if absent); the rest is the text's own loss.",
        unit="share",
    )


class TunerOverride(Objective):
    """Training settings of one method alone."""

    learning_rate: Absent[LearningRate] = absent("In place of the regime's.", unit="dimensionless")
    weight_decay: Absent[Number] = absent("In place of the regime's.", unit="dimensionless")
    warmup: Absent[Share] = absent("In place of the regime's.", unit="share")
    tokens: Absent[Count] = absent("Training text in place of the regime's.", unit="tokens")


class TrainingText(Entry):
    """Text that an adapter is trained on. A name alone stands for {corpus: name}."""

    corpus: Absent[Name] = absent("A name in corpora.")
    task: Absent[Name] = absent(
        "A task of the grid with `wordings` in tasks: the adapter is trained on questions and right answers of half of "
        "the items that the grid scores, but those whose question stands in the other half too."
    )
    part: Absent[Literal["even", "odd"]] = absent(
        "With task: the half, by the items' hash; the other half is scored as never seen."
    )
    tasks: Absent[Annotated[list[Name], Field(min_length=1), AfterValidator(unique)]] = absent(
        "A family of tasks with `wordings`: the adapter is trained on questions and right answers of those of their "
        "items whose question no task of the grid scores."
    )

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        return {"corpus": value} if isinstance(value, str) else value

    @model_serializer
    def _as_written(self) -> str | dict[str, Any]:
        if self.tasks is not None:
            return {"tasks": self.tasks}
        return self.corpus if self.corpus is not None else {"task": self.task, "part": self.part}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict:
        return with_a_name(core_schema, handler)


class Trained(Method):
    """A method that trains an adapter."""

    trains: ClassVar[bool] = True
    corpus: Absent[TrainingText] = absent(
        "Text that the adapter is trained on, on weights that the path's corpus calibrated: a corpus' name, "
        "{task, part} or {tasks}; the path's corpus if absent."
    )
    seed_offset: Absent[Count] = absent(
        "Added to the cell's seed in training: another draw of text, order and start on the same compressed copy.",
        unit="dimensionless",
    )
    training: Absent[TunerOverride] = absent(
        "Training settings of this method alone; they override the regime's."
    )


class Member(Entry):
    """A trained prompt. A name alone stands for {adapter: name}."""

    adapter: Name = key("A method of kind prompt.")
    seed: Absent[Seed] = absent(
        "Seed of the adapter, on compressors of one copy alone; the cell's if absent.", unit="dimensionless"
    )

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        return {"adapter": value} if isinstance(value, str) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict:
        return with_a_name(core_schema, handler)

    def __str__(self) -> str:
        return self.adapter if self.seed is None else f"{self.adapter} (seed {self.seed})"


class Combined(Method):
    """A method that uses trained prompts."""

    members: list[Member]

    @property
    def combines(self) -> list[Member]:
        return self.members


class NoMethod(Method):
    kind: Literal["none"]


class Lora(Trained):
    kind: Literal["lora"]
    rank: Rank = key("Rank r of the two factors.", unit="dimensionless")
    alpha: PositiveNumber = key("Scale alpha / r (not printed in the paper).", 16, "dimensionless")
    dropout: Dropout = key("Dropout before A (not printed in the paper).", 0.0, "share")
    targets: Annotated[
        dict[str, Annotated[list[Text], Field(min_length=1), AfterValidator(unique)]],
        AfterValidator(_with_default),
    ] = key(
        "Linears of the decoder layers by config.model_type; `default` for every other type. [all-linear] alone: all "
        "of them, attention projections and MLP.",
        {"default": [ALL_LINEAR]},
    )
    layers: Annotated[list[Layer], Field(min_length=1), AfterValidator(unique)] | None = key(
        "Decoder layers; null = all.", None
    )
    start: Absent[Literal["eora"]] = absent(
        "`eora`: start from the repair that EoRA makes of the targets; absent = PEFT's start, which changes nothing."
    )


class Eora(Method):
    trains: ClassVar[bool] = True
    kind: Literal["eora"]
    rank: RepairRank = key("Rank r of the repair of every decoder linear.", unit="dimensionless")


class Peft(Trained):
    kind: Literal["peft"]
    peft_type: Text = key("A method of PEFT: DORA, RSLORA, IA3, LOHA, LOKR, VERA, OFT, BOFT, HRA and others.")
    options: dict[Text, Any] = key(
        "Options of that method's configuration class in PEFT, by its names; target_modules are all linears of the "
        "decoder layers if not said, of LN_TUNING their norms, of IA3 PEFT's choice.",
        {},
    )


class SoftPrompt(Trained):
    kind: Literal["prompt"]
    tokens: PromptLength = key("Length of the prompt.", unit="tokens")
    init: Literal["vocabulary", "random"] = key(
        "Start from sampled vocabulary embeddings or a normal draw.", "vocabulary"
    )
    trained: Flag = key("false: the untrained prompt, a placebo.", True)


class Prefix(Trained):
    kind: Literal["prefix"]
    tokens: PromptLength = key("Length of the prefix.", unit="tokens")
    init: Literal["text", "random"] = key(
        "Start from the keys and values of training text, or PEFT's random start.", "text"
    )


class Idp(Combined):
    kind: Literal["idp"]
    members: Annotated[list[Member], Field(min_length=1), AfterValidator(unique)] = key(
        "Prompts of which one is chosen per document: names, or {adapter, seed}."
    )
    score: Literal[
        "auto", "joint_mean", "joint_sum", "indep_mean", "indep_sum", "logit_mean", "logit_lme", "learned"
    ] = key(
        "Selection score (docs/explanation/definitions.md); auto = joint_mean, indep_mean with learned positions; "
        "learned = logistic regression on all scores, fitted on held-out text of the path's corpus.",
        "auto",
    )
    calibrated: Flag = key("Scores minus their median over training text of the path's corpus.", False)


class Concat(Combined):
    kind: Literal["concat"]
    members: Annotated[list[Member], Field(min_length=2)] = key(
        "Prompts that stand one after the other: names, or {adapter, seed}."
    )


class WrittenText(Method):
    kind: Literal["text"]
    text: Text = key("Written text before every document: redirection without training.")


class FewShot(Method):
    kind: Literal["fewshot"]
    shots: Shots = key(
        "Solved examples before each question, of the task's own data: redirection without training.",
        unit="examples",
    )


class Context(Method):
    kind: Literal["context"]


AnyMethod = Annotated[
    NoMethod | Lora | Eora | Peft | SoftPrompt | Prefix | Idp | Concat | WrittenText | FewShot | Context,
    Field(
        discriminator="kind",
        description="lora, prompt, prefix and peft (other methods of PEFT by name) train an adapter; eora computes one "
        "from weights and calibration text; idp and concat use trained prompts; text, fewshot, context (the passage "
        "with the answer, if a task has one) and none train nothing.",
    ),
]
