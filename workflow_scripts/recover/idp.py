"""Inference-time dynamic prompting: one of m trained prompts per document, chosen by first-layer attention.

Source: Hoang, Cho, Merth, Rastegari, Wang (ICML 2024), section 3.2, made exact here. With q and k
position-encoded, z = q k / sqrt(d_head) (or the model's own scaling), Z_i the logits of the text's queries on prompt
P_i, X those on the text (causal), and n_i the length of P_i:

  joint_mean   mean over heads, text tokens and prompt tokens of softmax([Z_1 .. Z_m, X]) on P_i
  joint_sum    the same, summed over P_i's tokens
  indep_mean   as joint_mean with softmax([Z_i, X]);  indep_sum its sum over P_i's tokens
  logit_mean   mean of Z_i;                           logit_lme  log-mean-exp of Z_i over P_i's tokens

Only the text's real context tokens count, never a continuation. Everything follows from log-sum-exps over P_i and
over the text, so no attention matrix outlives its row sums.
"""

from collections.abc import Callable, Sequence
from inspect import signature
from sys import modules

import torch
from torch import Tensor
from transformers import PreTrainedModel

from workflow_scripts.plan import first_layer
from workflow_scripts.recover.prompt_bank import (
    Prefix,
    PromptBank,
    expanded_cache,
    in_float32,
    learned_positions,
)

SCORES = ("joint_mean", "joint_sum", "indep_mean", "indep_sum", "logit_mean", "logit_lme")
PROBE = 8  # tokens on which the score is held against the model's own attention
AGREEMENT = 1e-4  # by which the two shares of attention may differ, in float32
# First-layer logits alive at once, in float32: 128 MiB on a CPU, 1 GiB on a GPU.
MOST_LOGITS = {"cpu": 2**25, "cuda": 2**28}


class _FirstLayerRead(Exception):
    """Ends a forward pass of which only the first layer's attention is wanted."""


def attention_logits(queries: Tensor, keys: Tensor, scaling: float | None = None) -> Tensor:
    """z = scaling q k^T in float32; scaling is 1 / sqrt(d_head) if a model has none of its own.

    queries (B, heads, T, d_head), keys (B or 1, kv_heads, S, d_head) -> (B, heads, T, S); with grouped queries,
    head h reads key head h // (heads / kv_heads).
    """
    kv_heads = keys.shape[1]
    grouped = queries.float().unflatten(1, (kv_heads, -1))  # (B, kv_heads, group, T, d_head)
    scaling = queries.shape[-1] ** -0.5 if scaling is None else scaling
    logits = grouped @ keys.float().unsqueeze(2).mT * scaling
    return logits.flatten(1, 2)


def text_log_sum_exp(logits: Tensor, mask: Tensor, window: int | None = None) -> Tensor:
    """log sum exp of each query over the real tokens up to itself: (B, heads, T, T), mask (B, T) -> (B, heads, T).

    window: most positions that a query sees, its own with them; None for all.
    """
    length = logits.shape[-1]
    causal = torch.ones(length, length, dtype=torch.bool, device=logits.device).tril()
    visible = causal.triu(1 - window) & mask[:, None, None, :] if window else causal & mask[:, None, None, :]
    return logits.masked_fill(~visible, -torch.inf).logsumexp(-1)


def selection_scores(
    score: str, prompt_logits: Sequence[Tensor], text: Sequence[Tensor], mask: Tensor
) -> Tensor:
    """S (B, m) in float64 from first-layer logits.

    prompt_logits: m of (B, heads, T, n_i). text: m of (B, heads, T), `text_log_sum_exp` in the geometry of each
    prompt (for rotary models they are one and the same). mask (B, T) is True on real context tokens.
    """
    lengths = torch.tensor(
        [logits.shape[-1] for logits in prompt_logits], device=mask.device, dtype=torch.float64
    )
    on_prompt = torch.stack(
        [logits.logsumexp(-1) for logits in prompt_logits], -1
    ).double()  # (B, heads, T, m)
    on_text = torch.stack(list(text), -1).double()
    if score == "logit_mean":
        values = torch.stack([logits.mean(-1) for logits in prompt_logits], -1).double()
    elif score == "logit_lme":
        values = on_prompt - lengths.log()
    else:
        if score.startswith("joint"):
            everything = torch.cat([on_prompt, on_text[..., :1]], -1).logsumexp(-1, keepdim=True)
        else:
            everything = torch.logaddexp(on_prompt, on_text)
        values = (on_prompt - everything).exp()  # attention mass on P_i
        if score.endswith("mean"):
            values = values / lengths
    values = values.mean(1)  # (B, T, m)
    real = mask[..., None]
    return torch.where(real, values, 0).sum(1) / real.sum(1)  # where, not *: a padded slot may hold NaN


def resolve_score(score: str, learned: bool) -> str:
    """The score that `auto` stands for; ValueError for a joint score on a model with learned positions.

    There the queries depend on n_i, so prompts of different lengths share no softmax.
    """
    if score == "auto":
        return "indep_mean" if learned else "joint_mean"
    if score not in SCORES:
        raise ValueError(f"score: {score!r} is none of auto, {', '.join(SCORES)}")
    if learned and score.startswith("joint"):
        raise ValueError(
            f"score: {score} is not defined with learned positions (OPT); use auto or indep_mean"
        )
    return score


class Selector:
    """Chooses a prefix of the bank for each document: argmax S_i, ties to the lowest index.

    score:    one of SCORES, or auto.
    medians:  (m,) subtracted from the scores (`calibrated`), see `calibrate`.
    """

    def __init__(self, model: PreTrainedModel, bank: PromptBank, score: str = "auto"):
        self.decoder = model.get_decoder()
        self.bank = bank
        self.learned = learned_positions(model) is not None
        if not self.learned and not hasattr(self.decoder, "rotary_emb"):
            raise ValueError(
                f"{type(model).__name__}: neither rotary nor OPT's learned positions; IDP knows no other"
            )
        self.score = resolve_score(score, self.learned)
        self.medians: Tensor | None = None
        self.window = first_layer.window(self.decoder.config.to_dict())
        self._require_agreement(type(model).__name__)

    @torch.no_grad()
    def _require_agreement(self, name: str) -> None:
        """ValueError if indep_sum is not the share that the first prompt has of the first layer's attention.

        Measured on a few tokens in float32, with the model's own eager attention.
        """
        embed, longest = self.decoder.get_input_embeddings(), max(p.length for p in self.bank.prefixes)
        room = [most - longest for most in (self.bank.positions,) if most]
        ids = torch.linspace(1, embed.num_embeddings - 2, max(1, min([PROBE, *room]))).long()[None]
        embedded = embed(ids.to(embed.weight.device)).float()
        mask = torch.ones(ids.shape, dtype=torch.bool, device=embedded.device)
        try:
            with in_float32(self.decoder):
                theirs = self._attention_on_first_prompt(embedded)
                ours = self._scores_of("indep_sum", embedded, mask)[0, 0].item()
            found = f"{ours:.4f} of the attention is on a prompt by the score, {theirs:.4f} in the model"
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, RuntimeError, TypeError) as error:
            # e.g. fused projections, another norm, other rotary embeddings
            ours, theirs, found = 0.0, torch.inf, str(error)
        if not abs(ours - theirs) <= AGREEMENT:
            config = self.decoder.config.to_dict()
            part = "rotates only a part of each head" if first_layer.rotates_a_part(config) else None
            kind = first_layer.peculiarity(config) or part or "is of a kind that the scores don't know"
            raise ValueError(
                f"{name}: IDP can't choose prompts for this model: its first layer {kind} ({found})"
            )

    def _attention_on_first_prompt(self, embedded: Tensor) -> float:
        """Share of the first layer's attention on the first prompt: mean over heads and embedded tokens (1, T, d)."""
        config, prefix = self.decoder.config, self.bank.prefixes[0]
        cache = expanded_cache([k.float() for k in prefix.keys], [v.float() for v in prefix.values], 1)
        positions = torch.arange(prefix.length, prefix.length + embedded.shape[1], device=embedded.device)
        weights = []

        def stop(module: torch.nn.Module, args: tuple, output: tuple) -> None:
            weights.append(output[1])
            raise _FirstLayerRead

        hook = self.decoder.layers[0].self_attn.register_forward_hook(stop)
        usual, config._attn_implementation = config._attn_implementation, "eager"
        try:
            self.decoder(inputs_embeds=embedded, position_ids=positions[None], past_key_values=cache)
        except _FirstLayerRead:
            return weights[0][..., : prefix.length].sum(-1).mean().item()
        finally:
            config._attn_implementation = usual
            hook.remove()
        raise RuntimeError("its first layer's attention did not run")

    def calibrate(self, contexts: Sequence[Sequence[int]]) -> None:
        """From now on subtract each prompt's median score over `contexts`, which are pieces of training text."""
        self.medians = None
        self.medians = self.scores(contexts).quantile(0.5, dim=0)

    def select(self, contexts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Chosen prefixes (B,) int64 and scores (B, m) float64 of B contexts given as token ids without padding."""
        scores = self.scores(contexts)
        return scores.argmax(-1), scores  # the first of equal maxima

    @torch.no_grad()
    def scores(self, contexts: Sequence[Sequence[int]]) -> Tensor:
        """S (B, m), float64, on the CPU. Contexts go in groups of similar length; ValueError for an empty one."""
        if not all(len(context) for context in contexts):
            raise ValueError(
                "a context without tokens has no attention to score; begin it with the model's BOS"
            )
        order = sorted(range(len(contexts)), key=lambda row: len(contexts[row]))
        scores = torch.empty(len(contexts), len(self.bank), dtype=torch.float64)
        prompts = sum(prefix.length for prefix in self.bank.prefixes)
        heads = self.decoder.config.num_attention_heads
        most = MOST_LOGITS[self.decoder.embed_tokens.weight.device.type]
        while order:
            longest = len(contexts[order[-1]])
            rows = order[-max(1, most // (heads * longest * (longest + prompts))) :]
            del order[-len(rows) :]
            ids = torch.zeros(len(rows), longest, dtype=torch.long)
            mask = torch.zeros(len(rows), longest, dtype=torch.bool)
            for slot, row in enumerate(rows):
                ids[slot, : len(contexts[row])] = torch.as_tensor(contexts[row])
                mask[slot, : len(contexts[row])] = True
            scores[rows] = self._padded_scores(ids, mask)
        return scores if self.medians is None else scores - self.medians

    def _padded_scores(self, ids: Tensor, mask: Tensor) -> Tensor:
        """S (B, m) of right-padded ids (B, T) with mask (B, T) True on real tokens, on the CPU."""
        device = self.decoder.embed_tokens.weight.device
        return self._scores_of(self.score, self.decoder.embed_tokens(ids.to(device)), mask.to(device)).cpu()

    def _scores_of(self, score: str, embedded: Tensor, mask: Tensor) -> Tensor:
        """S (B, m) of embedded text (B, T, d)."""
        scaling = getattr(self.decoder.layers[0].self_attn, "scaling", None)
        geometry = (self._project_learned if self.learned else self._project_rotary)(embedded)
        prompt_logits: list[Tensor] = []
        text: list[Tensor] = []
        at: dict[int, tuple[Tensor, Tensor]] = {}  # length -> queries and `text` behind a prompt of it
        for index, prefix in enumerate(self.bank.prefixes):
            self.bank.require_room(index, embedded.shape[1])
            if prefix.length not in at:
                queries, keys = geometry(prefix.length)
                if self.learned or not at:  # rotary text logits are the same at every offset
                    on_text = text_log_sum_exp(attention_logits(queries, keys, scaling), mask, self.window)
                at[prefix.length] = queries, on_text
            queries, on_text = at[prefix.length]
            logits = attention_logits(queries, prefix.keys[0], scaling)
            prompt_logits.append(self._in_sight(logits, score, prefix))
            text.append(on_text)
        return selection_scores(score, prompt_logits, text, mask)

    def _in_sight(self, logits: Tensor, score: str, prefix: Prefix) -> Tensor:
        """Logits (B, heads, T, n) of a text on a prompt, -inf beyond the first layer's window.

        ValueError for a mean of logits, which is not defined where a token sees a part of the prompt.
        """
        text, length = logits.shape[-2:]
        if self.window is None or length + text <= self.window:
            return logits
        if score.startswith("logit"):
            raise ValueError(
                f"{prefix.name}: {length} prompt positions + {text} text tokens exceed the {self.window} that the "
                f"model's first layer attends to, where {score} is not defined; joint_mean and indep_mean are"
            )
        behind = torch.arange(length, length + text, device=logits.device)[:, None]
        beyond = behind - torch.arange(length, device=logits.device) >= self.window
        return logits.masked_fill(beyond, -torch.inf)

    def _project_rotary(self, embedded: Tensor) -> Callable[[int], tuple[Tensor, Tensor]]:
        """(B, T, d) -> function(offset) -> first-layer queries and keys (B, heads, T, d_head) from that position."""
        layer = self.decoder.layers[0]
        attention = layer.self_attn
        multiplier = getattr(self.decoder.config, "embedding_multiplier", 1)  # Granite's
        hidden = layer.input_layernorm(embedded * multiplier)
        queries = attention.q_proj(hidden).unflatten(-1, (-1, attention.head_dim))  # (B, T, heads, d_head)
        keys = attention.k_proj(hidden).unflatten(-1, (-1, attention.head_dim))
        if hasattr(attention, "q_norm"):
            queries, keys = attention.q_norm(queries), attention.k_norm(keys)
        queries, keys = queries.transpose(1, 2), keys.transpose(1, 2)
        rotate = modules[type(attention).__module__].apply_rotary_pos_emb
        # Gemma 3 has a rotary embedding for each type of layer.
        typed = "layer_type" in signature(self.decoder.rotary_emb.forward).parameters
        types = getattr(self.decoder.config, "layer_types", None)
        kind = {"layer_type": types[0]} if typed and types else {}

        def at(offset: int) -> tuple[Tensor, Tensor]:
            positions = torch.arange(offset, offset + embedded.shape[1], device=embedded.device)[None]
            turns = self.decoder.rotary_emb(embedded, position_ids=positions, **kind)
            return rotate(queries, keys, *(turn.to(queries.device) for turn in turns))

        return at

    def _project_learned(self, embedded: Tensor) -> Callable[[int], tuple[Tensor, Tensor]]:
        """As `_project_rotary` for OPT, whose position embeddings enter before the projections."""
        layer = self.decoder.layers[0]
        attention = layer.self_attn
        if self.decoder.project_in is not None:
            embedded = self.decoder.project_in(embedded)

        def at(offset: int) -> tuple[Tensor, Tensor]:
            positions = torch.arange(offset, offset + embedded.shape[1], device=embedded.device)[None]
            hidden = embedded + self.decoder.embed_positions(None, position_ids=positions)
            if layer.do_layer_norm_before:
                hidden = layer.self_attn_layer_norm(hidden)
            queries = attention.q_proj(hidden).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
            keys = attention.k_proj(hidden).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
            return queries, keys

        return at
