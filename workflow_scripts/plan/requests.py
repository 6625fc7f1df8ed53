"""Resources that a job requests of a cluster: time, memory and GPUs by formula, its partition by the site file.

Pure Python, never torch: the Snakefile imports this in every job. Times are the forecast's (plan/forecast.py).
"""

import functools
import math
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import yaml

from workflow_scripts.files.artifacts import SCHEMAS, ArtifactError, check, non_finite
from workflow_scripts.files.yaml_text import read_yaml
from workflow_scripts.plan import forecast
from workflow_scripts.plan.layout import Cell
from workflow_scripts.plan.recipes import Plan

SITE = Path("profiles/slurm/site.yaml")
BYTES = {"fp32": 4, "bf16": 2}
SNAKEMAKE_MB = 500  # the two Snakemake processes that ride in each job
# These processes, Python with its libraries and CUDA's context: host memory of a job whose model is on a GPU.
GPU_HOST_MB = 3500
MARGIN = 1.1  # over the forecast of a process's peak on a CPU
# Share of a GPU's memory that a job takes: of a single one; of each of several, since layers stay whole.
ALONE, SHARED = 0.95, 0.8
WARNING_SECONDS = 300  # between SIGUSR1 and the end of the wall time
# Options of sbatch that `extra` must leave to Snakemake's executor, and the key that sets them (None: no key does).
OWN_OPTIONS = {
    **dict.fromkeys(("--account", "-A"), "account"),
    **dict.fromkeys(("--partition", "-p"), "partition"),
    **dict.fromkeys(("--constraint", "-C"), "constraint"),
    **dict.fromkeys(("--qos", "-q"), "qos"),
    **dict.fromkeys(("--time", "-t"), "max_hours"),
    **dict.fromkeys(("--mem", "--mem-per-cpu"), "max_memory_gb"),
    **dict.fromkeys(("--gres", "--gpus", "-G"), "gpu_model"),
    **dict.fromkeys(
        ("--signal", "--comment", "--export", "--parsable", "--clusters", "-M", "--workdir", "-D")
    ),
    **dict.fromkeys(("--chdir", "--wrap", "--array", "-a", "--test-only")),
    **dict.fromkeys(
        ("--job-name", "-J", "--output", "-o", "--error", "-e", "--nodes", "-N", "--ntasks", "-n")
    ),
    **dict.fromkeys(("--ntasks-per-gpu", "--cpus-per-task", "-c", "--cpus-per-gpu")),
}
# Rules that the next attempt continues; others start over.
CONTINUED = ("compress_model", "train_adapter", "evaluate_cell", *forecast.TEACHING.values())


Wildcards = Mapping[str, str]


class Need(NamedTuple):
    """The need of one job: seconds on the site's device, MB of host memory, bytes of GPU memory."""

    seconds: float
    host_mb: int
    gpu_bytes: float


def read_site(path: Path = SITE) -> dict:
    """The site file with defaults filled in (no file: all defaults); ArtifactError names file and key."""
    found = (read_yaml(path) if path.exists() else None) or {}
    if key := non_finite(found):
        raise ArtifactError(f"{path}: {key}: not a finite number")
    check(found, "site", path)
    _check_extra(found.get("extra", ""), path)
    schema = yaml.safe_load((SCHEMAS / "site.schema.yaml").read_text(encoding="utf-8"))
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


def _check_extra(extra: str, path: Path) -> None:
    """Raises ArtifactError for an option that the executor would refuse at each submission, or sbatch take for one of
    its own, which may be cut short there; and for what a shell would read in another way."""
    try:
        words = shlex.split(extra)
    except ValueError as error:
        raise ArtifactError(f"{path}: $.extra: {extra!r} is no line of options: {error}") from None
    if found := re.search(r"[;&|<>()$`\n]", extra):
        raise ArtifactError(
            f"{path}: $.extra: holds {found[0]!r}, which the shell of sbatch would read; leave it out"
        )
    if words and not words[0].startswith("-"):
        raise ArtifactError(
            f"{path}: $.extra: {words[0]!r} is no option; options of sbatch begin with - or --"
        )
    for word in words:
        option = word.partition("=")[0] if word.startswith("--") else word[:2]
        meant = (own for own in OWN_OPTIONS if len(option) > 2 and own.startswith(option))
        own = option if option in OWN_OPTIONS else next(meant, None)
        if own:
            key = OWN_OPTIONS[own]
            right = f"set the key `{key}` of this file" if key else "leave it out, Snakemake sets it"
            raise ArtifactError(f"{path}: $.extra: {option} is not allowed; {right}")


class Requests:
    """Resources of every rule that computes on a model."""

    def __init__(self, plan: Plan, site: dict):
        self.plan, self.site, self.hardware = plan, site, site["hardware"]
        self._need = functools.cache(self._compute)

    def need(self, rule: str, wildcards: Wildcards) -> Need:
        """Need of one job of `rule`; jobs that differ in nothing that counts are computed once."""
        w = dict(wildcards)
        if rule in forecast.TEACHING.values():
            return self._need(rule, w.get("model", ""), w.get("compressor", ""))
        key = (w["grid"], w["model"], w["compressor"], w["corpus"], w.get("method", "none"))
        return self._need(rule, *key)

    def _compute(self, rule: str, *names: str) -> Need:
        return self._teaching(*names) if rule in forecast.TEACHING.values() else self._on_model(rule, *names)

    def _teaching(self, model: str, compressor: str) -> Need:
        place = ("models", model) if model else ("compressors", compressor)
        cost = forecast.teaching_cost(self.plan, *place, self.hardware)
        host = 4 * cost.disk  # the weights, and a checkpoint of three times their size
        return self._with_host(cost, host)

    def _on_model(self, rule: str, grid: str, model: str, compressor: str, corpus: str, method: str) -> Need:
        cell = Cell(grid, model, compressor, corpus, method, 0)
        parameters = float(self.plan.config.models[model].parameters)
        evaluated = BYTES[self.plan.grid(grid).evaluation.precision]
        match rule:  # `host`: bytes of host memory where a GPU holds the rest
            case "compress_model":
                cost = forecast.compression_cost(self.plan, cell, self.hardware)
                megabytes = _host_mb if self.hardware["gpu"] else _cpu_mb
                return Need(cost.seconds, megabytes(cost.memory), 0)
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
        return self._with_host(cost, host)

    def _with_host(self, cost: forecast.Cost, host: float) -> Need:
        """`host`: bytes of host memory if a GPU holds the rest."""
        return Need(
            cost.seconds, _host_mb(host) if self.hardware["gpu"] else _cpu_mb(cost.memory), cost.memory
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
        """Attempts that a job takes by forecast within the site's limit; infinite if each would start over."""
        usable = 3600 * self.site["max_hours"] - self._warning_seconds()
        needed = math.ceil(self.need(rule, wildcards).seconds / usable)
        return needed if needed <= 1 or rule in CONTINUED else math.inf

    def _warning_seconds(self) -> int:
        return min(WARNING_SECONDS, max(1, int(720 * self.site["max_hours"])))  # a fifth of a short limit

    def gpus(self, rule: str, wildcards: Wildcards) -> int | None:
        """GPUs of one job, more than one if its model does not fit one (sources.models.load_dense spreads it then).

        None on a site without GPUs. ArtifactError if it takes more than a node of this site has.
        """
        if not self.hardware["gpu"]:
            return None
        need, memory = self.need(rule, wildcards).gpu_bytes, 1e9 * self.hardware["memory"]
        count = 1 if need <= ALONE * memory else math.ceil(need / (SHARED * memory))
        if count > self.site["gpus_per_node"]:
            names = dict(wildcards)
            name = names.get("model") or names["compressor"]
            raise ArtifactError(
                f"{rule} of {name} needs about {need / 1e9:.0f} GB of GPU memory: {count} GPUs "
                f"({self.hardware['name']}, {memory / 1e9:.0f} GB each), and a node has {self.site['gpus_per_node']} "
                f"(`gpus_per_node` in {SITE}). "
                f"Choose {', '.join(['a larger `device` there', *self._smaller(rule, wildcards)])} or a smaller model"
            )
        return count

    def _smaller(self, rule: str, wildcards: Wildcards) -> list[str]:
        """Settings of the grid that would make a job of a rule smaller."""
        if rule in forecast.TEACHING.values():
            return []
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


def _cpu_mb(peak: float) -> int:
    return int(MARGIN * peak / 1e6) + SNAKEMAKE_MB


def _host_mb(size: float) -> int:
    return int(size / 1e6) + GPU_HOST_MB
