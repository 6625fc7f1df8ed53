"""Values that keys of the configuration may hold, and the description that a key carries."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

if TYPE_CHECKING:
    from typing import Optional as Absent
else:

    class Absent:
        """`Absent[kind]` annotates a key that may be left out and may not be null; its attribute is None then."""

        def __class_getitem__(cls, kind: object) -> object:
            return kind


T = TypeVar("T", bound=Sequence)


class Entry(BaseModel):
    """A mapping in the configuration. It has no other keys than these, and never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def dump(self) -> dict[str, Any]:
        """The mapping as plain values, defaults filled in; keys that are absent are left out."""
        return self.model_dump()


def key(description: str, default: Any = ..., unit: str | None = None, **more: Any) -> Any:
    """A key with its description, default (none: it is required) and, for a number, its unit."""
    return Field(default, description=description, json_schema_extra={"unit": unit} if unit else None, **more)


def absent(description: str, unit: str | None = None) -> Any:
    """A key without a default. Left out, it is None as an attribute and not in a dump."""
    return key(description, None, unit, exclude_if=lambda value: value is None)


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _unchanged(value: object, check: Any) -> object:
    check(value)
    return value


def unique(values: T) -> T:
    names = Counter(map(str, values))
    if twice := sorted(name for name, count in names.items() if count > 1):
        raise PydanticCustomError("listed_twice", "listed twice", {"values": twice})
    return values


def _template(text: str) -> str:
    from workflow_scripts.files.templates import Unfilled, compiled  # Jinja, which few processes need

    try:
        compiled(text)
    except Unfilled as error:
        raise PydanticCustomError("template", "no template", {"reason": str(error)}) from error
    return text


NAME = r"^[A-Za-z0-9]+([._-][A-Za-z0-9]+)*$"
HINTS = {  # a pattern -> its words in messages, if no key describes it
    NAME: "Letters and digits joined by single '.', '_' or '-' (names become paths).",
}
WHOLE = BeforeValidator(_whole)  # 10240.0 is an integer too
AS_WRITTEN = WrapValidator(_unchanged)  # a number stays the int or float that it was written as
Count = Annotated[StrictInt, Field(ge=1), WHOLE]
Length = Annotated[StrictInt, Field(ge=2), WHOLE]
Seed = Annotated[StrictInt, Field(ge=0, le=2**32 - 1), WHOLE]
Number = Annotated[StrictFloat, Field(ge=0), AS_WRITTEN]
PositiveNumber = Annotated[StrictFloat, Field(gt=0), AS_WRITTEN]
Share = Annotated[StrictFloat, Field(ge=0, le=1), AS_WRITTEN]
LearningRate = Annotated[StrictFloat, Field(gt=0, le=10), AS_WRITTEN]
Name = Annotated[StrictStr, Field(pattern=NAME, max_length=80)]
Text = Annotated[StrictStr, Field(min_length=1)]
Template = Annotated[Text, AfterValidator(_template)]  # of Jinja, over an item's fields
Flag = StrictBool
Line = StrictStr  # text that may be empty
Names = Annotated[list[Name], Field(min_length=1), AfterValidator(unique)]
Sha256 = Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{64}$")]
Precision = Literal["fp32", "bf16"]
