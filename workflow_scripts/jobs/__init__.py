"""One entry per rule of the workflow, named like the rule. Snakemake runs an entry as a script; tests import it.

An entry is a `main` with plain arguments: it calls the rooms below and writes the rule's files. A computation
belongs in a room below, with a test of its own.

May import report, evaluate, archive, recover, compress, judge, sources, kernels, plan and files.
"""
