"""A grid's results as one archive: packing, reading with checks, putting results back, and comparing two archives.

May import judge, plan, cluster and files; never torch.
"""
