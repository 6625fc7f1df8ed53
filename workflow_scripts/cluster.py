"""What a job asks of a cluster: time, memory and GPUs by formula, and where it goes by the site file.

Pure Python, never torch: the Snakefile imports this in every job. Times are the forecast's (analyze/forecast.py).
"""

import functools
import math
from pathlib import Path
from typing import NamedTuple

import yaml

from workflow_scripts.analyze import forecast
from workflow_scripts.artifacts import SCHEMAS, ArtifactError, check
from workflow_scripts.grid import Cell, Plan

SITE = Path("profiles/slurm/site.yaml")
BYTES = {"fp32": 4, "bf16": 2}
BASE_MB = 3500  # Python with its libraries, and the two Snakemake processes that ride in each job
WARNING_SECONDS = 300  # between SIGUSR1 and the end of the wall time


class Need(NamedTuple):
    """What one job takes: seconds on the site's device, MB of host memory, bytes of GPU memory."""

    seconds: float
    host_mb: int
    gpu_bytes: float


def read_site(path: Path = SITE) -> dict:
    """The site file with defaults filled in (no file: all defaults); ArtifactError names file and key."""
    try:
        found = yaml.safe_load(path.read_text()) or {} if path.exists() else {}
    except yaml.YAMLError as error:
        raise ArtifactError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    check(found, "site", path)
    schema = yaml.safe_load((SCHEMAS / "site.schema.yaml").read_text())
    defaults = {
        key: (schema["$defs"]["name"] if "$ref" in rule else rule)["default"]
        for key, rule in schema["properties"].items()
    }
    try:
        return (
            defaults | found | {"hardware": forecast.load_constants(found.get("device", defaults["device"]))}
        )
    except KeyError as error:
        raise ArtifactError(f"{path}: $.device: {error.args[0]}") from None


class Requests:
    """Resources of every rule that computes on a model."""

    def __init__(self, plan: Plan, site: dict):
        self.plan, self.site, self.hardware = plan, site, site["hardware"]

    def need(self, rule: str, wildcards) -> Need:
        """Need of one job of `rule`; jobs that differ in nothing that counts are computed once."""
        w = dict(wildcards)
        key = (w["grid"], w["model"], w["compressor"], w["corpus"], w.get("method", "none"))
        return self._need(rule, *key)

    @functools.cache  # noqa: B019 (lives as long as its process)
    def _need(self, rule: str, grid: str, model: str, compressor: str, corpus: str, method: str) -> Need:
        cell = Cell(grid, model, compressor, corpus, method, 0)
        parameters = float(self.plan.config["models"][model]["parameters"])
        evaluated = BYTES[self.plan.grid(grid)["evaluation"]["precision"]]
        match rule:
            case "compress_model":  # layer by layer, whatever the depth; with a GPU the layer's work is there
                cost = forecast.compression_cost(self.plan, grid, model, compressor, corpus, self.hardware)
                return Need(cost.seconds, _host_mb(cost.memory), 0)
            case "train_adapter":
                width = BYTES[self.plan.training(grid, method)["precision"]]
                cost = forecast.training_cost(self.plan, cell, self.hardware | {"bytes": width})
                return Need(cost.seconds, _host_mb(2 * width * parameters), cost.memory)
            case "evaluate_cell":
                cost = forecast.evaluation_cost(self.plan, cell, self.hardware | {"bytes": evaluated})
                return Need(cost.seconds, _host_mb(1.5 * evaluated * parameters), cost.memory)
            case "measure_similarity":  # the dense model beside the cell's, in float32
                cost = forecast.similarity_cost(self.plan, cell, self.hardware | {"bytes": 4})
                return Need(cost.seconds, _host_mb(2.5 * 4 * parameters), cost.memory)
            case "measure_latency":
                settings = self.plan.grid(grid)["latency"]
                tokens = settings["batch"] * (settings["sequence"] + settings["generate"])
                passes = 3 * len(settings["methods"]) * (settings["repeats"] + 1)
                seconds = (
                    passes * 2 * parameters * tokens / self.hardware["forward"] + self.hardware["overhead"]
                )
                return Need(seconds, _host_mb(2.5 * evaluated * parameters), 2 * evaluated * parameters)
        raise KeyError(f"rule {rule} computes on no model")

    def mem_mb(self, rule: str, wildcards, attempt: int) -> int:
        return self.need(rule, wildcards).host_mb * attempt

    def runtime(self, rule: str, wildcards, attempt: int) -> int:
        """Wall time (minutes): forecast times the site's factor and 20 minutes, by attempt, within the site's limit."""
        minutes = self.site["time_factor"] * self.need(rule, wildcards).seconds / 60 + 20
        return max(1, math.floor(min(attempt * minutes, 60 * self.site["max_hours"])))

    def gpus(self, rule: str, wildcards) -> int | None:
        """GPUs of one job; None on a site without. ArtifactError where the job fits on no GPU of this site."""
        if not self.hardware["gpu"]:
            return None
        need, memory = self.need(rule, wildcards).gpu_bytes, 1e9 * self.hardware["memory"]
        if need > 0.95 * memory:
            raise ArtifactError(
                f"{rule} of {dict(wildcards)['model']} needs about {need / 1e9:.0f} GB of GPU memory; one GPU "
                f"({self.hardware['name']}) has {memory / 1e9:.0f}, and a model is not split over GPUs. Choose a "
                f"larger `device` in {SITE}, precision bf16, a smaller micro_batch or a smaller model"
            )
        return 1

    def extra(self, rule: str, wildcards, attempt: int) -> str:
        """SIGUSR1 to the job's processes before the end of its time: training then writes a checkpoint."""
        before = min(WARNING_SECONDS, 12 * self.runtime(rule, wildcards, attempt))  # a fifth of a short time
        return f"--signal=USR1@{before} {self.site['extra']}".strip()

    def where(self, partition: str) -> dict:
        """Account, partition, constraint and QOS as Snakemake resources (None: not asked for)."""
        return {
            "slurm_account": self.site["account"],
            "slurm_partition": self.site[partition],
            "constraint": self.site["constraint"],
            "qos": self.site["qos"],
        }


def _host_mb(size: float) -> int:
    return int(size / 1e6) + BASE_MB
