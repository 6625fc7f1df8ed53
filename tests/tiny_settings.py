"""Settings of compressors and adapters for tiny models, in full as the configuration's slices are."""

RTN = {"algorithm": "rtn", "bits": 4, "group_size": None, "symmetric": False, "clip": "none"}
GPTQ = {
    "algorithm": "gptq",
    "bits": 3,
    "group_size": 16,
    "symmetric": False,
    "act_order": True,
    "static_groups": False,
    "clip": "none",
    "damping": 0.01,
    "block_size": 128,
    "true_sequential": False,
}
TARGETS = {"default": ["q_proj", "v_proj"]}
LORA = {"kind": "lora", "rank": 2, "alpha": 4, "dropout": 0.0, "layers": None, "targets": TARGETS}
