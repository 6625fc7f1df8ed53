"""A GPU's minutes: parts are resumed, none outlives its time, and the page is written from the record."""

import json
import sys

import pytest

from benchmarks import gpu_day
from benchmarks.gpu_day import MARKS, Part, day, in_page


def part(code: str, seconds: int = 20) -> Part:
    return Part(seconds, "A title", ("timeit", "-n1", "-r1", code), ("timeit", "-n1", "-r1", code))


@pytest.fixture
def parts(monkeypatch):
    found = {
        "good": part("print('a figure')"),
        "bad": part("1 / 0"),
        "endless": part("import time; print('begun', flush=True); time.sleep(60)", 2),
        "late": part("print('late')", 1000),
    }
    monkeypatch.setattr(gpu_day, "PARTS", found)
    return found


def test_a_second_run_goes_on_with_what_is_not_done(parts, tmp_path, capsys):
    first = day(tmp_path, 100, rehearse=False)["parts"]
    assert {name: one["status"] for name, one in first.items()} == {"good": 0, "bad": 1, "endless": 124}
    assert "a figure" in first["good"]["output"] and first["endless"]["output"] == ["begun"]
    assert first["endless"]["seconds"] < 30 and "late: not begun" in capsys.readouterr().out
    parts["good"] = part("1 / 0")  # done, so not run again
    parts["bad"] = part("print('mended')")
    del parts["endless"]
    second = day(tmp_path, 2000, rehearse=True)
    assert {name: one["status"] for name, one in second["parts"].items()} == {"good": 0, "bad": 0, "late": 0}
    assert second["parts"]["good"] == first["good"] and second["where"]["libraries"]["torch"]


def test_only_parts_that_are_named_are_run_and_the_others_kept(parts, tmp_path):
    day(tmp_path, 100, rehearse=True, names=["good"])
    found = day(tmp_path, 100, rehearse=True, names=["bad"])["parts"]
    assert {name: one["status"] for name, one in found.items()} == {"good": 0, "bad": 1}


def test_seconds_that_are_left_over_go_to_the_parts_after(parts, tmp_path, monkeypatch):
    limits, now = [], [0.0]

    def run(part, limit):
        limits.append(limit)
        now[0] += 5
        return {"command": "", "status": 0, "seconds": 5, "output": []}

    monkeypatch.setattr(gpu_day, "run", run)
    for name, seconds in {"good": 20, "bad": 30, "endless": 40, "late": 10}.items():
        parts[name] = part("", seconds)
    day(tmp_path, 100, rehearse=False, clock=lambda: now[0])
    assert limits == [20, 45, 80, 85]  # 5, 10 and 15 s were used: none may end after 100


def test_the_page_is_written_from_the_record_and_again(parts, tmp_path):
    del parts["endless"], parts["late"]
    found = json.loads(json.dumps(day(tmp_path, 100, rehearse=True)))
    page = in_page("# A page\n\nWords.\n", found)
    assert page.startswith("# A page\n\nWords.\n") and "a figure" in page and "status 1" in page
    assert in_page(page, found) == page
    assert in_page(page + "More.\n", found).endswith(f"{MARKS[1]}\nMore.\n")


def test_all_parts_fit_nine_minutes_and_are_commands_that_exist():
    assert sum(one.seconds for one in gpu_day.PARTS.values()) <= 540
    for one in gpu_day.PARTS.values():
        module = one.words[0]
        assert (
            module == "pytest"
            or (gpu_day.ROOT / (module.replace(".", "/"))).with_suffix(".py").exists()
            or (gpu_day.ROOT / module.replace(".", "/") / "__main__.py").exists()
        )
    for option in ("--device cuda", "--precision bf16", "16x1024", "prompt-100 lora-r4 ptune-100"):
        assert any(option in " ".join(one.words) for one in gpu_day.PARTS.values())


def test_the_compiled_peer_and_each_reader_end_before_their_part():
    for name, option, share in (("train", "--compile-seconds", 3), ("exports", "--seconds", 1)):
        words = gpu_day.PARTS[name].words
        assert share * int(words[words.index(option) + 1]) < gpu_day.PARTS[name].seconds


def test_what_must_be_carried_there_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu_day, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpu_day", "--folder", str(tmp_path / "day")])
    assert gpu_day.main() == 1
    assert "resources/corpora/wikipedia/manifest.json" in capsys.readouterr().err
