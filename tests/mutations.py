"""Does a test fail if a mend is taken out? One mend at a time, in a copy of the checkout.

  python -m tests.mutations                     every mend
  python -m tests.mutations S1 F2               those whose names begin so
  PYTEST="nice python -m pytest -q" python -m tests.mutations F     with another command for the tests

Each line of MENDS is a fault of docs/reference/faults.md that once passed in silence: the text that mends it, the text
without it, and the test that must fail then. tests/unit/test_mutations.py keeps the table in step with the code.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
COPIED = (
    "workflow_scripts",
    "tests",
    "rules",
    "profiles",
    "envs",
    "config",
    "reports",
    "recipes",
    "docs",
    "benchmarks",
)
PYTEST = os.environ.get("PYTEST", f"{sys.executable} -m pytest -q -p no:cacheprovider")

MOST_SECONDS = 900  # of a test: without its mend it may build a thousand million layers


class Mend(NamedTuple):
    """A mend in `file`: `text`, which stands there once, `without` in its place, and the `test` that fails then."""

    name: str
    file: str
    text: str
    without: str
    test: str


DOCUMENTS = "workflow_scripts/evaluate/documents.py"
TASKS = "workflow_scripts/evaluate/tasks.py"
RESULTS = "workflow_scripts/judge/results.py"
YAML = "workflow_scripts/files/yaml_text.py"
RESTORING = "workflow_scripts/archive/restoring.py"
MODEL_FOLDER = "workflow_scripts/sources/model_folder.py"
FOLDER = "workflow_scripts/sources/model_folder.py"
LIMITS = "workflow_scripts/plan/model_limits.py"
IN_EVALUATE, IN_JUDGE, IN_FILES = "tests/unit/evaluate", "tests/unit/judge", "tests/unit/files"
IN_SOURCES, IN_ARCHIVE, IN_PLAN = "tests/unit/sources", "tests/unit/archive", "tests/unit/plan"

MENDS = (
    Mend(
        "S1 a question among its own worked examples",
        TASKS,
        'config = config | {"test_split": split, "validation_split": None}',
        'config = config | {"test_split": None, "validation_split": split}',
        f"{IN_EVALUATE}/test_tasks.py::test_few_shot_variants_show_solved_examples_from_their_own_data_but_never_the_question",
    ),
    Mend(
        "S1 a question that stands twice among its own worked examples",
        TASKS,
        "    never_the_question(name, task)\n",
        "",
        f"{IN_EVALUATE}/test_tasks.py::test_a_question_that_the_file_repeats_or_the_task_changes_is_none_of_its_own_examples",
    ),
    Mend(
        "S2 choices shuffled by an unseeded generator",
        DOCUMENTS,
        "            generator.seed(seed)\n",
        "            generator.getstate()\n",
        f"{IN_EVALUATE}/test_documents.py::test_shuffled_choices_are_the_same_each_time_whatever_was_drawn_before",
    ),
    Mend(
        "S2 a hash that does not cover the drawn choices",
        DOCUMENTS,
        "return digest(self.document if self.drawn else self.line.document)",
        "return digest(self.line.document)",
        f"{IN_EVALUATE}/test_documents.py::test_the_hash_covers_the_choices_that_were_drawn",
    ),
    Mend(
        "S3 missing tensors filled with random numbers",
        MODEL_FOLDER,
        '    if missing := sorted(found["missing_keys"]):\n',
        '    if missing := sorted(found["missing_keys"])[:0]:\n',
        f"{IN_SOURCES}/test_models.py::test_weights_that_are_not_the_architecture_are_refused_at_fetch_and_at_load",
    ),
    Mend(
        "S3 tensors under other names",
        MODEL_FOLDER,
        "    if inside:\n",
        "    if inside and missing:\n",
        f"{IN_SOURCES}/test_models.py::test_weights_that_are_not_the_architecture_are_refused_at_fetch_and_at_load",
    ),
    Mend(
        "S3 a head of its own under tied embeddings",
        MODEL_FOLDER,
        "    if not first.equal(second):\n",
        "    if first is None:\n",
        f"{IN_SOURCES}/test_models.py::test_a_head_of_its_own_that_config_json_ties_to_the_embeddings_is_refused",
    ),
    Mend(
        "S3 codes without their scales",
        "workflow_scripts/sources/models.py",
        "        require_floats(where, temporary)\n",
        "",
        f"{IN_SOURCES}/test_models.py::test_codes_without_their_scales_are_no_weights",
    ),
    Mend(
        "S4 LoRA on a tied embedding",
        "workflow_scripts/recover/lora.py",
        "    if absent := [target for target in chosen if not any(_names(target, name) for name in linears)]:\n",
        "    if absent := [target for target in chosen if not linears]:\n",
        "tests/unit/recover/test_adapters.py::test_what_is_no_linear_of_the_decoder_layers_is_refused_before_training",
    ),
    Mend(
        "S5 hidden labels",
        DOCUMENTS,
        "if below or (isinstance(value, str | int | float | None) and value in hidden):",
        "if isinstance(value, dict) and value in hidden:",
        f"{IN_EVALUATE}/test_tasks.py::test_a_hidden_label_is_refused_with_its_line",
    ),
    Mend(
        "S5 a label that the task's function takes for any other",
        "workflow_scripts/evaluate/task_check.py",
        "        _require_known_label(harness, item.document)\n",
        "",
        f"{IN_EVALUATE}/test_documents.py::test_a_label_that_a_function_of_the_task_takes_for_any_other_is_refused",
    ),
    Mend(
        "S5 a blank answer that equals an alias of punctuation",
        "workflow_scripts/evaluate/samples.py",
        " and not blank\n",
        "\n",
        f"{IN_EVALUATE}/test_tasks.py::test_a_blank_answer_is_never_right",
    ),
    Mend(
        "S6 lines and hashes of documents that a task leaves out",
        DOCUMENTS,
        "        line = lines[row.pop(LINE)]\n",
        "        line = lines[row.pop(LINE) * 0 + len(found)]\n",
        f"{IN_EVALUATE}/test_documents.py::test_items_hashes_and_lines_are_of_the_documents_that_a_task_keeps",
    ),
    Mend(
        "S7 bytes of characters that a window cuts",
        "workflow_scripts/evaluate/encoding.py",
        '    if "\\ufffd" not in text:\n',
        "    if text is not None:\n",
        f"{IN_EVALUATE}/test_perplexity.py::test_a_character_that_windows_cut_counts_once",
    ),
    Mend(
        "S7 the space that a window begins with",
        "workflow_scripts/evaluate/encoding.py",
        "for part in (tokens[:1] + tokens, tokens[:1])",
        "for part in (tokens, [])",
        f"{IN_EVALUATE}/test_perplexity.py::test_the_space_that_a_window_begins_with_counts",
    ),
    Mend(
        "S7 equal weights are all pruned",
        "workflow_scripts/compress/solver.py",
        "room = torch.where(equal.sum() == 1, 1, count - below.sum())",
        "room = equal.sum()",
        "tests/unit/compress/test_solver.py::test_equal_weights_lose_the_asked_share_and_no_more",
    ),
    Mend(
        "F1 code edited while a job runs, and put back",
        "workflow_scripts/plan/digests.py",
        "        if late := [file for file, state in _states(watched).items() if state != before[file]]:\n",
        "        if late := []:\n",
        f"{IN_PLAN}/test_digests.py::test_code_that_is_edited_while_a_job_runs_and_put_back_keeps_nothing",
    ),
    Mend(
        "F2 inputs from the future",
        "workflow_scripts/files/job.py",
        "                    os.utime(file, (latest, latest), follow_symlinks=follow)\n",
        "                    os.stat(file)\n",
        f"{IN_FILES}/test_job.py::test_an_input_from_the_future_costs_no_result",
    ),
    Mend(
        "F3 a damaged result is packed",
        "workflow_scripts/archive/soundness.py",
        "        if sha and Path(file).exists() and sha256_file(file) != sha:\n",
        "        if sha and not Path(file).exists():\n",
        f"{IN_ARCHIVE}/test_restoring.py::test_a_damaged_result_is_not_packed",
    ),
    Mend(
        "F4 a damaged result counts as present",
        RESTORING,
        "return recorded_recipe(path) == recipe and not incomplete and damage(path) is None",
        "return recorded_recipe(path) == recipe",
        f"{IN_ARCHIVE}/test_restoring.py::test_only_a_whole_result_counts_as_present",
    ),
    Mend(
        "F6 cells of another recipe are paired",
        RESULTS,
        "    if other := sorted(path for path in made if recorded_recipe(path) != recipes[path]):\n",
        "    if other := []:\n",
        f"{IN_JUDGE}/test_results.py::test_a_cell_of_another_recipe_than_the_planned_one_is_compared_with_nothing",
    ),
    Mend(
        "F6 cells of other settings are paired",
        RESULTS,
        "                if other != value:\n",
        "                if other is None:\n",
        f"{IN_JUDGE}/test_results.py::test_cells_that_were_evaluated_with_other_settings_are_never_paired",
    ),
    Mend(
        "E1 one BOS before many windows",
        "workflow_scripts/evaluate/perplexity.py",
        "bos = [scorer.tokenizer.bos_token_id] if each_bos and adds_bos(scorer.tokenizer) else []",
        "bos = [scorer.tokenizer.bos_token_id] if False else []",
        f"{IN_EVALUATE}/test_perplexity.py::test_every_window_begins_with_the_bos_or_the_whole_text_does",
    ),
    Mend(
        "N6a LoRA on a fourth of the linears",
        "workflow_scripts/plan/schema/methods.py",
        'targets.get("default", [ALL_LINEAR])',
        'targets.get("default", ["q_proj", "k_proj", "v_proj"])',
        f"{IN_PLAN}/test_config.py::test_lora_without_targets_for_other_families_takes_all_linears",
    ),
    Mend(
        "N7a a pair that was changed after results",
        "workflow_scripts/plan/questions.py",
        '"evaluated": sum(map(os.path.exists, cells)),',
        '"evaluated": 0,',
        f"{IN_PLAN}/test_questions.py::test_a_change_after_results_is_told_with_their_number_also_if_it_is_taken_back",
    ),
    Mend(
        "F9 a key that stands twice",
        YAML,
        "            _check(node, {}, frozenset())\n",
        "            node.start_mark\n",
        f"{IN_FILES}/test_yaml_text.py::test_a_surprise_is_refused_with_its_line_within_seconds",
    ),
    Mend(
        "F15 010 is 8, 12:30 is 750",
        YAML,
        "        if OCTAL.fullmatch(text):\n",
        "        if not text:\n",
        f"{IN_FILES}/test_yaml_text.py::test_a_surprise_is_refused_with_its_line_within_seconds",
    ),
    Mend(
        "F8 whole fractions",
        "workflow_scripts/plan/schema/keys.py",
        "return int(value) if isinstance(value, float) and value.is_integer() else value",
        "return value",
        f"{IN_PLAN}/test_config.py::test_a_whole_number_may_be_written_as_a_fraction",
    ),
    Mend(
        "C1 an error that rounding makes negative",
        "workflow_scripts/compress/hessian.py",
        "return total.clamp(min=0)",
        "return total",
        "tests/unit/compress/test_solver.py::test_an_error_that_rounding_makes_negative_is_none",
    ),
    Mend(
        "S5a complete without cells",
        "workflow_scripts/commands/run.py",
        "if not _is_made(plan, cell)]:",
        "if not cell]:",
        "tests/unit/commands/test_run.py::test_a_run_is_complete_only_if_its_cells_are_there",
    ),
    Mend(
        "F5 tags in Snakemake's report",
        "workflow_scripts/files/job.py",
        'return json.dumps(args).replace("<", "\\\\u003c")',
        "return json.dumps(args)",
        f"{IN_FILES}/test_job.py::test_no_tag_of_an_argument_reaches_a_rules_parameter",
    ),
    Mend(
        "F7 an archive that expands without end",
        "workflow_scripts/archive/extraction.py",
        '        if total > most or (name.endswith(".json") and member.size > MOST_JSON):\n',
        "        if total < 0:\n",
        f"{IN_ARCHIVE}/test_unpacking.py::test_an_archive_that_expands_without_end_is_refused_before_it_is_written",
    ),
    Mend(
        "F20 a link out of a model's folder",
        FOLDER,
        "            target.is_relative_to(folder) for folder in inside\n",
        "            folder for folder in inside\n",
        f"{IN_SOURCES}/test_model_folder.py::test_a_link_out_of_the_folder_is_not_followed",
    ),
    Mend(
        "F20 a pipe in a checkpoint",
        "workflow_scripts/sources/checkpoints.py",
        "        require_plain(where, source, FILES)\n",
        "        assert where\n",
        f"{IN_SOURCES}/test_checkpoints.py::test_a_pipe_is_refused_and_never_opened",
    ),
    Mend(
        "F21 a thousand million layers",
        FOLDER,
        "        if isinstance(value, int | float) and value > most:\n",
        "        if isinstance(value, str):\n",
        f"{IN_SOURCES}/test_model_folder.py::test_more_modules_than_tensors_are_refused_before_they_are_built",
    ),
    Mend(
        "N2 a local model's config.json is read after its fetch alone",
        LIMITS,
        'if not (folder / "config.json").is_file() and isinstance(entry, LocalModel):',
        'if not (folder / "config.json").is_file() and entry is None:',
        f"{IN_PLAN}/test_model_limits.py::test_a_local_models_folder_is_read_before_any_fetch",
    ),
    Mend(
        "N3 a check that tries no long item",
        "workflow_scripts/evaluate/rehearsal.py",
        "    longest = max(positions, key=lambda i: lengths[i].text)\n"
        "    answer = max(positions, key=lambda i: lengths[i].answer)\n",
        "    longest = answer = 0\n",
        "tests/unit/commands/test_check.py::test_an_answer_that_is_longer_than_the_window_is_found",
    ),
    Mend(
        "F11 an archive's folder that a killed writer moved away",
        "workflow_scripts/archive/packing.py",
        "        put_back(output)\n",
        "",
        f"{IN_ARCHIVE}/test_restoring.py::test_an_archive_survives_a_writer_that_is_killed_while_it_takes_its_place",
    ),
    Mend(
        "F14 an anchor that holds itself",
        YAML,
        "    if id(node) in above:\n",
        "    if node in above:\n",
        f"{IN_FILES}/test_yaml_text.py::test_a_surprise_is_refused_with_its_line_within_seconds",
    ),
    Mend(
        "F16 a number beyond all that is counted",
        "workflow_scripts/plan/schema/problems.py",
        "abs(value) > LARGEST:\n",
        "abs(value) < 0:\n",
        f"{IN_PLAN}/test_config.py::test_what_would_take_for_ever_is_refused_within_seconds",
    ),
    Mend(
        "U10 a tokenizer that appends a token",
        "workflow_scripts/sources/models.py",
        "            require_tokenizer(where, temporary)\n",
        "",
        f"{IN_SOURCES}/test_model_folder.py::test_a_tokenizer_that_appends_an_end_is_refused_at_the_fetch",
    ),
    Mend(
        "messages: a byte order mark",
        "workflow_scripts/sources/fetch.py",
        "    elif content.startswith(codecs.BOM_UTF8):\n",
        "    elif content is None:\n",
        f"{IN_SOURCES}/test_fetch.py::test_a_line_that_is_no_text_or_no_json_is_named",
    ),
    Mend(
        "messages: columns that the first row lacks",
        DOCUMENTS,
        "dict.fromkeys(key for document in documents for key in document)",
        "dict.fromkeys(key for document in documents[:1] for key in document)",
        f"{IN_EVALUATE}/test_documents.py::test_rows_that_can_be_asked_pass_with_fields_that_only_some_have",
    ),
    Mend(
        "messages: an adapter beside a model",
        "workflow_scripts/sources/models.py",
        '    require_no_adapter(f"{name}: {where}", folder)\n',
        "",
        f"{IN_SOURCES}/test_model_folder.py::test_an_adapter_beside_the_weights_is_said",
    ),
    Mend(
        "messages: weights under another name",
        MODEL_FOLDER,
        '    elif present and "model.safetensors" not in present:\n',
        "    elif not present:\n",
        f"{IN_SOURCES}/test_model_folder.py::test_weights_under_another_name_are_named_at_the_fetch",
    ),
    Mend(
        "messages: an option of sbatch that another key sets",
        "workflow_scripts/plan/requests.py",
        '    _check_extra(found.get("extra", ""), path)\n',
        "",
        f"{IN_PLAN}/test_requests.py::test_an_error_in_the_site_file_names_the_key",
    ),
    Mend(
        "messages: mistakes of types alone, of several kinds",
        "workflow_scripts/plan/config.py",
        "    for _ in range(REPAIRS if error.error_count() <= MOST else 0):\n",
        "    for _ in range(0):\n",
        f"{IN_PLAN}/test_config.py::test_mistakes_of_types_and_of_meaning_are_reported_at_once",
    ),
    Mend(
        "messages: a disk without room for more files",
        "workflow_scripts/files/disks.py",
        "    if found.f_files and not found.f_favail:\n",
        "    if found.f_files < 0:\n",
        f"{IN_FILES}/test_artifacts.py::test_a_disk_without_room_for_more_files_is_named",
    ),
    Mend(
        "messages: braces in a path",
        "workflow_scripts/cluster/snakemake_surface.py",
        '        if "{" in folder or "}" in folder:\n',
        "        if not folder:\n",
        "tests/unit/cluster/test_snakemake_surface.py::test_braces_in_a_path_are_refused",
    ),
)


def chosen(names: list[str]) -> list[Mend]:
    """The mends whose names begin with one of `names`; all, without any."""
    return [mend for mend in MENDS if not names or mend.name.startswith(tuple(names))]


def copy_to(folder: Path) -> None:
    """The checkout's tracked parts in `folder`; the tests find what they read there."""
    for name in COPIED:
        shutil.copytree(
            ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy2(file, folder / file.name)


def without(mend: Mend, folder: Path) -> None:
    """Take the mend out of the copy in `folder`; ValueError if its text does not stand there once."""
    file = folder / mend.file
    text = file.read_text(encoding="utf-8")
    if text.count(mend.text) != 1:
        raise ValueError(
            f"{mend.name}: its text stands {text.count(mend.text)} times in {mend.file}, not once"
        )
    file.write_text(text.replace(mend.text, mend.without), encoding="utf-8")


def outcomes(mends: list[Mend], folder: Path) -> Iterator[tuple[Mend, bool, float]]:
    """(mend, whether its test failed without it, seconds), one after the other, in the copy in `folder`.

    A test that can't be collected has not failed (pytest ends with another status than 1). One without an end has.
    """
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    for mend in mends:
        file, started = folder / mend.file, time.monotonic()
        before = file.read_bytes()
        without(mend, folder)
        command = [*shlex.split(PYTEST), mend.test]
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, check=False, timeout=MOST_SECONDS
            )
            failed = done.returncode == 1
        except subprocess.TimeoutExpired:
            failed = True
        file.write_bytes(before)
        yield mend, failed, time.monotonic() - started


def main(names: list[str]) -> int:
    """Run, print a line per mend; 1 if a test passes without its mend."""
    survived = 0
    with tempfile.TemporaryDirectory() as scratch:
        copy_to(Path(scratch))
        for mend, failed, seconds in outcomes(chosen(names), Path(scratch)):
            survived += not failed
            print(
                f"{'fails' if failed else 'PASSES':<7} {seconds:4.0f} s  {mend.name}  ({mend.test})",
                flush=True,
            )
    print(
        f"{survived} of {len(chosen(names))} mends are held by no test"
        if survived
        else "Every mend is held by its test"
    )
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
