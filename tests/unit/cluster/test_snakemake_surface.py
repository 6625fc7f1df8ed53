"""Snakemake and its SLURM executor still do what the pipeline uses without their documentation's word for it."""

import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import snakemake
import snakemake_executor_plugin_slurm as slurm_executor
from snakemake.common import get_function_params

from workflow_scripts.cluster import snakemake_surface as surface

ROOT = Path(__file__).parents[3]
LONG = f"{'folder' * 30}/{'file' * 30}.txt"  # its record's name is cut into folders
SNAKEFILE = f"""
import json, os, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from workflow_scripts.cluster import snakemake_surface as surface

def note(**values):
    with open("notes.jsonl", "a") as notes:
        notes.write(json.dumps(values) + "\\n")

configfile: "own.yaml"

note(
    main=surface.is_main(workflow),
    configfiles=[str(file) for file in surface.configfiles(workflow)],
    merged=[Path(file).name for file in surface.merged_files(workflow)],
    given=surface.values_of_options(workflow),
)

def force(wildcards):
    note(
        here=surface.runs_here(workflow),
        cluster=surface.on_cluster(workflow),
        recorded=[path for path in ("short.txt", {LONG!r}, "own.yaml") if surface.has_record(workflow, path)],
    )
    if "force" in config:
        surface.forced_files(workflow).add("short.txt")
    return []

onstart:
    jobs = [job for job in surface.planned_jobs(workflow) if job.rule.name == "short"]
    note(values=surface.values_of_wildcard("any", surface.planned_jobs(workflow)))
    note(planned=[(job.params.args, job.resources.get("mem_mb"), job.threads, job.is_local) for job in jobs])

rule all:
    input: "short.txt", "made.txt", {LONG!r}

rule short:
    input: force
    output: "short.txt"
    params: args={{"name": "a name"}}
    resources: mem_mb=7
    shell: "ls .snakemake/locks > {{output}}"

rule long:
    input: "short.txt"
    output: {LONG!r}
    shell: "touch {{output}}"

rule made:
    output: "{{any}}.txt"
    wildcard_constraints: any="made"
    script: "made.py"
"""


def run(folder: Path, *arguments: str) -> tuple[str, list[dict]]:
    """Run Snakemake in a folder: its output, and what the Snakefile noted, in its order."""
    (folder / "notes.jsonl").unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", *arguments],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout, [json.loads(line) for line in (folder / "notes.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("surface")
    (folder / "Snakefile").write_text(SNAKEFILE)
    (folder / "own.yaml").write_text("key: 0\n")
    (folder / "mine.yaml").write_text("key: 1\n")
    (folder / "made.py").write_text("import sys\nopen(snakemake.output[0], 'w').write(sys.argv[0])\n")
    return folder, run(folder, "--configfile", "mine.yaml")[1]


def test_a_record_is_named_by_its_output(finished, monkeypatch):
    monkeypatch.chdir(finished[0])
    records = [file for file in surface.RECORDS.rglob("*") if file.is_file()]
    assert {surface.recorded_path(file) for file in records} == {"short.txt", "made.txt", LONG}
    assert any(file.parent != surface.RECORDS for file in records), "no long name was cut"
    for file in records:
        record, name = json.loads(file.read_text()), str(file.relative_to(surface.RECORDS))
        assert surface.is_record(name, record) and {"conda_env", "container_img_url"} <= record.keys()
        assert not surface.is_record(name, record | {"rule": "</script>"})
    assert surface.recorded_path(surface.RECORDS / "no record") == ""


def test_an_output_whose_job_was_killed_bears_a_mark(finished, tmp_path, monkeypatch):
    names = ["short.txt", LONG]
    kill = "import os, signal; os.kill(os.getppid(), signal.SIGKILL)"
    (tmp_path / "Snakefile").write_text(f"rule all:\n    output: {names!r}\n    script: 'killer.py'\n")
    (tmp_path / "killer.py").write_text(kill)
    subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1"], cwd=tmp_path, capture_output=True, check=False
    )
    monkeypatch.chdir(tmp_path)
    assert surface.cut_short().keys() == {*names}
    monkeypatch.chdir(finished[0])
    assert surface.cut_short() == {}


def test_a_run_locks_its_folder_while_it_lives(finished):
    assert (finished[0] / "short.txt").read_text().split()
    assert not list(finished[0].glob(f"{surface.LOCKS}/*"))


def test_a_jobs_script_runs_from_snakemakes_folder(finished):
    assert surface.SCRIPTS in (finished[0] / "made.txt").read_text()


@pytest.mark.parametrize(("once", "opened"), [("surface.look_for_scripts_once()", 2), ("", 4)])
def test_a_rules_script_is_opened_once_for_all_jobs_of_a_plan(tmp_path, once, opened):
    head = SNAKEFILE.partition("def note")[0]
    (tmp_path / "Snakefile").write_text(
        f"""{head}{once}
from snakemake.sourcecache import SourceCache
read = SourceCache.open
def counted(self, file, *arguments):
    print("opened", os.path.basename(str(file)))
    return read(self, file, *arguments)
SourceCache.open = counted
rule all:
    input: "1.a", "2.a", "1.b", "2.b"
rule a:
    output: "{{number}}.a"
    script: "made.py"
rule b:
    output: "{{number}}.b"
    script: "made.py"
"""
    )
    (tmp_path / "made.py").write_text("")

    def dry_run():
        return subprocess.run(
            [sys.executable, "-m", "snakemake", "-n", "--quiet"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    done = dry_run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("opened made") == opened
    (tmp_path / "made.py").unlink()
    done = dry_run()
    assert done.returncode == 1 and "No such file" in done.stdout


def test_a_signed_function_is_asked_for_its_parameters_at_no_cost(monkeypatch):
    asked = []
    work_out = inspect._signature_from_function
    monkeypatch.setattr(
        inspect,
        "_signature_from_function",
        lambda *given, **more: asked.append(given) or work_out(*given, **more),
    )
    signed = surface.signed(lambda wildcards, output: None)
    asked.clear()
    assert [*get_function_params(signed)] == ["wildcards", "output"] and not asked
    assert [*get_function_params(lambda wildcards, output: None)] == ["wildcards", "output"] and asked


def test_processes_know_their_part(finished):
    folder, (parsed, asked, *_) = finished
    assert parsed["main"] and asked == {"here": True, "cluster": False, "recorded": []}
    parsed, asked, *_ = run(folder, "--dry-run")[1]
    assert parsed["main"] and asked["cluster"]
    for mode in ("subprocess", "remote"):
        parsed, asked, *_ = run(folder, "--mode", mode, "short.txt")[1]
        assert not parsed["main"] and asked["cluster"] == (mode == "remote")


def test_an_input_function_can_ask_whether_snakemake_made_a_file(finished, tmp_path):
    assert run(finished[0], "--dry-run")[1][1]["recorded"] == ["short.txt", LONG]
    copied = shutil.copytree(finished[0], tmp_path / "copied", ignore=shutil.ignore_patterns(".snakemake"))
    assert run(copied, "--dry-run")[1][1]["recorded"] == []


def test_files_on_the_command_line_are_known(finished):
    named = finished[1][0]["configfiles"]
    assert [Path(file).name for file in named] == ["mine.yaml"]


def test_all_configuration_files_and_options_are_known_in_their_order_in_jobs_too(finished):
    folder, (parsed, *_) = finished
    assert parsed["merged"] == ["own.yaml", "mine.yaml"] and parsed["given"] == {}
    options = (
        "--configfile",
        "mine.yaml",
        "--config",
        "blocks=[a,b]",
        "--mode",
        "subprocess",
        "--",
        "short.txt",
    )
    parsed, *_ = run(folder, *options)[1]
    assert parsed["merged"] == ["own.yaml", "mine.yaml"] and parsed["given"] == {"blocks": ["a", "b"]}


def test_the_jobs_that_will_run_are_known_at_the_start(finished):
    (planned,) = (note["planned"] for note in finished[1] if "planned" in note)
    assert planned == [[{"name": "a name"}, 7, 1, True]]


def test_the_values_of_a_wildcard_are_those_of_the_jobs_that_will_run(finished):
    assert [note["values"] for note in finished[1] if "values" in note] == [["made"]]


def test_a_file_that_an_input_function_adds_is_forced(finished):
    assert "Nothing to be done" in run(finished[0], "--dry-run")[0]
    output, _ = run(finished[0], "--dry-run", "--config", "force=1")
    assert "Forced execution" in output and "rule short:" in output and "rule long:" in output
    assert "rule made:" not in output


def test_slurms_jobs_and_logs_are_named_by_rule_and_wildcards():
    source = inspect.getsource(slurm_executor)
    assert f'Path("{surface.SLURM_LOGS}")' in source
    assert 'f"rule_{job.name}"' in source and 'group_or_rule / wildcard_str / "%j.log"' in source
    assert 'comment_str = f"rule_{job.name}_wildcards_{wildcard_str}"' in source
    values = ["tiny", "0"]
    assert slurm_executor.get_job_wildcards(SimpleNamespace(wildcards=values)) == "tiny_0"
    assert surface.slurm_comment("judge", values) == "rule_judge_wildcards_tiny_0"
    assert surface.slurm_logs("judge", values) == surface.SLURM_LOGS / "rule_judge" / "tiny_0"


def test_a_version_that_was_not_tried_is_refused():
    surface.refuse_untried(snakemake.__version__)
    for version in ("9.99.0", "9.28.0rc1"):
        surface.refuse_untried(version)
    for version in ("10.0.0", "11.2"):
        with pytest.raises(
            SystemExit, match=f"Snakemake {version} is untried here, install a version below 10"
        ):
            surface.refuse_untried(version)


def test_braces_in_a_path_are_refused():
    surface.refuse_braces("/work/mine", "/work/other")
    with pytest.raises(
        SystemExit, match=r"/work/\{a\}: Snakemake takes braces in a path for wildcards; rename"
    ):
        surface.refuse_braces("/work/mine", "/work/{a}")
