"""Tensor code that several rooms share: token losses, packed linears, causal attention, devices, dtypes, the allocator.

May import files.
"""
