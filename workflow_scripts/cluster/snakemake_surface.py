"""Everything undocumented that this pipeline uses of Snakemake and its SLURM executor.

Each entry has a test in tests/unit/cluster/test_snakemake_surface.py that fails if a release changes it. `workflow` is
the object of that name in a Snakefile.
"""

import base64
import inspect
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.files.disks import cause

FIRST_UNTRIED = 10  # major version of Snakemake

RECORDS = Path(".snakemake/metadata")  # one JSON for each output; recorded_path() reads its name
# A mark, named in the same way, for each output of a job that has not ended.
INCOMPLETE = Path(".snakemake/incomplete")
LOCKS = Path(".snakemake/locks")  # files while a run works in the folder; a killed run leaves them
SCRIPTS = "/.snakemake/scripts/"  # part of the path of a script that a job executes
RULE = re.compile(r"[a-z][a-z_0-9]*")  # a rule's name in a record
TIME = 1e11  # seconds since 1970 that no clock shows
# Logs of the SLURM executor for jobs that did not end well: rule_<rule>/<wildcards>/<job>.log.
SLURM_LOGS = Path(".snakemake/slurm_logs")


def refuse_untried(version: str) -> None:
    """Exit if this version of Snakemake is newer than those that the pipeline was tried with."""
    if int(version.partition(".")[0]) >= FIRST_UNTRIED:
        raise SystemExit(
            f"Nothing was started: Snakemake {version} is untried here, install a version below {FIRST_UNTRIED} "
            f"(pip install 'snakemake>=9.27,<{FIRST_UNTRIED}'). Reruns, locks, archives and `status` use parts of "
            "Snakemake that it may change with a major version (workflow_scripts/cluster/snakemake_surface.py)."
        )


def refuse_braces(*folders: str) -> None:
    """Exit if Snakemake would take a part of these paths for a wildcard."""
    for folder in folders:
        if "{" in folder or "}" in folder:
            raise SystemExit(
                f"Nothing was started: {folder}: Snakemake takes braces in a path for wildcards; rename the folder"
            )


def look_for_scripts_once() -> None:
    """Have Snakemake look for a rule's script once while it plans: it opens the script of every job, which is a sixth
    of the time of a large dry run. No path of a script here depends on the job."""
    from snakemake.dag import ScriptProcessor

    look, found = ScriptProcessor.process_job, set()

    def process_job(self: ScriptProcessor, job: Any) -> None:
        if job.rule not in found:
            look(self, job)
            found.add(job.rule)

    ScriptProcessor.process_job = process_job


def signed(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, with its signature as an attribute: Snakemake asks for it several times a job, and `inspect` works
    it out anew each time if there is none."""
    function.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return function


def refuse_closed_cache() -> None:
    """ArtifactError if Snakemake could not write its cache: it would answer with a traceback."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(_closed(cache, cause(error, cache / "x"))) from error
    if not os.access(cache, os.W_OK):
        raise ArtifactError(_closed(cache, "can't be written"))


def _closed(cache: Path, why: str) -> str:
    return (
        f"{cache}: {why}. Snakemake keeps its cache there: set XDG_CACHE_HOME to a folder where you may write"
    )


def recorded_path(record: Path, root: Path = RECORDS) -> str:
    """The output that a record below `root` describes; empty if the file is no record.

    Snakemake names a record by the output's path in base64 and cuts a long name into folders that begin with @.
    """
    try:
        encoded = "".join(part.removeprefix("@") for part in record.relative_to(root).parts)
        return base64.b64decode(encoded, validate=True).decode()
    except ValueError:
        return ""


def cut_short() -> dict[str, Path]:
    """Outputs of jobs that a killed run left -> their marks; Snakemake runs such a job again, however whole its output
    is."""
    return {recorded_path(mark, INCOMPLETE): mark for mark in INCOMPLETE.rglob("*") if mark.is_file()}


def is_record(name: str, record: Any) -> bool:
    """True if a record of this name below RECORDS suits the report, which embeds rules and times as they are."""
    if not recorded_path(RECORDS / name) or not isinstance(record, dict):
        return False
    times = (record.get("starttime"), record.get("endtime"))
    known = isinstance(record.get("rule"), str) and RULE.fullmatch(record["rule"])
    timed = all(isinstance(time, int | float) and 0 <= time < TIME for time in times)
    return bool(known) and timed and isinstance(record.get("job_hash"), int)


def elsewhere(record: dict) -> dict:
    """A record of another machine without its software environment, from which the report would run programs, and
    without its container, which the report would embed as it is."""
    return record | {"conda_env": None, "container_img_url": None}


def slurm_comment(rule: str, wildcards: Iterable[str]) -> str:
    """The comment of a job in SLURM's queue: its rule and the values of its wildcards in their order."""
    return f"rule_{rule}_wildcards_{'_'.join(wildcards)}"


def slurm_logs(rule: str, wildcards: Iterable[str]) -> Path:
    """The folder of a job's logs from SLURM."""
    return SLURM_LOGS / f"rule_{rule}" / "_".join(wildcards)


def configfiles(workflow: Any) -> list:
    """The files named by --configfile."""
    return list(workflow.overwrite_configfiles)


def merged_files(workflow: Any) -> list:
    """The configuration files that Snakemake merged, in its order: the Snakefile's, then those of --configfile."""
    named = configfiles(workflow)
    if workflow.config_settings.replace_workflow_config:
        return named
    return [*(file for file in workflow.configfiles if file not in named), *named]


def values_of_options(workflow: Any) -> dict:
    """The values of --config, which stand over all files."""
    return dict(workflow.config_settings.config)


def is_main(workflow: Any) -> bool:
    """True if this process plans the run; a job's process parses the Snakefile too."""
    return workflow.is_main_process


def runs_here(workflow: Any) -> bool:
    """True if jobs run on this machine."""
    return workflow.local_exec


def on_cluster(workflow: Any) -> bool:
    """True if jobs leave this machine, in such jobs, and in dry runs, which show what jobs would ask for."""
    return workflow.non_local_exec_or_dryrun or workflow.remote_exec


def forced_files(workflow: Any) -> set[str]:
    """Files that are made whatever their state; a file added by an input function is forced as by --force."""
    return workflow.dag.forcefiles


def has_record(workflow: Any, path: str) -> bool:
    """True if Snakemake knows by what a file was made; of a file that was copied without its records it does not."""
    from snakemake.io import IOFile

    return workflow.persistence.metadata(IOFile(path)) is not None


def values_of_wildcard(name: str, jobs: Iterable[Any]) -> list[str]:
    """The values of a wildcard in these jobs, sorted."""
    return sorted({job.wildcards[name] for job in jobs if hasattr(job.wildcards, name)})


def planned_jobs(workflow: Any) -> Iterable[Any]:
    """The jobs that will run, once the graph is complete."""
    return workflow.dag.needrun_jobs()
