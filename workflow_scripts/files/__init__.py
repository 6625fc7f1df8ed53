"""Files that can be trusted: atomic and sealed writes, schemas, locks, work folders, and the frame of a job.

May import no other room; never torch.
"""
