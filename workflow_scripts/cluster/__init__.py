"""The run that works in the folder, undocumented parts of Snakemake, questions to SLURM, a probe of the nodes.

May import files; never torch.
"""
