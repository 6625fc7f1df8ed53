"""Adapters in PEFT's format: made, saved, counted, and attached to a model.

`PeftModel.from_pretrained` loads what is saved here. `attach` turns every soft prompt into a bank of prefixes
(`prompt_bank`); LoRA stays PEFT's own model. PEFT is imported where it makes an adapter: a cell may need none.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from workflow_scripts.files.artifacts import ArtifactError, read_json
from workflow_scripts.files.members import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from workflow_scripts.recover.idp import Selector
from workflow_scripts.recover.prompt_bank import Prefix, PromptBank, encode, positions_behind_prompts

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

# Keys of d_inter in config.json, by family.
INNER_WIDTHS = ("intermediate_size", "ffn_dim", "ffn_hidden_size", "n_inner")
PEFT_TYPES = {"prompt": "PROMPT_TUNING", "prefix": "PREFIX_TUNING", "lora": "LORA"}


@dataclass(frozen=True)
class Recovered:
    """A model ready to be evaluated. Without a bank the model is called as it is."""

    model: "PreTrainedModel | PeftModel"
    bank: PromptBank | None
    selector: Selector | None  # None: always prefix 0
    parameters: dict  # {trainable, effective, base}, of a LoRA also linears


# ------------------------------------------------------------------------------------------------- making


def create(model: PreTrainedModel, method: dict, seed: int, window: Tensor | None = None) -> "PeftModel":
    """A new adapter of kind lora, eora, peft, prompt or prefix around the frozen model, initialised by `seed`; its
    parameters are float32 whatever the model is.

    prompt: embeddings of vocabulary entries drawn by the seed, or N(0, 1). prefix: keys and values of the first
    tokens of `window` (T,), a piece of training text, or PEFT's N(0, 1). ValueError for a model whose text no soft
    prompt can stand before.
    """
    from peft import get_peft_model, initialize_kv_prefix_from_past_key_values

    if method["kind"] in ("prompt", "prefix"):
        positions_behind_prompts(model)  # an error here, not after training, in the evaluation
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if method["kind"] == "peft":
            from workflow_scripts.recover import peft_methods

            return peft_methods.create(model, method)
        adapted = get_peft_model(model, _peft_config(model, method))
    if method["kind"] == "prefix" and method["init"] == "text":
        if window is None or len(window) < method["tokens"]:
            raise ValueError(
                f"a prefix of {method['tokens']} tokens starts from a training window at least that long"
            )
        embeddings = model.get_input_embeddings()(window[: method["tokens"]].to(model.device)).detach()
        with torch.no_grad():
            keys_values = list(zip(*encode(model, embeddings)))
        initialize_kv_prefix_from_past_key_values(adapted, past_key_values=keys_values)
    return adapted


def _peft_config(model: PreTrainedModel, method: dict) -> "PeftConfig":
    from peft import PrefixTuningConfig, PromptTuningConfig, PromptTuningInit

    kind = method["kind"]
    if kind == "lora":
        from workflow_scripts.recover.lora import lora_config, require_layers

        require_layers("layers", method["layers"] or (), model)
        return lora_config(method, model)
    if kind == "eora":
        from workflow_scripts.recover.eora import eora_config

        return eora_config(method, model)
    common = {"task_type": "CAUSAL_LM", "num_virtual_tokens": method["tokens"]}
    if kind == "prefix":
        return PrefixTuningConfig(**common)
    start = {"vocabulary": PromptTuningInit.SAMPLE_VOCAB, "random": PromptTuningInit.RANDOM}[method["init"]]
    # OPT-350m embeds in fewer dimensions than its hidden size.
    width = cast(torch.nn.Embedding, model.get_input_embeddings()).embedding_dim
    return PromptTuningConfig(**common, prompt_tuning_init=start, token_dim=width)


def save(adapted: "PeftModel", folder: Path, base: str) -> None:
    """adapter_config.json and adapter_model.safetensors; `base` names the model instead of a path of this machine."""
    adapted.active_peft_config.base_model_name_or_path = base
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's model card, an empty form


# --------------------------------------------------------------------------------------------- parameters


def trained_parameters(adapted: "PeftModel") -> list[torch.nn.Parameter]:
    """The parameters that the optimiser moves: all that require a gradient."""
    return [parameter for parameter in adapted.parameters() if parameter.requires_grad]


def paper_formula(method: dict, config: PreTrainedConfig) -> int | None:
    """Trained parameters by the paper's appendix; d, d_inter and L (layers) from the model's config.

    lora: L (8 d r + 4 d_inter r), which gives neither model's printed count. prefix: L t d, half of what keys and
    values hold. prompt: t d. d_inter is 4 d where a config does not say it, as transformers reads such a config. The
    paper has none for other kinds.
    """
    if method["kind"] == "peft":
        return None
    config = config.get_text_config(decoder=True)
    layers, width = config.num_hidden_layers, config.hidden_size
    if method["kind"] in ("lora", "eora"):
        widths = (getattr(config, name, None) for name in INNER_WIDTHS)
        inner = next(filter(None, widths), 4 * width)
        return layers * method["rank"] * (8 * width + 4 * inner)
    return method["tokens"] * width * (layers if method["kind"] == "prefix" else 1)


# ---------------------------------------------------------------------------------------------- attaching


def prefix_keys_values(weights: Tensor, model: PreTrainedModel) -> tuple[list[Tensor], list[Tensor]]:
    """PEFT's prefix (n, 2 L kv_heads head_dim) as keys and values: lists over layers of (1, kv_heads, n, head_dim),
    each where its layer of `model` is."""
    config = model.config
    layers = config.num_hidden_layers
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    parts: Tensor | list[Tensor]  # 2 L of (1, kv_heads, n, head_dim)
    parts = weights.view(1, len(weights), 2 * layers, heads, -1).permute(2, 0, 3, 1, 4)
    if hasattr(model, "hf_device_map"):  # accelerate spread it over several GPUs
        places = [next(layer.parameters()).device for layer in model.get_decoder().layers for _ in range(2)]
        parts = [part.to(place) for part, place in zip(parts, places, strict=True)]
    return list(parts[0::2]), list(parts[1::2])


def _trained(folder: Path) -> tuple[str, Tensor]:
    """Kind (prompt or prefix) and trained tensor of a saved soft prompt."""
    file = folder / ADAPTER_CONFIG
    peft_type = read_json(file).get("peft_type")
    kinds = {PEFT_TYPES[kind]: kind for kind in ("prompt", "prefix")}
    if peft_type not in kinds:
        raise ArtifactError(
            f"{file}: peft_type: {peft_type!r} is no soft prompt; idp and concat join prompts only"
        )
    return kinds[peft_type], load_file(folder / ADAPTER_WEIGHTS)["prompt_embeddings"]


@torch.no_grad()
def _prefix(model: PreTrainedModel, name: str, members: list[tuple[str, Tensor]]) -> Prefix:
    """One prefix from one trained tensor, or from several one after the other (concatenation)."""
    kinds = {kind for kind, _ in members}
    if len(kinds) > 1:
        raise ValueError(f"{name}: a concatenation joins prompts or prefixes, not both")
    weights = torch.cat([weights for _, weights in members]).to(model.device)
    if kinds == {"prompt"}:
        keys, values = encode(model, weights)
    else:
        keys, values = prefix_keys_values(weights.to(model.dtype), model)
    return Prefix(name, keys, values)


@torch.no_grad()
def _text(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, text: str) -> Prefix:
    """A written instruction or solved examples as a prefix: redirection without training.

    It stands where a soft prompt stands, with the tokenizer's BOS if that adds one, before the text's own.
    """
    ids = torch.tensor(tokenizer.encode(text), device=model.device)
    return Prefix("text", *encode(model, model.get_input_embeddings()(ids)))


def _names(members: list[dict]) -> list[str]:
    """Members' names: the adapter's, with the seed if that alone isn't unique."""
    short = [member["adapter"] for member in members]
    if len(set(short)) == len(short):
        return short
    return [f"{member['adapter']}/seed-{member['seed']}" for member in members]


def attach(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    method: dict,
    adapters: list[Path],
    *,
    contexts: list[list[int]] | None = None,
) -> Recovered:
    """The model with a method's adapters (folders in the order of `members`).

    contexts: lists of token ids, pieces of training text for `calibrated`, of held-out text for a learned choice.
    parameters: base of the model; trainable by gradient in these adapters (0 if untrained); effective, the real
    count of what was added, members summed; linears of a LoRA: name -> how many it adapts.
    """
    kind, folders = method["kind"], [Path(folder) for folder in adapters]
    expected = 1 if kind in ("lora", "eora", "peft", "prompt", "prefix") else len(method.get("members", ()))
    if len(folders) != expected:
        raise ValueError(f"{kind}: {expected} adapter folders expected, {len(folders)} given")
    base = sum(parameter.numel() for parameter in model.parameters())
    if kind in ("none", "fewshot", "context"):  # examples and passages stand in the tasks' prompts
        return Recovered(model, None, None, {"trainable": 0, "effective": 0, "base": base})
    if kind in ("lora", "eora", "peft"):
        return _with_modules(model, kind, folders[0], base)

    if kind == "text":
        bank = PromptBank([_text(model, tokenizer, method["text"])], positions_behind_prompts(model))
        return Recovered(model, bank, None, {"trainable": 0, "effective": 0, "base": base})
    if kind not in ("prompt", "prefix", "concat", "idp"):
        raise ValueError(f"{kind}: attach does not know this kind of method")
    members = [_trained(folder) for folder in folders]
    added = sum(weights.numel() for _, weights in members)
    parameters = {"trainable": added if method.get("trained", True) else 0, "effective": added, "base": base}
    if kind == "idp":
        names = _names(method["members"])
        prefixes = [_prefix(model, name, [member]) for name, member in zip(names, members)]
    else:
        name = "+".join(_names(method["members"])) if kind == "concat" else f"{kind}-{method['tokens']}"
        prefixes = [_prefix(model, name, members)]
    bank = PromptBank(prefixes, positions_behind_prompts(model))
    selector = _selector(model, bank, method, contexts) if kind == "idp" else None
    return Recovered(model, bank, selector, parameters)


def _with_modules(model: PreTrainedModel, kind: str, folder: Path, base: int) -> Recovered:
    """The model with an adapter as modules beside its weights; base: its own parameters."""
    if kind == "peft":
        from workflow_scripts.recover.peft_methods import load

        adapted, linears = load(model, folder), {}
    else:
        from workflow_scripts.recover.lora import adapted_linears, load

        adapted = load(model, folder)
        linears = {"linears": adapted_linears(adapted)}
    added = sum(parameter.numel() for parameter in adapted.parameters()) - base
    parameters = {"trainable": 0 if kind == "eora" else added, "effective": added, "base": base}
    return Recovered(adapted, None, None, parameters | linears)


def _selector(
    model: PreTrainedModel, bank: PromptBank, method: dict, contexts: list[list[int]] | None
) -> Selector:
    if method["score"] == "learned":
        from workflow_scripts.recover.learned_selector import LearnedSelector

        return LearnedSelector(model, bank, contexts or ())
    selector = Selector(model, bank, method["score"])
    if method["calibrated"]:
        if not contexts:
            raise ValueError("calibrated: needs pieces of training text, for the medians of the scores")
        selector.calibrate(contexts)
    return selector
