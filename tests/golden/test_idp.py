"""The golden selection scores hold to 1e-6, and the choice with them."""

from tests.golden import idp


def test_selection_scores_match_the_reference():
    rows = idp.check()
    assert len(rows) == (3 + 3 + 2 + 3 + 2) * 6 + 5 * 6
    assert [row for row in rows if row[4] > 1e-6] == []


def test_masked_text_positions_are_what_decides_case_1():
    """The check can fail: without the mask, case 1 gives other scores."""
    import json

    import torch

    from workflow_scripts.recover.idp import attention_logits, selection_scores, text_log_sum_exp

    case = json.loads(idp.DATA.read_text())["cases"][1]
    queries, everything = torch.tensor(case["q"])[None], torch.ones(1, case["T"], dtype=torch.bool)
    text = text_log_sum_exp(attention_logits(queries, torch.tensor(case["k_x"])[None]), everything)
    prompts = [attention_logits(queries, torch.tensor(keys)[None]) for keys in case["k_prompts"]]
    scores = selection_scores("joint_mean", prompts, [text] * 3, everything)[0]
    assert (scores - torch.tensor(case["expected_scores"]["joint_mean"])).abs().max() > 1e-2
