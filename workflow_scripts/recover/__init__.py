"""Recovery methods as adapters in PEFT's format: their training or computation, the prompt bank, and IDP's selection.

May import compress, sources, kernels, plan and files.
"""
