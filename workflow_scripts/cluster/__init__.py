"""Who works in the folder, and questions to SLURM: left-over jobs, possible requests, a probe of the nodes.

May import files; never torch.
"""
