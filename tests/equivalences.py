"""Whether today's code makes what the last release made, stage by stage: `make equivalences` in CI.

    python -m tests.equivalences [--release TAG] [--write]

The release's own code runs its tiny grid (tests/tiny_sources.py) in a worktree of the tag; `adopt` then makes each of
these results again by today's code and compares. A stage (rule) of which a result differs, or can't be compared because
settings or paths are others, must have a line of its own under *Numbers* in the newest part of CHANGELOG.md, which
begins with "- `stage`: "; else exit status 1. Exit status 2 if there is no such release: nothing is compared.
--write keeps the equivalences in workflow_scripts/plan/released.json, which recipes accept: commit it with the release.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from tests import tiny_sources
from workflow_scripts.files.artifacts import recorded_digest
from workflow_scripts.plan.adopted import RELEASED, equivalences, released, write_rows
from workflow_scripts.plan.config import ConfigError, load, write_complete
from workflow_scripts.plan.layout import KINDS, LATENCY
from workflow_scripts.plan.recipes import Plan
from workflow_scripts.plan.reruns import Reruns
from workflow_scripts.plan.upgrades import SOURCES, artefact_of, kinds_of

ROOT = Path(__file__).parents[1]
GRID = "tiny"
EVERY = 1_000  # samples of each rule and kind: all that there are
# Run by the release: its own test fixtures know how to make its tiny grid, in a copy of the product.
MAKE = """
import os, sys
from pathlib import Path
from tests import tiny_sources
from tests.workflow.conftest import Checkout, product_copy
folder = Path(sys.argv[1])
checkout = Checkout(product_copy(folder / "clone"))
checkout.write_config(tiny_sources.config(folder / "sources", checkout.folder))
os.environ |= tiny_sources.environment(folder / "sources")
checkout.snakemake()
"""


def main() -> int:
    arguments = _arguments()
    release = arguments.release or last_release()
    if release is None:
        print(
            "Nothing was compared: HEAD has no tag before it in this clone (git fetch --tags).",
            file=sys.stderr,
        )
        return 2
    if not _git("rev-parse", "--verify", "--quiet", f"{release}^{{commit}}"):
        print(f"Nothing was compared: this clone has no release '{release}'.", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        made = run_release(release, Path(folder))
        changed, found = compare(made, Path(folder) / "today")
    if arguments.write:
        write_rows(RELEASED, found)
    missing = sorted(changed - stated((ROOT / "CHANGELOG.md").read_text()))
    print("\n".join(told(release, changed, found)))
    if missing:
        lines = " ".join(f"'- `{rule}`: ...'" for rule in missing)
        print(f"CHANGELOG.md lacks lines under Numbers: {lines}", file=sys.stderr)
    return bool(missing)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--release", help="a tag (default: the last one before HEAD)")
    parser.add_argument("--write", action="store_true", help="keep the equivalences for the next release")
    return parser.parse_args()


def last_release(folder: Path = ROOT) -> str | None:
    """The last tag before HEAD; a tag of HEAD itself is the release that is made. None without one."""
    own = [f"--exclude={tag}" for tag in _git("tag", "--points-at", "HEAD", folder=folder).split()]
    return _git("describe", "--tags", "--abbrev=0", *own, folder=folder) or None


def _git(*words: str, folder: Path = ROOT) -> str:
    """git's answer; empty if it fails."""
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def run_release(release: str, folder: Path) -> Path:
    """The folder in which the release has made its tiny grid."""
    worktree = folder / "release"
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(worktree), release], check=True)
    try:
        command = [sys.executable, "-c", MAKE, str(folder / "made")]
        subprocess.run(command, cwd=worktree, env=os.environ | {"PYTHONPATH": str(worktree)}, check=True)
    finally:
        subprocess.run([*git, "remove", "--force", str(worktree)], check=True)
    return folder / "made" / "clone"


def compare(made: Path, folder: Path) -> tuple[set[str], list[dict]]:
    """Rules whose results today's code does not make alike, and the equivalences of the others, those among them that
    were shipped before and lead to today's code."""
    config = yaml.safe_load((made / "config.yaml").read_text()) | {"adopt": {"samples": EVERY}}
    shutil.copytree(made / "resources", folder / "resources", symlinks=True)
    shutil.copytree(made / "results", folder / "results", symlinks=True)
    try:
        write_complete(load(config).dump(), folder)
    except ConfigError as error:
        print(f"Nothing can be compared, today's code refuses the release's configuration:\n{error}")
        return {artefact.rule for artefact in (*SOURCES, *KINDS.values()) if artefact != LATENCY}, []
    command = [sys.executable, "-m", "workflow_scripts", "adopt", "--grid", GRID, "--cores", "2"]
    offline = tiny_sources.environment(made.parent / "sources")
    subprocess.run(command, cwd=folder, env=os.environ | offline | {"PYTHONPATH": str(ROOT)}, check=False)
    before = Path.cwd()
    os.chdir(folder)
    try:
        plan = Plan(load(yaml.safe_load(Path("config.yaml").read_text())))
        changed = {
            rule
            for path, recipe in plan.artefacts(GRID).items()
            if recorded_digest(path, "recipe") != recipe
            and (rule := artefact_of(path)[0].rule) != LATENCY.rule
        }
        reruns = Reruns(plan, set)
        codes = {reruns.arguments(*artefact_of(path))["code"] for path in plan.artefacts(GRID)}
        kept = [row for row in released() if row["new"] in codes]
        found = kept + shipped(plan, GRID, [*equivalences(None), *equivalences(GRID)])
    finally:
        os.chdir(before)
    return changed, found


def shipped(plan: Plan, grid: str, found: list[dict]) -> list[dict]:
    """Equivalences as a release ships them: of sources by the way in which they are fetched, for users' have other
    names, of results for all models, and of evaluations for all tasks; a source without such a way is left out."""
    places = [artefact_of(path) for path in plan.artefacts(grid)]
    ways = {
        (artefact.rule, own): way
        for artefact, names in places
        for own, *way in [kinds_of(plan, artefact, names)]
    }
    rows = []
    for row in found:
        kinds = {way for kind in row["kinds"] for way in ways.get((row["rule"], kind), [kind])}
        row = {key: value for key, value in row.items() if key != "tasks"} | {"kinds": sorted(kinds)}
        rows += [row] if kinds else []
    return rows


def stated(changelog: str) -> set[str]:
    """Stages of which the newest part of a changelog has a line of their own under Numbers."""
    newest = re.split(r"^## ", changelog, flags=re.MULTILINE)[1]
    parts = re.split(r"^### ", newest, flags=re.MULTILINE)
    numbers = "".join(part for part in parts if part.startswith("Numbers\n"))
    return set(re.findall(r"^- `(\w+)`: \S", numbers, flags=re.MULTILINE))


def told(release: str, changed: set[str], found: list[dict]) -> list[str]:
    same = sorted({one["rule"] for one in found} - changed)
    lines = [f"Makes what {release} made: {', '.join(same)}"] if same else []
    return lines + [
        f"Makes something else than {release}, or nothing that compares: {', '.join(sorted(changed))}"
    ] * bool(changed)


if __name__ == "__main__":
    sys.exit(main())
