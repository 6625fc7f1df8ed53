"""Named settings of a compression algorithm."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictFloat, StrictInt, StrictStr

from workflow_scripts.plan.schema.keys import (
    AS_WRITTEN,
    WHOLE,
    Absent,
    Entry,
    Flag,
    Length,
    Precision,
    absent,
    key,
)

Bits = Annotated[StrictInt, Field(ge=2, le=8), WHOLE]
Sparsity = Annotated[StrictFloat, Field(ge=0.01, le=0.99), AS_WRITTEN]
Damping = Annotated[StrictFloat, Field(gt=0, le=10), AS_WRITTEN]
Columns = Annotated[StrictInt, Field(ge=1, le=65536), WHOLE]
Pattern = Annotated[StrictStr, Field(pattern=r"^[1-9][0-9]*:[1-9][0-9]*$")]


class Compressor(Entry):
    """What every compressor says: `calibrated`, whether it looks at text."""

    calibrated: ClassVar[bool] = True

    @property
    def random(self) -> bool:
        """Whether each seed has a compressed copy of its own: the seed draws the calibration text, nothing else."""
        return self.calibrated


class Quantised(Compressor):
    """Weights on grids."""

    bits: Bits = key("Bits per weight.", unit="bits")
    group_size: Length | None = key("Columns per grid; null = one grid per row.", None, "columns")
    symmetric: Flag = key("Grid symmetric round zero.", False)


class Pruned(Compressor):
    """Weights set to zero."""

    sparsity: Absent[Sparsity] = absent(
        "Part of the weights that become zero; give this or pattern.", unit="share"
    )
    pattern: Pattern | None = key("n:m, n zeros in each m columns, n < m; null = unstructured.", None)


class Solved(Compressor):
    """Settings of GPTQ's and SparseGPT's solver."""

    damping: Damping = key("percdamp: part of mean(diag H) added to the diagonal.", 0.01, "share")
    block_size: Columns = key(
        "Columns per lazy update, and per mask of SparseGPT; with a pattern, as many whole m as it holds.",
        128,
        "columns",
    )
    true_sequential: Flag = key(
        "Linears of a block one after the other, each on the outputs of the compressed ones before it.", False
    )


class Forwarded(Compressor):
    """Settings of the passes over calibration text."""

    forward: Absent[Precision] = absent(
        "Precision of the calibration's forward passes; H and the solves are always float32. Absent: fp32."
    )


class Dense(Compressor):
    algorithm: Literal["dense"]
    calibrated: ClassVar[bool] = False


class Gptq(Forwarded, Solved, Quantised):
    algorithm: Literal["gptq"]
    act_order: Flag = key("Columns by falling diag(H).", False)
    static_groups: Flag = key("Group grids fitted on the original weights before the loop.", False)
    clip: Literal["none", "mse", "hessian"] = key(
        "Search of the clipping range: none, by the weights' error, or by the error of the layer's output.",
        "none",
    )
    engine: Literal["own", "optimum"] = key(
        "Whose implementation: this package's, or optimum's GPTQQuantizer with GPTQModel in an environment of its own "
        "(`make optimum`), which knows 2, 3, 4 and 8 bits, no static_groups, no clip, no other block_size than 128 and "
        "forward passes in float32.",
        "own",
    )


class SparseGpt(Forwarded, Solved, Pruned):
    algorithm: Literal["sparsegpt"]
    bits: Bits | None = key("Joint quantisation of the kept weights; null = none.", None, "bits")


class Rtn(Quantised):
    algorithm: Literal["rtn"]
    calibrated: ClassVar[bool] = False
    clip: Literal["none", "mse"] = key(
        "Search of the clipping range: none, or by the weights' error.", "none"
    )


class Magnitude(Pruned):
    algorithm: Literal["magnitude"]
    calibrated: ClassVar[bool] = False


class Wanda(Forwarded, Pruned):
    algorithm: Literal["wanda"]


KINDS = (Dense, Gptq, SparseGpt, Rtn, Magnitude, Wanda)
AnyCompressor = Annotated[
    Dense | Gptq | SparseGpt | Rtn | Magnitude | Wanda,
    Field(
        discriminator="algorithm",
        description="dense leaves the model as it is; rtn (round to nearest), magnitude and wanda are baselines that "
        "update no weight.",
    ),
]
