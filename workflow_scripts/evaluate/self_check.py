"""Check that a model may be scored packed: a few tokens in one row against each sequence alone, once per scorer.

A packed row lays documents and their choices side by side and tells the attention alone who sees whom. A layer that
mixes neighbouring tokens by other means (a convolution, a recurrence, an attention of its own) would read across them:
every number wrong, no error. So the model itself is asked, before it is first used.
"""

import torch

from workflow_scripts.evaluate.block_attention import CausalModel, NotPackable
from workflow_scripts.evaluate.forward import head_at, run_row
from workflow_scripts.evaluate.row_packing import Sequence, pack_rows
from workflow_scripts.recover.prompt_bank import PromptBank

# Tokens of a context and of a continuation; two of each, so that the row holds siblings and a neighbour.
CONTEXT, CONTINUATION = 3, 2
# Largest difference allowed, over the norm of the logits. Rounding alone gave 3e-6 in float32 and 0.008 in bfloat16
# (SmolLM2-135M); layers that mix neighbours gave 0.4 and more (random models of eight families).
TOLERANCE = {torch.float16: 0.1, torch.bfloat16: 0.1}
TOLERANCE_FLOAT32 = 1e-3


def sequences(vocabulary: int) -> list[list[Sequence]]:
    """Two documents of two continuations each, of tokens spread over the vocabulary, all of one length."""
    tokens = iter((997 * k + 11) % vocabulary for k in range(2 * (CONTEXT + 2 * (CONTINUATION + 1))))
    documents = []
    for _ in range(2):
        context = [next(tokens) for _ in range(CONTEXT)]
        ends = [[next(tokens) for _ in range(CONTINUATION + 1)] for _ in range(2)]
        documents.append([Sequence((*context, *end[:-1]), tuple(end)) for end in ends])
    return documents


@torch.inference_mode()
def require_packable(model: CausalModel, bank: PromptBank | None = None) -> None:
    """ValueError, naming the model's class, if a packed row doesn't give the logits of its sequences alone.

    Behind the bank's first prompt, if there is a bank. Costs two passes over some twenty tokens.
    """
    name, documents = type(model).__name__, sequences(model.config.get_text_config().vocab_size)
    alone = [sequence for document in documents for sequence in document]
    groups = [
        [((n, k), sequence) for k, sequence in enumerate(document)] for n, document in enumerate(documents)
    ]
    (row,) = pack_rows(groups, sum(len(sequence.inputs) for sequence in alone))
    nodes = torch.tensor([node for path in row.scored for node in path], device=model.device)
    try:
        packed = run_row(model, row, nodes, bank)
        inputs = torch.tensor([documents[n][k].inputs for n, k in row.members], device=model.device)
        cache = bank.cache(0, len(inputs), inputs.shape[1]) if bank is not None else None
        ends = torch.arange(inputs.numel(), device=model.device).view(inputs.shape)[:, -CONTINUATION - 1 :]
        with head_at(model, ends.flatten()):  # in the head's own precision, float32 over a bfloat16 body
            plain = model(input_ids=inputs, past_key_values=cache, use_cache=cache is not None).logits[0]
    except (NotPackable, torch.OutOfMemoryError):
        raise
    except Exception as error:  # out of the model's own code: an attention or a cache that it doesn't know
        raise NotPackable(
            f"{name} can't be scored packed: it takes no pluggable attention (transformers' AttentionInterface); a "
            f"pass over {len(row)} tokens ended in {type(error).__name__}: {error}"
        ) from error
    difference = _difference(packed, plain.to(packed.device))
    allowed = TOLERANCE.get(model.dtype, TOLERANCE_FLOAT32)
    if difference > allowed:  # not a number: the scores themselves will say so
        raise NotPackable(
            f"{name} can't be scored packed: it mixes neighbouring tokens by other means than its attention, or its "
            f"attention is more than softmax(q k^T); logits of a packed row are off by {difference:.2g} of their norm, "
            f"{allowed:.2g} is rounding"
        )


def _difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Mean over rows of |found - expected| / |expected|, of logits (N, V) without each row's mean.

    The mean over rows: in half precision a mixture of experts may route a single token elsewhere.
    """
    found, expected = (logits.float() - logits.float().mean(-1, keepdim=True) for logits in (found, expected))
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).mean())
