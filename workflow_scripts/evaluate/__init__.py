"""A cell's measurements: tasks through lm-evaluation-harness, perplexity, similarity to the dense model, latency.

The scorer is a model of the harness and needs nothing else of this package. Answers are stored as they come, so that a
killed evaluation continues. tasks/ holds the task definitions as YAML.

May import recover, compress, sources, kernels, plan and files.
"""
