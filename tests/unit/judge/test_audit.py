"""The paper audit: what shared notes on the printed tables say must come out of the tables themselves."""

import pytest

from tests.unit.synthetic_results import CATALOGUE, PAIR, study, write_grid
from workflow_scripts.files.artifacts import ArtifactError, check
from workflow_scripts.judge.audit import arithmetic, audit, duplicates, same_label
from workflow_scripts.judge.judgement import Question, Resampling, judge_grid
from workflow_scripts.judge.paper import TASKS, printed, read_tables
from workflow_scripts.judge.results import read_results


@pytest.fixture(scope="module")
def rows():
    return read_tables()


@pytest.fixture(scope="module")
def report(rows):
    return audit(rows)


def found(report, statement):
    (finding,) = [f for f in report["findings"] if f["statement"].startswith(statement)]
    return finding


def test_all_rows_are_read(rows):
    assert rows["table"].value_counts().to_dict() == {1: 22, 2: 22, 3: 8}
    assert set(rows["cell_model"]) == {"llama-7b", "opt-6.7b"}


def test_one_row_of_52_is_wrong_by_what_one_task_cell_explains(rows):
    wrong = {(c.row, c.column): (c.printed, c.recomputed) for c in arithmetic(rows) if not c.holds}
    assert len(arithmetic(rows)) == 52 * 4
    assert wrong == {
        ("T1 OPT-6.7b prompt 0.1M", "World"): (42.5, 42.286),
        ("T1 OPT-6.7b prompt 0.1M", "Average"): (51.79, 51.672),
    }


def test_rows_printed_twice(rows):
    pairs = {f.where: f.verdict for f in duplicates(rows)}
    assert pairs == {
        "T2 OPT-6.7b IDP 0.6M and T2 OPT-6.7b prompt 0.4M": "does not hold",
        "T3 OPT-6.7b 26 and T1 OPT-6.7b prompt 0.2M": "does not hold",
        "T3 Llama-7b 26 and T1 Llama-7b prompt 0.1M": "holds",
        "T3 Llama-7b 100 and T1 Llama-7b prompt 0.2M": "does not hold",
        "T3 OPT-6.7b IDP and T1 OPT-6.7b IDP 0.6M": "holds",
    }


def test_one_label_two_numbers(rows):
    numbers = {f.where: f.numbers for f in same_label(rows) if f.verdict == "does not hold"}
    assert (
        numbers["T3 Llama-7b IDP and T1 Llama-7b IDP 0.6M"] == "Averages 58.55 and 58.79; 9 of 9 tasks differ"
    )
    assert numbers["T3 OPT-6.7b 100 and T1 OPT-6.7b prompt 0.4M"].startswith("Averages 51.66 and 51.94")


@pytest.mark.parametrize(
    ("statement", "verdict", "numbers"),
    [
        ("21 times fewer", "does not hold", ["7.2 to 14.5", "7.6 to 15.3", "21.3", "21.7"]),
        ("81 % to 91 %", "holds", ["81.8 %", "91.0 %", "195 tokens", "86.0 % to 93.1 %"]),
        ("a 20-fold reduction", "does not hold", ["5.5 to 11.1"]),
        ("inference latency reduced by 60 %", "does not hold", ["40.3 %", "59.7 %"]),
        ("inference speed improved by 60 %", "holds", ["1.68", "67.6 %"]),
        ("under GPTQ the best method", "holds", ["+1.24", "+0.70", "+0.97"]),
        ("under SparseGPT the top", "does not hold", ["+0.30", "+0.44", "+0.40", "+0.42"]),
        (
            "IDP improves the nine tasks",
            "does not hold",
            ["+0.67", "GPTQ alone +0.97", "SparseGPT alone +0.37"],
        ),
        (
            "on Llama, IDP improves single tasks",
            "does not hold",
            ["1 of 4", "webqs +3.64, arcE +0.17, arcC +0.94, winogrande +1.50"],
        ),
        (
            "IDP stands out",
            "holds",
            [
                "Above in 4 of 4, without prefix tuning in 3 with 1 tie",
                "SparseGPT Llama-7b +1.80, without prefix tuning +0.00 (rank 3 of 10)",
                "equal to another row",
            ],
        ),
        ("prefix tuning lowers every Average", "holds", ["12 of 12"]),
        ("prefix tuning lowers all tasks", "does not hold", ["7 of 12 rows rise on 1 to 5 tasks"]),
        ("redirection beats LoRA", "holds", ["+1.43", "+0.10", "+0.11", "+0.75", "2 of 4"]),
        ("where IDP is behind", "does not hold", ["-0.24", "-0.51", "-0.29", "-0.60", "-0.71"]),
        (
            "Language benefits more from LoRA",
            "holds",
            ["+0.20", "+0.24", "+0.51", "+0.29", "14 of 14 rows without prefix tuning, by 0.43 to 0.94"],
        ),
        ("Llama-7b: IDP", "holds", ["+0.42 against 26", "better of these two single prompts +0.13"]),
        ("Llama-7b: Concat", "holds", ["-1.03 against 26"]),
        ("OPT-6.7b: IDP", "holds", ["+0.51 against 100", "better of these two single prompts +0.19"]),
        ("OPT-6.7b: Concat", "does not hold", ["+0.21 against 100"]),
        ("LoRA: 32", "does not hold", ["4.92M, 7.37M, 9.83M"]),
        ("LoRA on OPT", "holds", ["4.72M, 7.08M, 9.44M"]),
        ("LoRA on Llama", "holds", ["4.47M, 6.71M, 8.95M"]),
        ("prefix: 32 t d", "does not hold", ["3.41M, 6.55M, 13.11M", "3.15M"]),
        ("prompt: t d", "holds", []),
        ("all tasks are multiple choice", "does not hold", []),
        ("the column triviaqa", "cannot be known", ["greedy continuation", "may not be comparable"]),
        ("what share of the lost accuracy", "cannot be known", []),
        ("which calibration set", "cannot be known", []),
        ("the gains exceed", "cannot be known", ["about 0.31", "0.86 points", "3 gains"]),
        ("IDP's prompts have one size", "does not hold", ["0.516M", "0.614M"]),
    ],
)
def test_claims(report, statement, verdict, numbers):
    finding = found(report, statement)
    assert finding["verdict"] == verdict
    assert all(number in finding["numbers"] for number in numbers), finding["numbers"]


def test_the_report_fits_its_schema_and_counts_itself(report):
    check(report, "audit", "paper_audit.json")
    assert sum(report["counts"].values()) == len(report["findings"])
    assert report["cells"] == []


def test_findings_follow_the_printed_numbers(rows):
    """A table in which LoRA is worse on Language, and IDP below the other methods, turns both findings around."""
    other = rows.copy()
    other.loc[other["type"] == "lora", "Language"] -= 1
    other.loc[other["type"] == "IDP", "Average"] -= 2
    for statement in ("Language benefits more from LoRA", "IDP stands out"):
        assert found(audit(other), statement)["verdict"] == "does not hold"
    better = rows.copy()
    better.loc[better["type"] == "IDP", "Average"] += 0.33
    assert found(audit(better), "IDP improves the nine tasks")["verdict"] == "holds"


def test_a_corrected_table_would_pass(rows):
    corrected = rows.copy()
    index = corrected.index[
        (corrected["table"] == 1) & (corrected["type"] == "prompt") & (corrected["model"] == "OPT-6.7b")
    ][0]
    corrected.loc[index, ["World", "Average"]] = [42.29, 51.67]
    assert all(check.holds for check in arithmetic(corrected))


def test_our_cells_stand_beside_the_printed_ones(tmp_path, rows):
    results = read_results(
        write_grid(
            tmp_path,
            study("opt-6.7b", {"lora-r4": 0.1, "idp-50-100": 0.1}, dense=0.6, losses={"gptq-w3": 0.1}),
            30,
        )
    )
    cells = audit(rows, results, judge_grid(results, Question(PAIR), CATALOGUE, Resampling(200)))["cells"]
    ours = {(c["table"], c["method"], c["column"]): c for c in cells}
    columns = [*TASKS, "Average"]
    assert set(ours) == {(1, method, c) for method in ("none", "lora-r4", "idp-50-100") for c in columns}
    task = ours[1, "none", "arcE"]
    assert task["difference"] == pytest.approx(task["ours"] - task["printed"]) and task["low"] < task["ours"]
    none = ours[1, "none", "Average"]
    assert none["printed"] == 51.47
    assert none["difference"] == pytest.approx(none["ours"] - 51.47)
    assert none["inside"] == (none["low"] <= 51.47 <= none["high"])


def test_printed_values_are_looked_up_by_table_model_compressor_and_method(rows):
    assert printed(rows, 3, "llama-7b", "gptq-w3", "concat-26-100")["Average"] == 57.10
    assert printed(rows, 1, "llama-7b", "gptq-w3-g64", "none") == {}


def test_a_broken_table_names_the_file(tmp_path):
    (tmp_path / "table1.csv").write_text("table,model\n1,x\n")
    with pytest.raises(ArtifactError, match=r"table1\.csv: lacks the columns"):
        read_tables(tmp_path)
