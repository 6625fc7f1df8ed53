"""Compression of a dense model, layer by layer: solver, baselines, stored form with its proof, and exports.

May import sources, kernels and files.
"""
