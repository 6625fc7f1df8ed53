"""Precisions, as the configuration names them."""

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
