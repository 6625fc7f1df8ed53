"""The format of a checkpoint, from its config.json and the names of its files. Imports no heavy library."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from workflow_scripts.files.artifacts import ArtifactError, read_json, safetensors_header
from workflow_scripts.files.source_files import AT_SOURCE

# Names of formats, as messages list them.
KNOWN = "plain, gptq, awq (gemm), auto-round, fp8, compressed-tensors, bitsandbytes, modelopt, gguf"
PACKED = (  # compressed-tensors 0.19
    *("dense", "pack-quantized", "int-quantized", "float-quantized", "naive-quantized"),
    *("nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp8-quantized", "mixed-precision"),
)
LLAMA_CPP = "activations 8-bit int where weights are quantised (llama.cpp)"
# Strategies of compressed-tensors for activations, and whether scales are found while the model runs.
SIMULATED = (("token", True), ("group", True), ("tensor_group", True), ("tensor", False))
FUSED = ("weight_input", "weight_output")  # rotations that lie in the stored weights


@dataclass(frozen=True)
class Format:
    """The form in which a checkpoint stores its weights.

    name: as records and tables show it. runtime: what its makers quantise while the model runs (activations, the KV
    cache) and stays in float32 here, in words; None for nothing. bits: of the stored weights, in words. simulated:
    what they quantise and is quantised here too (kernels/activations.py); None for nothing.
    """

    name: str
    runtime: str | None
    bits: str
    simulated: str | None = None


def identify(folder: Path) -> Format:
    """The format of the checkpoint in `folder`.

    ArtifactError, naming file and key, for a format that nothing here reads, code of its own, or pickled weights.
    """
    folder = Path(folder)
    if not (folder / "config.json").exists() and any(folder.glob("*.gguf")):
        return Format("gguf", LLAMA_CPP, "as the file's tensor types say")
    file = folder / "config.json"
    config = read_json(file, advice=AT_SOURCE)
    _refuse_code(folder, config)
    quantised, file = quantisation(folder)
    if quantised is None:
        return Format("plain", None, _types(folder))
    method = quantised.get("quant_method", "no quant_method")
    if not isinstance(method, str) or method not in METHODS:
        raise ArtifactError(
            f"{file}: quantization_config: {method!r} is a format that nothing here reads; known: {KNOWN}"
        )
    try:
        return METHODS[method](quantised)
    except ArtifactError as error:
        raise ArtifactError(f"{file}: quantization_config: {error}") from None
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        reason = f"can't be read ({type(error).__name__}: {error}); {AT_SOURCE}"
        raise ArtifactError(f"{file}: quantization_config: {reason}") from error


def quantisation(folder: Path) -> tuple[dict | None, Path]:
    """The quantisation that a checkpoint names (None if it is plain), and the file that names it.

    Older makers keep it in a file of their own: ModelOpt in hf_quant_config.json, AutoGPTQ in quantize_config.json.
    """
    own, older = folder / "hf_quant_config.json", folder / "quantize_config.json"
    config = read_json(folder / "config.json", advice=AT_SOURCE)
    quantised = config.get("quantization_config") or config.get("compression_config")
    if quantised is None and own.exists():
        found = read_json(own, advice=AT_SOURCE)
        inside = found.get("quantization") if isinstance(found, dict) else None
        if not isinstance(inside, dict):
            raise ArtifactError(f"{own}: holds no object `quantization`; {AT_SOURCE}")
        return {"quant_method": "modelopt"} | inside, own
    if quantised is None and older.exists() and _packed(folder):
        found = read_json(older, advice=AT_SOURCE)
        if not isinstance(found, dict):
            raise ArtifactError(f"{older}: is no JSON object; {AT_SOURCE}")
        return {"quant_method": "gptq"} | found, older
    if quantised is not None and not isinstance(quantised, dict):
        kind = type(quantised).__name__
        raise ArtifactError(
            f"{folder / 'config.json'}: quantization_config: is a {kind}, no object; {AT_SOURCE}"
        )
    if quantised is not None and older.exists():
        _require_agreement(older, quantised)
    return quantised, folder / "config.json"


def _require_agreement(older: Path, quantised: dict) -> None:
    """ArtifactError if AutoGPTQ's file names another layout than config.json: programs differ in which they read, and
    the layouts of GPTQ in their zero points alone."""
    found = read_json(older, advice=AT_SOURCE)
    if quantised.get("quant_method") != "gptq" or not isinstance(found, dict):
        return
    both = [each.get("checkpoint_format") or each.get("format") or "gptq" for each in (quantised, found)]
    if both in (["gptq", "gptq_v2"], ["gptq_v2", "gptq"]):
        raise ArtifactError(
            f"{older}: the layout is {both[1]}, and {both[0]} in config.json's quantization_config; which of them "
            "counts? Correct the one or the other"
        )


def _packed(folder: Path) -> bool:
    """True if a linear of the folder is packed as GPTQ packs it."""
    headers = (safetensors_header(file)[0] for file in folder.glob("*.safetensors"))
    return any(name.endswith(".g_idx") for header in headers for name in header)


def _refuse_code(folder: Path, config: dict) -> None:
    """ArtifactError for a checkpoint whose loading would run code that came with it."""
    if config.get("auto_map"):
        raise ArtifactError(
            f"{folder / 'config.json'}: `auto_map` names Python code of the checkpoint's own, which is never run; "
            "choose a checkpoint of an architecture that transformers has"
        )
    pickled = next(iter(sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt*"))), None)
    if pickled and not any(folder.glob("*.safetensors")):
        raise ArtifactError(
            f"{pickled}: pickled weights can run code when they are opened; choose a revision with *.safetensors"
        )


def _types(folder: Path) -> str:
    """The types of a folder's tensors in words, that of most bytes first; config.json may name another."""
    sizes: dict[str, int] = {}
    for file in sorted(folder.glob("*.safetensors")):
        for entry in safetensors_header(file)[0].values():
            begin, end = entry["data_offsets"]
            sizes[entry["dtype"]] = sizes.get(entry["dtype"], 0) + end - begin
    words = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    return ", ".join(words.get(kind, kind) for kind in sorted(sizes, key=lambda kind: -sizes[kind]))


# ------------------------------------------------------------------------------- quantisation, by its method


def _gptq(config: dict) -> Format:
    layout = config.get("checkpoint_format") or config.get("format") or "gptq"
    if layout not in ("gptq", "gptq_v2"):
        raise ArtifactError(f"checkpoint_format {layout!r}: of GPTQ's layouts, gptq and gptq_v2 are read")
    return Format(layout, None, _integers(config.get("bits"), config.get("group_size")))


def _awq(config: dict) -> Format:
    layout = config.get("version") or config.get("checkpoint_format") or config.get("format") or "gemm"
    if str(layout).lower() != "gemm":
        raise ArtifactError(f"version {layout!r}: of AWQ's layouts, gemm is read")
    return Format("awq", None, _integers(config.get("bits"), config.get("group_size")))


def _auto_round(config: dict) -> Format:
    packing = config.get("packing_format") or "auto"
    if packing not in AUTO_ROUND:
        advice = "save it again as auto_round:auto_gptq, auto_round:auto_awq or llm_compressor"
        raise ArtifactError(
            f"packing_format {packing!r}: of AutoRound's, {', '.join(AUTO_ROUND)} are read; {advice}"
        )
    if (bits := config.get("act_bits")) is not None and bits <= 8:
        raise ArtifactError(f"act_bits {bits}: activations are quantised by a kernel of AutoRound's own")
    if config.get("rotation_config"):
        raise ArtifactError("rotation_config: it rotates activations while the model runs")
    words = _integers(config.get("bits"), config.get("group_size"))
    return Format(AUTO_ROUND[packing], None, words)


def _mxfp4(config: dict) -> Format:
    raise ArtifactError(
        "quant_method 'mxfp4' is gpt-oss's, a mixture of experts, which can't be judged; MXFP4 of other models is read "
        "from compressed-tensors and ModelOpt"
    )


def _integers(bits: object, group_size: object) -> str:
    groups = "one group per row" if group_size in (None, -1) else f"groups of {group_size}"
    return f"{bits}-bit integers, {groups}"


def _fp8(config: dict) -> Format:
    block = config.get("weight_block_size")
    if block and not (len(block) == 2 and all(isinstance(size, int) and size > 0 for size in block)):
        raise ArtifactError(f"weight_block_size {block!r}: two sizes, like [128, 128], are needed")
    scheme = config.get("activation_scheme", "dynamic")
    per = f"one scale per block of {block[0]} x {block[1]}" if block else "one scale per tensor"
    return Format("fp8", f"activations 8-bit float, {scheme}", f"8-bit float, {per}")


def _bitsandbytes(config: dict) -> Format:
    if not config.get("load_in_4bit"):
        outliers = config.get("llm_int8_threshold", 6.0)
        runtime = f"activations 8-bit int per token, those of {outliers} and more in 16 bits"
        return Format("bitsandbytes", runtime, "8-bit integers, one scale per row")
    kind = config.get("bnb_4bit_quant_type", "fp4")
    return Format("bitsandbytes", None, f"{kind}, groups of 64")


def _compressed_tensors(config: dict) -> Format:
    sparsity = (config.get("sparsity_config") or {}).get("format", "dense")
    if sparsity == "sparse-bitmask" and not config.get("config_groups"):
        return Format("sparse-bitmask", None, "kept weights and a bit for each place")
    layout = config.get("format", "dense")
    for key, found, known in (("sparsity_config: format", sparsity, ("dense",)), ("format", layout, PACKED)):
        if found not in known:
            raise ArtifactError(f"{key} {found!r}: of compressed-tensors', {', '.join(known)} are read")
    if online := _online(config.get("transform_config") or {}):
        raise ArtifactError(
            f"transform_config: {online} rotates activations while the model runs, which a plain folder can't; "
            f"rotations that lie in the weights ({', '.join(FUSED)}) are read"
        )
    weights = [group["weights"] for group in _groups(config) if group.get("weights")]
    words = sorted({f"{w['num_bits']}-bit {w['type']}, {_scaled(w)}" for w in weights})
    bits = "; ".join(words) or "no weights quantised"
    return Format("compressed-tensors", _runtime(config), bits, _simulated(config))


def _online(transforms: dict) -> str | None:
    """The first place at which a rotation acts on activations."""
    places = [
        apply["location"]
        for scheme in transforms.get("config_groups", {}).values()
        for apply in scheme.get("apply", [])
    ]
    return next((place for place in places if place not in FUSED), None)


def _modelopt(config: dict) -> Format:
    algorithm = str(config.get("quant_algo"))
    if algorithm not in MODELOPT:
        raise ArtifactError(f"quant_algo {algorithm!r}: of ModelOpt's, {', '.join(MODELOPT)} are read")
    cache = config.get("kv_cache_quant_algo")
    runtime = f"activations {algorithm}" + (f", KV cache {cache}" if cache else "")
    # newer ones have config_groups
    in_words = ", ".join(filter(None, (_simulated(config), _runtime(config))))
    return Format("modelopt", in_words or runtime, algorithm)


def _groups(config: dict) -> list[dict]:
    return list((config.get("config_groups") or {}).values())


def _runtime(config: dict) -> str | None:
    """Tensors that config_groups and kv_cache_scheme quantise while the model runs and nothing simulates, in words."""
    inputs = (group.get("input_activations") for group in _groups(config))
    words = [f"activations {_dynamic(each)}" for each in inputs if each and not can_be_simulated(each)]
    outputs = (group.get("output_activations") for group in _groups(config))
    words += [f"outputs {_dynamic(each)}" for each in outputs if each]
    if cache := config.get("kv_cache_scheme"):
        words.append(f"KV cache {_dynamic(cache)}")
    return ", ".join(dict.fromkeys(words)) or None


def _simulated(config: dict) -> str | None:
    """Tensors that config_groups quantise while the model runs and that are simulated, in words."""
    inputs = (group.get("input_activations") for group in _groups(config))
    words = [f"activations {_dynamic(each)}" for each in inputs if each and can_be_simulated(each)]
    return ", ".join(dict.fromkeys(words)) or None


def can_be_simulated(arguments: dict) -> bool:
    """True if a token's rounding depends on no other token of its batch, and its number format is known."""
    if arguments["type"] == "float" and arguments["num_bits"] not in (4, 8):
        return False
    dynamic, strategy = arguments.get("dynamic"), arguments.get("strategy")
    if strategy is None:  # as compressed-tensors infers it
        strategy = "group" if arguments.get("group_size") else "tensor"
    return (strategy, bool(dynamic)) in SIMULATED


def _dynamic(arguments: dict) -> str:
    how = "dynamic" if arguments.get("dynamic") else "static"
    return f"{arguments['num_bits']}-bit {arguments['type']}, {_scaled(arguments)}, {how}"


def _scaled(arguments: dict) -> str:
    if size := arguments.get("group_size"):
        return f"groups of {size}"
    if block := arguments.get("block_structure"):
        return f"blocks of {' x '.join(map(str, block))}"
    return f"one scale per {arguments.get('strategy') or 'tensor'}"


MODELOPT = ("NVFP4", "FP8", "MXFP8", "MXFP4")
# AutoRound's packing_format -> the layout: GPTQ's (version 1, 2) without the groups of columns, or AWQ's.
AUTO_ROUND = {
    "auto": "auto-round-gptq",
    "auto_round:auto_gptq": "auto-round-gptq",
    "auto_round": "auto-round-gptq_v2",
    "auto_round:gptqmodel": "auto-round-gptq_v2",
    "auto_round:auto_awq": "auto-round-awq",
}
METHODS: dict[str, Callable[[dict], Format]] = {
    "gptq": _gptq,
    "awq": _awq,
    "auto-round": _auto_round,
    "mxfp4": _mxfp4,
    "fp8": _fp8,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed_tensors,
    "modelopt": _modelopt,
}
