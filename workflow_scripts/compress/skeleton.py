"""A dense model whose weights stay in its safetensors until they are asked for, a module at a time.

A process then holds as much as the largest module that it asks for, whatever the model's depth. Names and layouts
of checkpoints are translated by transformers' own loader, so that a module holds bit by bit what `load_dense` puts in.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils import logging

from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.sources.weights import stored, targets


class Skeleton:
    """`model`: a transformers model in eval mode, its parameters on the meta device until `load` reads them (float32).

    folder: of a verified model (sources/models.py). remote_code: whether it may bring its own Python code.
    Raises ArtifactError for weights that are quantised already.
    """

    def __init__(self, folder: Path, remote_code: bool = False):
        self.folder = Path(folder)
        trust = {"trust_remote_code": remote_code}
        config = AutoConfig.from_pretrained(self.folder, local_files_only=True, **trust)
        if getattr(config, "quantization_config", None):
            raise ArtifactError(
                f"{self.folder}: config.json has `quantization_config`: its weights are quantised already; use the "
                "dense model"
            )
        with init_empty_weights(include_buffers=False):  # buffers are small, and computed, not stored
            self.model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, **trust)
        self.model.tie_weights()  # parameters that were made anew on the meta device are no longer shared
        self.model.eval().requires_grad_(False)
        self.paths = {id(module): path for path, module in self.model.named_modules()}
        shared: dict[int, set[str]] = {}
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            shared.setdefault(id(parameter), set()).add(name)
        self.tied = [names for names in shared.values() if len(names) > 1]
        self.mapping = get_model_conversion_mapping(self.model)
        # Safetensors file -> key in it -> the model's tensor that it becomes.
        self.files = {
            file: {key: name for key, (name, _) in targets(self.model, list(header)).items()}
            for file, header in stored(self.folder).items()
        }
        logging.disable_progress_bar()  # transformers would draw a bar per module

    def load(self, module: nn.Module, but: tuple = ()) -> None:
        """Read the weights of `module`, without those of the modules inside it that `but` lists, onto the CPU.

        ArtifactError names a weight that isn't in the files or has another shape there.
        """
        wanted = self._names(module, but)
        for names in self.tied:
            if wanted & names:
                wanted |= names
        with ExitStack() as opened:
            stored: dict[str, Any] = {}  # slices, as safetensors opens them
            for file, targets in self.files.items():
                if keys := [key for key, name in targets.items() if name in wanted]:
                    handle = opened.enter_context(safe_open(file, "pt", backend="pread"))
                    stored |= {key: handle.get_slice(key) for key in keys}
            settings = LoadStateDictConfig(
                dtype=torch.float32,
                weight_mapping=self.mapping,  # type: ignore[arg-type]  # transformers hands it on just so
            )
            convert_and_load_state_dict_in_model(self.model, stored, settings)
        for names in self.tied:
            there = [p for p in map(self.model.get_parameter, sorted(names)) if not p.is_meta]
            if any(not torch.equal(there[0], other) for other in there[1:]):
                continue  # both are stored: transformers doesn't tie them either
            for name in names if there else ():
                parent, _, last = name.rpartition(".")
                setattr(self.model.get_submodule(parent), last, there[0])
        for name in sorted(self._names(module, but)):
            if self.model.get_parameter_or_buffer(name).is_meta:
                raise ArtifactError(
                    f"{self.folder}: {name} is missing in its safetensors, or of another shape there"
                )

    def release(self, module: nn.Module) -> None:
        """Drop the weights of `module`."""
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    empty = torch.empty(parameter.shape, dtype=torch.float32, device="meta")
                    part._parameters[name] = nn.Parameter(empty, requires_grad=False)
            for name, buffer in part._buffers.items():
                part._buffers[name] = buffer if buffer is None else buffer.to("cpu")

    def _names(self, module: nn.Module, but: tuple) -> set[str]:
        """Full names of the tensors that a checkpoint stores of `module` without `but`."""
        left_out = {id(part) for other in but for part in other.modules()}
        found = set()
        for part in (part for part in module.modules() if id(part) not in left_out):
            buffers = part._buffers.keys() - part._non_persistent_buffers_set
            own = [name for name in (*part._parameters, *buffers) if getattr(part, name) is not None]
            path = self.paths[id(part)]
            found |= {f"{path}.{name}" if path else name for name in own}
        return found
