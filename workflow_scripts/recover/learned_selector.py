"""A learned choice among prompts: logistic regression on the first-layer scores, fitted on text that no task holds.

The pieces are cut from held-out text: a context, and what follows it. A piece's right prompt is the one behind
which the rest is likeliest; a piece counts by how much that choice matters: its stake, largest minus smallest loss,
divided by the mean stake. So weights have no unit and sum to the number of pieces, and the regularisation (C = 1 of
scikit-learn) is that of as many pieces without weights, whether losses are sums or means, in nats or bits.

The features of a context are all of IDP's scores of every prompt, standardised over the pieces; logits are none where
the first layer has a window, beyond which they are not defined. No item of a task and no answer is looked at.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from transformers import PreTrainedModel

from workflow_scripts.files.job import log
from workflow_scripts.kernels.losses import output_head, token_losses
from workflow_scripts.recover.idp import SCORES, Selector
from workflow_scripts.recover.prompt_bank import PromptBank

CONTEXTS = (16, 32, 64)  # tokens of a piece's context, in turn: questions are as long
CONTINUATION = 32  # tokens that follow
AT_A_TIME = 16  # pieces per forward pass


class LearnedSelector(Selector):
    """Chooses by a classifier instead of a score; a tie goes to the first prompt."""

    def __init__(self, model: PreTrainedModel, bank: PromptBank, pieces: Sequence[Sequence[int]]):
        """pieces: token ids, each of at least CONTEXTS[-1] + CONTINUATION tokens. ValueError for shorter ones."""
        longest = CONTEXTS[-1] + CONTINUATION
        if not pieces or min(map(len, pieces)) < longest:
            raise ValueError(f"learned: needs pieces of at least {longest} tokens of held-out text")
        super().__init__(model, bank)
        undefined = [*["joint"] * self.learned, *["logit"] * (self.window is not None)]
        defined = [score for score in SCORES if not score.startswith(tuple(undefined))]
        self.every = [Selector(model, bank, score) for score in defined]
        self.score = "learned"
        lengths = [CONTEXTS[index % len(CONTEXTS)] for index in range(len(pieces))]
        losses = continuation_losses(model, bank, pieces, lengths)
        features = self._features([piece[:length] for piece, length in zip(pieces, lengths, strict=True)])
        self.mean, self.spread = features.mean(0), features.std(0) + 1e-12
        right, matters = losses.argmin(1), losses.max(1) - losses.min(1)
        self.only = right[0] if len(set(right.tolist())) == 1 else None  # the best prompt of every piece
        if self.only is None:
            self.classifier = LogisticRegression(max_iter=1000)
            scaled = (features - self.mean) / self.spread
            self.classifier.fit(scaled, right, sample_weight=matters / matters.mean())
        chosen = self._chosen(features)
        log(
            f"learned choice, on its own {len(pieces)} pieces: right for {np.mean(chosen == right):.0%}, the most "
            f"frequent prompt for {Counter(right.tolist()).most_common(1)[0][1] / len(pieces):.0%}"
        )

    def select(self, contexts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Chosen prefixes (B,) int64 and the classifier's probabilities (B, m) float64."""
        features = self._features(contexts)
        return torch.from_numpy(self._chosen(features)), torch.from_numpy(self._probabilities(features))

    def _features(self, contexts: Sequence[Sequence[int]]) -> np.ndarray:
        """(B, scores x m)."""
        return torch.cat([selector.scores(contexts) for selector in self.every], 1).numpy()

    def _probabilities(self, features: np.ndarray) -> np.ndarray:
        found = np.zeros((len(features), len(self.bank)))
        if self.only is not None:
            found[:, self.only] = 1
        else:
            found[:, self.classifier.classes_] = self.classifier.predict_proba(
                (features - self.mean) / self.spread
            )
        return found

    def _chosen(self, features: np.ndarray) -> np.ndarray:
        return self._probabilities(features).argmax(1)


@torch.no_grad()
def continuation_losses(
    model: PreTrainedModel, bank: PromptBank, pieces: Sequence[Sequence[int]], lengths: Sequence[int]
) -> np.ndarray:
    """(N, m): mean loss (nats per token) of the CONTINUATION tokens after each piece's context, behind each prompt."""
    size = max(lengths) + CONTINUATION
    rows = torch.tensor([piece[:size] for piece in pieces], device=model.device)
    first = torch.tensor(lengths)[:, None] - 1  # of the losses, which begin with the second token's
    columns = first + torch.arange(CONTINUATION)
    head, found = output_head(model), []
    for index in range(len(bank)):
        losses = []
        for part in rows.split(AT_A_TIME):
            cache = bank.cache(index, len(part), part.shape[1])
            hidden = model.get_decoder()(
                input_ids=part, past_key_values=cache, use_cache=True
            ).last_hidden_state
            losses.append(token_losses(hidden[:, :-1], head, part[:, 1:]).cpu())
        found.append(torch.cat(losses).gather(1, columns).mean(1).double())
    return torch.stack(found, 1).numpy()
