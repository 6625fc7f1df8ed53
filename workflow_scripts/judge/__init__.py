"""Statistics and verdicts: results read and paired, intervals, the verdict's rule, the item ledger, the paper audit.

Verdicts and the statistics behind them are computed in this room and stand in verdict.json.

May import plan and files; never torch.
"""
