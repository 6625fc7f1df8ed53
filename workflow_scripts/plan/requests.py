"""What a job asks of a cluster: time, memory and GPUs by formula, and where it goes by the site file.

Pure Python, never torch: the Snakefile imports this in every job. Times are the forecast's (plan/forecast.py).
"""

import functools
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import yaml

from workflow_scripts.files.artifacts import SCHEMAS, ArtifactError, check, non_finite
from workflow_scripts.plan import forecast
from workflow_scripts.plan.layout import Cell
from workflow_scripts.plan.recipes import Plan

SITE = Path("profiles/slurm/site.yaml")
BYTES = {"fp32": 4, "bf16": 2}
BASE_MB = 3500  # Python with its libraries, and the two Snakemake processes that ride in each job
ALONE, SHARED = (
    0.95,
    0.8,
)  # of a GPU's memory: what a job takes of a single one; of each of several, layers being whole
WARNING_SECONDS = 300  # between SIGUSR1 and the end of the wall time
CONTINUED = (
    "compress_model",
    "train_adapter",
    "evaluate_cell",
)  # by the next attempt; other rules start over


Wildcards = Mapping[str, str]


class Need(NamedTuple):
    """What one job takes: seconds on the site's device, MB of host memory, bytes of GPU memory."""

    seconds: float
    host_mb: int
    gpu_bytes: float


def read_site(path: Path = SITE) -> dict:
    """The site file with defaults filled in (no file: all defaults); ArtifactError names file and key."""
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        found = yaml.safe_load(text) or {}
    except OSError as error:
        raise ArtifactError(f"{path}: can't be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError) as error:  # bytes that are no UTF-8 among them
        raise ArtifactError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if clock := re.search(r"^max_hours *: *(\d+:[\d:]+)", text, re.MULTILINE):
        raise ArtifactError(
            f"{path}: $.max_hours: {clock[1]} is a number of minutes in YAML; write hours as 24 or 0.5"
        )
    if key := non_finite(found):
        raise ArtifactError(f"{path}: {key}: not a finite number")
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
        self._need = functools.cache(self._compute)

    def need(self, rule: str, wildcards: Wildcards) -> Need:
        """Need of one job of `rule`; jobs that differ in nothing that counts are computed once."""
        w = dict(wildcards)
        key = (w["grid"], w["model"], w["compressor"], w["corpus"], w.get("method", "none"))
        return self._need(rule, *key)

    def _compute(self, rule: str, grid: str, model: str, compressor: str, corpus: str, method: str) -> Need:
        cell = Cell(grid, model, compressor, corpus, method, 0)
        parameters = float(self.plan.config.models[model].parameters)
        evaluated = BYTES[self.plan.grid(grid).evaluation.precision]
        match rule:  # `host`: bytes of host memory where a GPU holds the rest
            case "compress_model":
                cost = forecast.compression_cost(self.plan, cell, self.hardware)
                return Need(cost.seconds, _host_mb(cost.memory), 0)
            case "export_model":
                cost = forecast.export_cost(self.plan, model, compressor, self.hardware)
                return Need(cost.seconds, _host_mb(cost.memory), 0)
            case "train_adapter":
                width = BYTES[self.plan.training(grid, method)["precision"]]
                cost = forecast.training_cost(self.plan, cell, self.hardware | {"bytes": width})
                host = 2 * width * parameters
            case "evaluate_cell":
                cost = forecast.evaluation_cost(self.plan, cell, self.hardware | {"bytes": evaluated})
                host = 1.5 * evaluated * parameters
            case "measure_similarity":  # the dense model beside the cell's, in float32
                cost = forecast.similarity_cost(self.plan, cell, self.hardware | {"bytes": 4})
                host = 2.5 * 4 * parameters
            case "measure_latency":
                place = {"model": model, "compressor": compressor, "corpus": corpus, "seed": "0"}
                cost = forecast.latency_cost(self.plan, grid, place, self.hardware | {"bytes": evaluated})
                host = 2.5 * evaluated * parameters
            case _:
                raise KeyError(f"rule {rule} computes on no model")
        return Need(
            cost.seconds, _host_mb(host if self.hardware["gpu"] else max(host, cost.memory)), cost.memory
        )

    def mem_mb(self, rule: str, wildcards: Wildcards, attempt: int) -> int:
        """Host memory by attempt, of later ones within the site's limit: a job that waits for ever helps nobody."""
        need, most = self.need(rule, wildcards).host_mb, self.site["max_memory_gb"]
        return max(need, min(attempt * need, int(1000 * most) if most else attempt * need))

    def runtime(self, rule: str, wildcards: Wildcards, attempt: int) -> int:
        """Wall time (minutes): forecast times the site's factor and 20 minutes, by attempt, within the site's limit."""
        minutes = self.site["time_factor"] * self.need(rule, wildcards).seconds / 60 + 20
        return max(1, math.floor(min(attempt * minutes, 60 * self.site["max_hours"])))

    def attempts(self, rule: str, wildcards: Wildcards) -> float:
        """Attempts that a job takes by forecast within the site's limit; infinite where each would start over."""
        usable = 3600 * self.site["max_hours"] - self._warning_seconds()
        needed = math.ceil(self.need(rule, wildcards).seconds / usable)
        return needed if needed <= 1 or rule in CONTINUED else math.inf

    def _warning_seconds(self) -> int:
        return min(WARNING_SECONDS, max(1, int(720 * self.site["max_hours"])))  # a fifth of a short limit

    def gpus(self, rule: str, wildcards: Wildcards) -> int | None:
        """GPUs of one job, more than one where its model does not fit (sources.models.load_dense spreads it then).

        None on a site without GPUs. ArtifactError where it takes more than a node of this site has.
        """
        if not self.hardware["gpu"]:
            return None
        need, memory = self.need(rule, wildcards).gpu_bytes, 1e9 * self.hardware["memory"]
        count = 1 if need <= ALONE * memory else math.ceil(need / (SHARED * memory))
        if count > self.site["gpus_per_node"]:
            raise ArtifactError(
                f"{rule} of {dict(wildcards)['model']} needs about {need / 1e9:.0f} GB of GPU memory: {count} GPUs "
                f"({self.hardware['name']}, {memory / 1e9:.0f} GB each), and a node has {self.site['gpus_per_node']} "
                f"(`gpus_per_node` in {SITE}). "
                f"Choose {', '.join(['a larger `device` there', *self._smaller(rule, wildcards)])} or a smaller model"
            )
        return count

    def _smaller(self, rule: str, wildcards: Wildcards) -> list[str]:
        """What in the grid's settings would make a job of a rule smaller."""
        grid = dict(wildcards)["grid"]
        if rule == "measure_similarity":
            return [f"no `similarity` in grids.{grid} (two models in float32)"]
        settings = self.plan.grid(grid).evaluation.dump()
        if rule == "train_adapter":
            settings = self.plan.training(grid, dict(wildcards)["method"])
        ways = ["precision bf16"] if settings["precision"] == "fp32" else []
        return ways + (["a smaller micro_batch"] if settings.get("micro_batch", 1) > 1 else [])

    def threads(self, model: str) -> int:
        """Small models run fastest as many jobs of one thread; a large one needs its machine's cores."""
        return 1 if self.plan.config.models[model].parameters < 1e9 else 8

    def extra(self) -> str:
        """SIGUSR1 to a job's processes before the end of its time: training then writes a checkpoint."""
        return f"--signal=USR1@{self._warning_seconds()} {self.site['extra']}".strip()

    def where(self, partition: str) -> dict:
        """Account, partition, constraint and QOS as Snakemake resources (None: not asked for).

        The constraint names features of GPU nodes; those of `cpu_partition` need not have them.
        """
        return {
            "slurm_account": self.site["account"],
            "slurm_partition": self.site[partition],
            "constraint": self.site["constraint"] if partition == "partition" else None,
            "qos": self.site["qos"],
        }


def _host_mb(size: float) -> int:
    return int(size / 1e6) + BASE_MB
