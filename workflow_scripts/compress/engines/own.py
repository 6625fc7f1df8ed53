"""This package's engine: the walk, layer by layer, whatever the model's depth.

A run that was killed continues after the last finished layer and ends in the same weights.
"""

from workflow_scripts.compress.decoder import count_weights, decoder_layers
from workflow_scripts.compress.skeleton import Skeleton
from workflow_scripts.compress.task import Compressed, CompressionTask
from workflow_scripts.compress.walk import FinishedLayers, walk
from workflow_scripts.files.job import log
from workflow_scripts.sources.models import most_positions, verify


def compress(task: CompressionTask) -> Compressed:
    """The model of `task`, its layers in files of `task.work`; `dense` leaves none."""
    settings = task.settings
    skeleton = Skeleton(task.model, verify(task.model)["remote_code"])
    layers = decoder_layers(skeleton.model)
    windows, drawn = None, None
    if settings.calibrated:
        windows, drawn = task.windows(most_positions(skeleton.model))
    if settings.algorithm == "dense":
        return Compressed([], [], count_weights(layers))
    finished, memory = FinishedLayers(task.work), task.machine.activation_memory * 2**30
    records = walk(skeleton, windows, settings, finished, task.device, memory, log=log)
    return Compressed([finished.path(i) for i in range(len(layers))], records, count_weights(layers), drawn)
