"""How performance is recovered."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, StrictFloat, StrictInt, model_validator

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
Layer = Annotated[StrictInt, Field(ge=0), WHOLE]
PromptLength = Annotated[StrictInt, Field(ge=1, le=65536), WHOLE]
Dropout = Annotated[StrictFloat, Field(ge=0, lt=1), AS_WRITTEN]


class Method(Entry):
    """What every method says: whether it trains an adapter, and which prompts it combines."""

    trains: ClassVar[bool] = False

    @property
    def combines(self) -> list["Member"]:
        return []


class TunerOverride(Entry):
    """Training settings of one method alone."""

    learning_rate: Absent[LearningRate] = absent("In place of the regime's.", unit="dimensionless")
    weight_decay: Absent[Number] = absent("In place of the regime's.", unit="dimensionless")
    warmup: Absent[Share] = absent("In place of the regime's.", unit="share")
    tokens: Absent[Count] = absent("Training text in place of the regime's.", unit="tokens")


class Trained(Method):
    """A method that trains an adapter."""

    trains: ClassVar[bool] = True
    corpus: Absent[Name] = absent(
        "Corpus that the adapter is trained on, on weights that the path's corpus calibrated; the path's corpus if "
        "absent."
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
        rule = handler(core_schema)
        handler.resolve_ref_schema(rule)["type"] = ["string", "object"]
        return rule

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
    targets: dict[str, Annotated[list[Text], Field(min_length=1)]] = key(
        "Modules by config.model_type; `default` for every other type.", min_length=1
    )
    layers: Annotated[list[Layer], Field(min_length=1), AfterValidator(unique)] | None = key(
        "Decoder layers; null = all.", None
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
        "auto", "joint_mean", "joint_sum", "indep_mean", "indep_sum", "logit_mean", "logit_lme"
    ] = key(
        "Selection score (docs/explanation/definitions.md); auto = joint_mean, indep_mean with learned positions.",
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


AnyMethod = Annotated[
    NoMethod | Lora | SoftPrompt | Prefix | Idp | Concat | WrittenText | FewShot,
    Field(
        discriminator="kind",
        description="lora, prompt and prefix train an adapter; idp and concat use trained prompts; text, fewshot and "
        "none train nothing.",
    ),
]
