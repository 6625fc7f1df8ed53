"""One module per command of `python -m workflow_scripts`; options.py and progress.py serve several.

A command reads the plan and the results, asks a cluster, or calls Snakemake. It computes on no model.

May import report, archive, judge, plan, cluster and files; never torch.
"""
