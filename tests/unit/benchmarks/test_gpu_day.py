"""A GPU's minutes: parts are resumed where they ran, none outlives its time, the page follows the record."""

import json
import os
import subprocess
import sys
from importlib import import_module

import pytest

from benchmarks import gpu_day
from benchmarks.gpu_day import MARKS, PARTS, ROOT, Part, day, in_page

HERE = {
    "rehearsed": False,
    "gpu": "A GPU",
    "processor": "2 x a processor",
    "libraries": {"torch": "2.11.0"},
    "commit": 40 * "a",
    "code": 64 * "c",
}
ROW = {"method": "prompt-100", "tokens/s": 43200.0, "ratio": 0.87654, "compiled": None, "note": "a|b"}
KEEP = f"keep(Path(sys.argv[-1]), **{ROW})"
PAGE = "\n".join(["# A page", "", *MARKS, "", "More.", ""])


def part(code: str, seconds: int = 20) -> Part:
    return Part(seconds, "A title", ("fake", code), ("fake", code))


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """Parts whose command is code, with --output behind it."""
    found = {
        "good": part(f"print('a line'); {KEEP}; {KEEP}"),
        "bad": part("1 / 0"),
        "endless": part(f"{KEEP}; print('begun', flush=True); import time; time.sleep(60)", 2),
        "late": part("print('late')", 1000),
    }
    text = f"import sys\nfrom pathlib import Path\nsys.path.append({str(ROOT)!r})\n"
    (tmp_path / "fake.py").write_text(f"{text}from benchmarks.rows import keep\nexec(sys.argv[1])\n")
    monkeypatch.setattr(gpu_day, "ROOT", tmp_path)
    monkeypatch.setattr(gpu_day, "PARTS", found)
    return found


@pytest.fixture
def record(tmp_path):
    return tmp_path / "day" / "gpu_day.json"


def statuses(found: list[dict], **place) -> dict:
    return {one["part"]: one["status"] for one in found if one["where"] == HERE | place}


def test_a_second_run_goes_on_with_what_is_not_done(parts, record, capsys):
    first = day(record, HERE, 100)
    assert statuses(first) == {"good": 0, "bad": 1, "endless": 124}
    good, _, endless = first
    assert good["figures"] == [ROW, ROW] and good["output"] == ["a line"] and good["where"] == HERE
    assert endless["figures"] == [ROW] and endless["output"] == ["begun"] and endless["seconds"] < 30
    assert "late: not begun" in capsys.readouterr().out
    parts["good"] = part("1 / 0")  # done, so not run again
    parts["bad"] = part("print('mended')")
    del parts["endless"]
    second = day(record, HERE, 2000)
    assert statuses(second) == {"good": 0, "bad": 0, "endless": 124, "late": 0}
    assert good in second and json.loads(record.read_text()) == {"parts": second}


@pytest.mark.parametrize(
    "other",
    [
        {"rehearsed": True, "gpu": None},
        {"gpu": "Another"},
        {"processor": "64 x another"},
        {"libraries": {"torch": "2.12.0"}},
        {"commit": 40 * "b"},
        {"code": 64 * "d"},
    ],
)
def test_a_part_of_another_place_is_not_done_here_and_keeps_its_place(parts, record, other):
    day(record, HERE | other, 100, ["good"])
    parts["good"] = part("1 / 0")
    found = day(record, HERE, 100, ["good"])
    assert statuses(found, **other) == {"good": 0} and statuses(found) == {"good": 1}


def test_the_record_is_there_after_each_part(parts, record, monkeypatch):
    seen = []

    def run(part, limit):
        seen.append(len(json.loads(record.read_text())["parts"]) if record.exists() else 0)
        if len(seen) == 3:
            raise KeyboardInterrupt  # the machine is taken away
        return {"title": "", "command": "", "status": 0, "seconds": 5, "figures": [], "output": []}

    monkeypatch.setattr(gpu_day, "run", run)
    with pytest.raises(KeyboardInterrupt):
        day(record, HERE, 100)
    assert seen == [0, 1, 2] and statuses(gpu_day.read(record)) == {"good": 0, "bad": 0}


def test_only_parts_that_are_named_are_run_and_the_others_kept(parts, record):
    day(record, HERE, 100, names=["good"])
    assert statuses(day(record, HERE, 100, names=["bad"])) == {"good": 0, "bad": 1}


def test_seconds_that_are_left_over_go_to_the_parts_after(parts, record, monkeypatch):
    limits, now = [], [0.0]

    def run(part, limit):
        limits.append(limit)
        now[0] += 5
        return {"title": "", "command": "", "status": 0, "seconds": 5, "figures": [], "output": []}

    monkeypatch.setattr(gpu_day, "run", run)
    for name, seconds in {"good": 20, "bad": 30, "endless": 40, "late": 10}.items():
        parts[name] = part("", seconds)
    day(record, HERE, 100, clock=lambda: now[0])
    assert limits == [20, 45, 80, 85]  # 5, 10 and 15 s were used: none may end after 100


def test_figures_that_are_no_numbers_and_a_line_that_was_cut_off_leave_a_valid_record(parts, record):
    parts["good"] = part(
        "keep(Path(sys.argv[-1]), a=float('nan')); open(sys.argv[-1], 'a').write('{\"a\": 1')"
    )
    (found,) = day(record, HERE, 100, ["good"])
    assert found["figures"] == [{"a": "NaN"}] and "NaN," not in record.read_text()


def test_the_figures_of_tests_are_how_many_ended_how(tmp_path):
    file = tmp_path / "figures"
    suite = '<testsuite name="pytest" errors="0" failures="1" skipped="3" tests="28" time="40.1"></testsuite>'
    file.write_text(f'<?xml version="1.0" encoding="utf-8"?><testsuites name="t">{suite}</testsuites>')
    counts = {"passed": 24, "skipped": 3, "failures": 1, "errors": 0}
    assert gpu_day._figures(file) == [counts]


def test_the_page_is_written_from_the_record_and_again(parts, record):
    found = day(record, HERE, 100, ["good", "bad"])
    found.append(found[0] | {"status": 124})
    page = in_page(PAGE, found)
    assert page.startswith("# A page\n") and page.endswith(f"{MARKS[1]}\n\nMore.\n")
    assert "### A GPU, commit aaaaaaaa\n" in page and "torch 2.11.0; commit " + 40 * "a" in page
    assert "| method | tokens/s | ratio | compiled | note |\n" in page
    assert "| prompt-100 | 43,200 | 0.8765 | - | a\\|b |\n" in page
    assert "failed (1)" in page and "ZeroDivisionError" in page and "ran out of time" in page
    assert in_page(page, found) == page
    for place in ({"commit": 40 * "b"}, {"gpu": "Another"}):
        found += [one | {"where": HERE | place} for one in found[:1]]
    headings = [line for line in in_page(PAGE, found).splitlines() if line.startswith("###")]
    assert headings == [
        f"### {name}"
        for name in ("A GPU, commit aaaaaaaa", "A GPU, commit bbbbbbbb", "Another, commit aaaaaaaa")
    ]


def test_a_rehearsal_is_no_result(parts, record, tmp_path, monkeypatch, capsys):
    rehearsed = HERE | {"rehearsed": True, "gpu": None}
    found = day(record, rehearsed, 100, ["good"])
    with pytest.raises(ValueError, match="rehearsal is no result"):
        in_page(PAGE, found)
    parts["good"] = part("keep(Path(sys.argv[-1]), real=1)")
    page = in_page(PAGE, day(record, HERE, 100, ["good"]))
    assert "| real |" in page and "43,200" not in page
    file = tmp_path / "page.md"
    file.write_text("# Without marks\n")
    monkeypatch.setattr(sys, "argv", ["gpu_day", str(record.parent), "--page", str(file)])
    assert gpu_day.main() == 1 and MARKS[0] in capsys.readouterr().err
    assert file.read_text() == "# Without marks\n"


def test_the_page_of_this_repository_has_a_place_for_the_figures(parts, record):
    text = (ROOT / "docs" / "explanation" / "gpu.md").read_text()
    page = in_page(text, day(record, HERE, 100, ["good"]))
    assert page.count("43,200 | 0.8765") == 2
    assert page.partition(MARKS[0])[0] == text.partition(MARKS[0])[0]


def test_all_parts_fit_nine_minutes():
    assert sum(one.seconds for one in PARTS.values()) <= 540
    for option in ("--device cuda", "--precision bf16", "16x1024", "prompt-100 lora-r4 ptune-100"):
        assert any(option in " ".join(one.words) for one in PARTS.values())


@pytest.mark.parametrize("name", [name for name, one in PARTS.items() if one.words[0] != "pytest"])
def test_the_words_of_each_part_are_options_that_exist_and_it_writes_its_rows(name, monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for module, *words in (PARTS[name].words, PARTS[name].rehearsed):
        program = import_module(f"{module}.__main__" if module == "tests.golden" else module)
        monkeypatch.setattr(sys, "argv", [module, *words, "--output", str(tmp_path / "rows")])
        assert program.arguments().output == tmp_path / "rows"


def test_the_compiled_peer_and_each_reader_end_before_their_part():
    for name, option, share in (("train", "--compile-seconds", 3), ("exports", "--seconds", 1)):
        words = PARTS[name].words
        assert share * int(words[words.index(option) + 1]) < PARTS[name].seconds


def test_a_place_has_its_machine_libraries_and_code(tmp_path, monkeypatch):
    found = gpu_day.where(rehearse=True)
    assert found["rehearsed"] and found["gpu"] is None and found["processor"]
    assert {"python", *gpu_day.LIBRARIES} <= {*found["libraries"]} and len(found["code"]) == 64
    monkeypatch.setattr(gpu_day, "ROOT", tmp_path)  # a copy without git
    (tmp_path / "config.yaml").write_text("a: 1\n")
    copied = gpu_day.where(rehearse=True)
    (tmp_path / "config.yaml").write_text("a: 2\n")
    assert copied["commit"] is None and gpu_day.where(rehearse=True)["code"] != copied["code"]


def test_parts_say_what_must_be_carried_there_and_that_there_is_no_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_day, "ROOT", tmp_path)
    gpu_day.check(["golden", "compress"], HERE)
    with pytest.raises(ValueError, match=r"Not there: .*smollm2-135m, resources/corpora/wikipedia\."):
        gpu_day.check(["golden", "train"], HERE)
    with pytest.raises(ValueError, match="PyTorch sees no GPU here"):
        gpu_day.check(["golden"], HERE | {"gpu": None})


def test_the_script_hands_all_its_words_on(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    words = ["a folder", "--rehearse", "--parts", "golden", "path"]
    script = ["bash", str(ROOT / "benchmarks" / "gpu_day.sh"), *words]
    done = subprocess.run(
        script,
        check=True,
        env={"PYTHON": str(python), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == ["-P", "-m", "benchmarks.gpu_day", *words]


@pytest.mark.parametrize("words", [["gpu-day", "--rehearsal"], ["gpu-day", "golden"], ["--parts", "goldn"]])
def test_words_that_it_does_not_know_are_refused(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_day", *words])
    with pytest.raises(SystemExit) as ended:
        gpu_day.main()
    assert ended.value.code == 2 and words[-1] in capsys.readouterr().err


def test_the_command_writes_where_it_is_called(tmp_path):
    (tmp_path / "day1").mkdir()
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()
    (tmp_path / "day1" / "gpu_day.json").write_text('{"parts": []}')
    (tmp_path / "page.md").write_text(PAGE)
    command = [ROOT / "benchmarks" / "gpu_day.sh", "day1", "--page", "page.md"]
    own = {"cwd": tmp_path, "env": os.environ | {"PYTHON": sys.executable}}
    done = subprocess.run(command, **own, check=False, capture_output=True, text=True)
    assert "No part was run on a GPU" in done.stderr, "it read the record and the page there"
    ignored = ["git", "check-ignore", "--quiet", "gpu-day/gpu_day.json"]  # the folder by default
    assert subprocess.run(ignored, cwd=ROOT, check=False).returncode == 0
