"""The selection scores of `recover.idp` against golden data in a rotary geometry (float64 reference)."""

import json
from pathlib import Path

import torch

from workflow_scripts.recover.idp import SCORES, attention_logits, selection_scores, text_log_sum_exp

DATA = Path(__file__).parent / "data" / "selection_scores.json"


def check(path=DATA) -> list[tuple[str, str, float, float, float]]:
    """Rows (case, score of a prompt, our figure, reference, deviation), then the choice itself per case and score."""
    rows = []
    for number, case in enumerate(json.loads(Path(path).read_text())["cases"]):
        queries = torch.tensor(case["q"])[None]  # (1, heads, T, d_head)
        mask = torch.tensor(case["x_mask"], dtype=torch.bool)[None]
        text = text_log_sum_exp(attention_logits(queries, torch.tensor(case["k_x"])[None]), mask)
        prompts = [attention_logits(queries, torch.tensor(keys)[None]) for keys in case["k_prompts"]]
        for score in SCORES:
            ours = selection_scores(score, prompts, [text] * len(prompts), mask)[0]
            for prompt, (figure, reference) in enumerate(zip(ours.tolist(), case["expected_scores"][score])):
                rows.append(
                    (f"idp-{number}", f"{score}[{prompt}]", figure, reference, abs(figure - reference))
                )
            chosen, expected = int(ours.argmax()), case["expected_argmax"][score]
            rows.append((f"idp-{number}", f"{score} argmax", chosen, expected, float(chosen != expected)))
    return rows
