"""Recovery methods: LoRA, prompts and prefixes in PEFT's format, their training, the prompt bank, and IDP's selection.

May import compress, sources, kernels, plan and files.
"""
