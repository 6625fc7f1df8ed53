"""Everything that is known before a job runs: configuration, cells, paths, recipes, model limits, requests, forecast.

The Snakefile imports this room in every process, so it imports no heavy library.

May import files; never torch.
"""
