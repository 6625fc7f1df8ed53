"""Adopt results that an older code made, after some of them were made again by today's code and compared.

  python -m workflow_scripts adopt --grid paper
  python -m workflow_scripts adopt --grid paper --profile slurm

It looks only at results whose settings and inputs are as planned. A few of each rule and method, one of each kind
(plan/kinds.py) and architecture of model at least, are made again below work/adopt/, from the stored inputs (`adopt` in
the configuration says how many and which). If all of a code agree, results/<grid>/adopted.json records that today's
code makes what the older one made, and its results count as planned. If one differs, nothing of that code is adopted
and each difference is printed; exit status 1.
"""

import argparse
import getpass
import itertools
import os
import platform
import random
import shutil
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from workflow_scripts.cluster.snakemake_surface import refuse_closed_cache
from workflow_scripts.commands.options import add_grid
from workflow_scripts.commands.run import follow
from workflow_scripts.files.artifacts import PACKAGE, ArtifactError, read_json, recorded_digest
from workflow_scripts.files.locks import held_by, hold
from workflow_scripts.files.members import RESOURCES, RESULTS, WHEELS
from workflow_scripts.files.provenance import processor
from workflow_scripts.files.work_folders import WORK
from workflow_scripts.judge.agreement import Agreement, agreement, on_one_kind_of_machine, other_weights
from workflow_scripts.plan.adopted import equivalences, older_record, record_path, write_rows
from workflow_scripts.plan.config import files, write_complete
from workflow_scripts.plan.forecast import foreseen, job_of
from workflow_scripts.plan.kinds import ON
from workflow_scripts.plan.layout import (
    ADAPTER,
    ADOPTED,
    COMPRESSED,
    EVALUATION,
    LOGS,
    MODEL,
    companions,
    lacks_companions,
)
from workflow_scripts.plan.recipes import Plan, plan_of
from workflow_scripts.plan.reruns import Reruns
from workflow_scripts.plan.soundness import damage, is_bare
from workflow_scripts.plan.upgrades import Older, as_if, older_results, outdated_by, outvoted

SHOWN = 5  # differences of one result that are printed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_grid(parser, "smoke")
    parser.add_argument("--profile", help="a Snakemake profile, like slurm (default: run on this machine)")
    parser.add_argument(
        "--cores", default="all", help="cores that the jobs share here (default: %(default)s)"
    )


class Remade(NamedTuple):
    """A result that is made again, and the one that is compared: weights of another processor by a cell's answers."""

    made: Older
    shown: Older

    @property
    def paths(self) -> set[str]:
        return {self.made.path, self.shown.path}


def main(
    grid: str,
    blocks: list[str] | None = None,
    configfile: Sequence[str] = (),
    profile: str | None = None,
    cores: str = "all",
) -> int:
    """Make samples again, compare them and record what agrees; returns an exit status, 1 if something differs."""
    plan = plan_of(files(*configfile), grid, blocks)
    refuse_closed_cache()
    if who := held_by(RESULTS):
        raise ArtifactError(f"A run works in this folder ({who}). Wait for it, or stop it.")
    with hold(RESULTS):  # a run would put its own results in the place of those that are compared
        return _adopt(plan, grid, profile, cores)


def _adopt(plan: Plan, grid: str, profile: str | None, cores: str) -> int:
    for line in filter(None, map(older_record, (None, grid))):
        print(line)
    older, left = older_results(plan, grid), outvoted(plan, grid)
    if left:
        print(
            f"Not asked about: {len(left)} results of other codes, {left[0].path} among them. A recipe takes one code "
            "of a kind, and as many results of it are as planned. A run makes these again."
        )
    if not older:
        more = "" if left else f": no result of grid '{grid}' differs from the plan in its code alone"
        print(f"Nothing to adopt{more}.")
        return 0
    adopted_codes = as_if(plan, {result.place: result.old for result in older})
    if outdated := outdated_by(plan, adopted_codes, grid):
        print(
            f"An adoption outdates {len(outdated)} results that are as planned, {outdated[0]} among them: a run makes "
            "them again. A recipe takes one code of a kind, and more results are of the older one."
        )
    bare = [path for path in plan.artefacts(grid) if is_bare(Path(path)) and not COMPRESSED.parse(path)]
    if bare and not all(result.shared for result in older):
        raise ArtifactError(
            "these are here as records without their files, and samples need them; nothing was made again or adopted. "
            f"First: snakemake --force {' '.join(bare)}"
        )
    samples = chosen(plan, grid, older)
    for path in sorted(set[str]().union(*(sample.paths for sample in samples))):
        if problem := damage(Path(path)):
            raise ArtifactError(f"{problem}; nothing was made again or adopted: delete it, or put it back")
    print(f"{len(older)} results differ from the plan in their code alone; {len(samples)} are made again:")
    print("\n".join(f"  {sample.made.path}" for sample in samples), flush=True)
    place = WORK / "adopt" / grid
    found: dict[str, Agreement] = {}
    shutil.rmtree(place, ignore_errors=True)
    for rule in dict.fromkeys(sample.made.artefact.rule for sample in samples):  # each from the stored inputs
        mine, folder = [sample for sample in samples if sample.made.artefact.rule == rule], place / rule
        scratch(plan, grid, older, mine, folder)
        if not _made_again(folder, mine, profile, cores):
            print(
                f"Not all could be made again, nothing was adopted: see the lines above and {folder}/{LOGS}."
            )
            return 1
        found |= {sample.made.path: _agreement(sample, folder) for sample in mine}
    adopted, refused = decided(samples, found)
    _record(plan, grid, adopted, found)
    print("\n".join(lines(older, adopted, refused, found)))
    if refused:
        print(f"The results made again are in {place}.")
        return 1
    shutil.rmtree(place)
    return 0


# ---------------------------------------------------------------------------------------- results made again


def chosen(plan: Plan, grid: str, older: list[Older]) -> list[Remade]:
    """As many results of each code and method as the configuration says, one of each kind and architecture at least;
    those with all weights first."""
    seconds = {(cost.kind, cost.name): cost.seconds for cost in foreseen(plan, grid).costs}
    drawn = random.Random(0)
    cheap = plan.config.adopt.choice == "cheapest"

    def lacking(result: Older) -> int:
        return sum(map(lacks_companions, Reruns(plan, set).stands_on(result.artefact, result.names)))

    def order(result: Older) -> tuple:
        cost = 0.0 if result.shared else seconds.get(job_of(result.path), 0.0)
        return lacking(result), cost if cheap else drawn.random(), result.path

    groups: dict[tuple[str, str], list[Older]] = {}
    for result in sorted(older, key=order):
        groups.setdefault((result.new, result.kind.partition(ON)[0]), []).append(result)
    cells = sorted(_finished_cells(plan, grid, older), key=order)
    rules = list(dict.fromkeys(result.artefact.rule for result in older))  # in the workflow's order
    samples = [
        result
        for results in groups.values()
        for result in _spread(results, plan.config.adopt.samples, lacking)
    ]
    samples.sort(key=lambda result: rules.index(result.artefact.rule))
    return [Remade(result, _shown(plan, result, cells)) for result in samples]


def _spread(results: list[Older], count: int, lacking: Callable[[Older], int]) -> list[Older]:
    """`count` of the results, or one of each kind, architecture and older code if that is more. Each is one of those
    that lack fewest weights, with as many names (model, compressor, corpus, method, seed) that no other has as can be;
    of equal ones the first."""

    def kind(result: Older) -> tuple[str, str, str]:
        return result.kind, _architecture(result), result.old

    found: list[Older] = []
    left, missing = list(results), set(map(kind, results))
    while left and (missing or len(found) < count):
        seen = {item for result in found for item in result.names.items()}
        wanted = [result for result in left if not missing or kind(result) in missing]
        best = max(wanted, key=lambda result: (-lacking(result), len(result.names.items() - seen)))
        found.append(best)
        left.remove(best)
        missing.discard(kind(best))
    return found


def _architecture(result: Older) -> str:
    """`model_type` of the model that a result is of; empty of a source, and of a model that is not there."""
    path = None if result.shared else MODEL.path(**result.names)
    return read_json(path).get("architecture", "") if path and os.path.exists(path) else ""


def _finished_cells(plan: Plan, grid: str, older: list[Older]) -> list[Older]:
    """Cells that are there and are as planned, but for code that may be adopted."""
    codes = {result.place: result.old for result in older}
    planned = as_if(plan, codes).artefacts(grid)
    known = {result.path: result for result in older}
    found = []
    for cell in plan.cells(grid):
        if recorded_digest(cell.json, "recipe") == planned[cell.json] and not lacks_companions(cell.json):
            names, code = EVALUATION.parse(cell.json) or {}, plan.evaluate(cell)["code"]
            as_planned = Older(cell.json, EVALUATION, names, plan.evaluation_kind(cell), code, code, code)
            found.append(known.get(cell.json, as_planned))
    return found


def _shown(plan: Plan, result: Older, cells: list[Older]) -> Older:
    """The result that shows whether another is the same: itself, or, of weights which another kind of processor made, a
    cell that stands on them and on the fewest others: an adapter on a model that is made again is trained again."""
    if result.artefact in (COMPRESSED, ADAPTER) and not _made_on_this_kind(result):
        reruns = Reruns(plan, set)
        weights = {cell.path: reruns.stands_on(cell.artefact, cell.names) for cell in cells}
        showing = (cell for cell in cells if result.path in weights[cell.path])
        return min(showing, key=lambda cell: len(weights[cell.path]), default=result)
    return result


def _made_on_this_kind(result: Older) -> bool:
    manifest = read_json(result.path)["manifest"]
    here = {"cpu": processor(), "host": socket.gethostname(), "device": "cpu", "threads": manifest["threads"]}
    return on_one_kind_of_machine(manifest, here)


def scratch(plan: Plan, grid: str, older: list[Older], samples: list[Remade], folder: Path) -> None:
    """Make `folder` a workflow that lacks the samples alone; all other results are links that count as planned."""
    left_out = {file for sample in samples for path in sample.paths for file in (path, *companions(path))}
    whole = {str(Path(sample.made.path).parent) for sample in samples if sample.made.shared}
    for root in (Path(RESULTS, grid), Path(RESOURCES)):
        places = os.walk(root, followlinks=True)  # a folder may be a link to another disk
        for file in (Path(parent, name) for parent, _, names in places for name in names):
            inside = str(file) in left_out or str(file.parent) in whole or file.is_relative_to(WHEELS)
            if not (inside or ".locks" in file.parts or file.name == ADOPTED.name):
                target = folder / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(file.resolve() if file.exists() else os.readlink(file))
    if WHEELS.exists():  # with these a source is fetched again without a network
        (folder / WHEELS).symlink_to(WHEELS.resolve())
    for place in (None, grid):
        assumed = [_equivalence(plan, [result], []) for result in older if result.shared == (place is None)]
        known = equivalences(place)
        if found := known + list({(row["new"], *row["kinds"]): row for row in assumed}.values()):
            write_rows(folder / record_path(place), found)
    write_complete(_absolute(plan.config.dump()) | {"grid": grid, "partial": False}, folder)


def _absolute(config: dict) -> dict:
    """The configuration as it reads from another folder."""

    def absolute(path: str) -> str:
        return str(Path(path).expanduser().absolute())

    entries = [entry for name in ("models", "compressors", "corpora") for entry in config[name].values()]
    entries += [entry for tasks in config["benchmarks"].values() for entry in tasks.values()]
    for entry in entries:
        if entry.get("path"):
            entry["path"] = absolute(entry["path"])
        if entry.get("parts"):
            entry["parts"] = [absolute(part) for part in entry["parts"]]
        if entry.get("recipe") and Path(entry["recipe"]).expanduser().exists():
            entry["recipe"] = absolute(entry["recipe"])
    pythons = {key: absolute(config[key]) for key in ("optimum_python", "llmcompressor_python")}
    return config | pythons | {"called_with": []}


def _made_again(folder: Path, samples: list[Remade], profile: str | None, cores: str) -> bool:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(PACKAGE.parent / "Snakefile")]
    command += ["--directory", str(folder), "--quiet", "rules", "host", "reason"]
    command += ["--profile", profile] if profile else ["--cores", cores]
    return follow([*command, "--", *sorted({path for sample in samples for path in sample.paths})]) == 0


# ------------------------------------------------------------------------------------------------- adoptions


def _agreement(sample: Remade, folder: Path) -> Agreement:
    """ArtifactError if other code than the planned one made the sample again: it was edited meanwhile."""
    for result in (sample.made, sample.shown):
        if recorded_digest(folder / result.path, "code") != result.new:
            raise ArtifactError(
                f"{result.path}: the code was edited while it was made again; nothing was adopted, ask again"
            )
    # Weights of another kind of machine have other bits, and so have the answers of a cell that stands on them.
    same = sample.shown.shared or all(
        on_one_kind_of_machine(read_json(path)["manifest"], read_json(folder / path)["manifest"])
        for path in sample.paths
    )
    found = agreement(sample.shown.artefact, Path(sample.shown.path), folder / sample.shown.path, same)
    if sample.made == sample.shown:
        return found
    weights = other_weights(Path(sample.made.path), folder / sample.made.path)
    return replace(found, differences=[*weights, *found.differences])


def decided(samples: list[Remade], found: dict[str, Agreement]) -> tuple[list[list[Remade]], list[Remade]]:
    """The samples of each code that all agree, and the samples that differ."""
    codes: dict[str, list[Remade]] = {}
    for sample in samples:
        codes.setdefault(sample.made.new, []).append(sample)
    refused = [sample for sample in samples if found[sample.made.path].differences]
    return [mine for mine in codes.values() if not any(s in refused for s in mine)], refused


def _record(plan: Plan, grid: str, adopted: list[list[Remade]], found: dict[str, Agreement]) -> None:
    """Write the equivalences; each says how many results count as planned with all of them."""
    rows: dict[tuple[str, str], list[Remade]] = {}  # kinds of one code may stand for several older ones
    for sample in itertools.chain.from_iterable(adopted):
        rows.setdefault((sample.made.new, sample.made.old), []).append(sample)
    older = [result for result in older_results(plan, grid) if (result.new, result.old) in rows]
    before = plan.artefacts(grid)
    after = as_if(plan, {result.place: result.old for result in older}).artefacts(grid)
    counts = Counter(
        (result.new, result.old)
        for result in older
        if recorded_digest(result.path, "recipe") == after[result.path] != before[result.path]
    )
    for place in (None, grid):
        fresh = [
            _equivalence(
                plan,
                [result for result in older if (result.new, result.old) == codes_of],
                [_compared(sample, found[sample.made.path]) for sample in mine],
                counts[codes_of],
            )
            for codes_of, mine in rows.items()
            if mine[0].made.shared == (place is None)
        ]
        if fresh:
            with hold(record_path(place)):
                write_rows(Path(record_path(place)), equivalences(place) + fresh)


def _equivalence(plan: Plan, results: list[Older], compared: list[dict], count: int = 0) -> dict:
    artefact, names = results[0].artefact, results[0].names
    asked = {"tasks": plan.tasks(names["grid"])} if artefact == EVALUATION else {}
    return {
        "rule": artefact.rule,
        **asked,
        "kinds": sorted({result.own for result in results}),
        "old": results[0].old,
        "new": results[0].new,
        "results": count,
        "compared": compared,
        "machine": {
            "host": socket.gethostname(),
            "cpu": processor(),
            "python": platform.python_version(),
        },
        "user": getpass.getuser(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _compared(sample: Remade, found: Agreement) -> dict:
    return {
        "path": sample.shown.path,
        "kind": sample.made.kind,
        "how": found.how,
        "items": found.items,
        "largest": found.largest,
    }


def lines(
    older: list[Older], adopted: list[list[Remade]], refused: list[Remade], found: dict[str, Agreement]
) -> list[str]:
    """The findings, for the terminal."""
    text = []
    for sample in refused:
        differences = found[sample.made.path].differences
        text.append(
            f"{sample.shown.path}: {len(differences)} differences from the result of code {sample.made.old[:12]}:"
        )
        text += [f"  {difference}" for difference in differences[:SHOWN]]
        text += ["  ..."] if len(differences) > SHOWN else []
    for mine in adopted:
        ways = ", ".join(sorted({found[sample.made.path].how for sample in mine}))
        first = mine[0].made
        text.append(
            f"Adopted: {first.artefact.rule} ({'; '.join(sorted({sample.made.kind for sample in mine}))}), made by "
            f"code {first.old[:12]}; {len(mine)} made again by {first.new[:12]}, equal by {ways}"
        )
    if refused:
        codes = {sample.made.new for sample in refused}
        left = sum(result.new in codes for result in older)
        text.append(
            f"Not adopted: {left} results of {len(codes)} codes that make something else; a run makes them again."
        )
    return text
