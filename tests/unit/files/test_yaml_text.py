"""yaml_text: what reads otherwise than it looks is an error with its line, and no text takes more than seconds."""

import os
import time

import pytest

from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.files.yaml_text import MOST_BYTES, read_yaml

LISTS = "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
MAPPINGS = LISTS.replace("[", "{x: ").replace("]", "}").replace(", ", ", y: ")
REFUSED = {
    "the same key twice": ("a: 1\nb: 2\na: 3\n", "line 3: the key 'a' stands in line 1 already"),
    "twice, deeper": ("a:\n  - {x: 1,\n     x: 2}", "line 3: the key 'x' stands in line 2 already"),
    "twice, quoted": ("a: 1\n'a': 1", "line 2: the key 'a'"),
    "a mapping twice": ("a: {x: 1}\nb: 1\na: {y: 2}", "line 3: the key 'a' stands in line 1 already"),
    "twice below an anchor": ("a: &a {x: 1, x: 2}\nb: {<<: *a}", "line 1: the key 'x'"),
    "two merges": ("a: &a {}\nb:\n  <<: *a\n  <<: *a", r"line 4: .* write <<: \[\*one, \*two\]"),
    "an octal": ("a: 1\nb: 010", "line 2: 010 counts by eights in YAML; write it without the 0, or '010' in"),
    "a negative octal": ("a: [-017]", "line 1: -017 counts by eights"),
    "an octal as a key": ("a: {010: 1}", "line 1: 010 counts by eights"),
    "an octal by its tag": ("a: !!int '010'", "line 1: 010 counts by eights"),
    "a time": ("a: 12:30", "line 1: 12:30 counts by sixties in YAML; write the number, or '12:30' in quotes"),
    "a pattern n:m": (
        "pattern: 1:2",
        "line 1: 1:2 counts by sixties in YAML; write the number, or '1:2' in quotes",
    ),
    "hours, minutes, seconds": ("a:\n- 1:02:03", "line 2: 1:02:03 counts by sixties"),
    "a time with a fraction": ("a: 12:30.5", "line 1: 12:30.5 counts by sixties"),
    "an anchor in itself": ("a: 1\nb: &x {c: *x}", "line 2: an anchor holds itself"),
    "a list in itself": ("a: &x [1, [*x]]", "line 1: an anchor holds itself"),
    "lists of lists": (
        LISTS,
        r"line \d+: more than 50,000 values, each counted as often as anchors repeat it",
    ),
    "mappings of mappings": (MAPPINGS, "more than 50,000 values"),
    "a long text in many places": (
        f'a: &a "{"x" * 200_000}"\nb: [{",".join(["*a"] * 40_000)}]\n',
        r"line 2: more than 50,000 values",
    ),
    "100,000 names": ("a:\n" + "".join(f"- n{n}\n" for n in range(100_000)), "more than 50,000 values"),
    "a large file": ("a: " + "x" * MOST_BYTES, "larger than 2 MiB"),
    "deep": ("[" * 100_000, "nests too deeply"),
    "5,000 digits": ("a: " + "1" * 5000, "line 1: 1{20}... is no number"),
    "400 digits": ("a: 1\nb: " + "9" * 400, "line 2: 9{20}... is no number"),
    "digits of 16": (
        "a: 0x1F",
        "line 1: 0x1F counts by sixteens in YAML; write the number, or '0x1F' in quotes",
    ),
    "digits of 2": ("a: 1\nb: [-0b1_1]", "line 2: -0b1_1 counts by twos in YAML; write the number"),
    "code": (
        "a: !!python/object/apply:os.system [ls]",
        "line 1: the tag !!python/object/apply:os.system makes",
    ),
    "a name of code": ("a: !!python/name:os.system", "line 1: the tag !!python/name:os.system makes no text"),
    "a text as a float": ("a: 1\nb: !!float x", "line 2: x is no number"),
    "a float that is no whole one": ("a: !!int 1e3", "line 1: 1e3 is no number"),
    "a text as a truth value": ("a: [!!bool x]", "line 1: x is no truth value"),
    "a text as a date": ("a: !!timestamp x", "line 1: the tag !!timestamp makes"),
    "a day that is none": ("a:\n- !!timestamp 2020-13-45", "line 2: the tag !!timestamp makes"),
    "bytes": ("a: !!binary aGk=", "line 1: the tag !!binary makes"),
    "a set": ("a: !!set {x}", "line 1: the tag !!set makes"),
    "an ordered mapping": ("a: !!omap [x: {}]", "line 1: the tag !!omap makes"),
    "a tag of one's own": ("a: 1\nb: !mine 1", "line 2: the tag !mine makes"),
    "one key in two spellings": ("yes: 1\non: 2", "line 2: the key 'on' stands in line 1 already"),
    "one number in two spellings": ("{1: a, +1: b}", r"line 1: the key '\+1' stands in line 1 already"),
    "nothing in two spellings": ("null: 1\n~: 2", "line 2: the key '~' stands in line 1 already"),
    "Latin-1": ("a: 1\nb: \xe4".encode("latin-1"), "line 2: not valid YAML: no UTF-8 text"),
    "UTF-16": ("a: 1".encode("utf-16"), "line 1: not valid YAML: no UTF-8 text"),
    "NUL": ("a: \0", "not valid YAML: .*special characters are not allowed"),
    "two documents": ("a: 1\n---\nb: 1", "line 2: not valid YAML: expected a single document"),
    "an open bracket": ("a: [1\nb: 2\n", "line 2: not valid YAML"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_surprise_is_refused_with_its_line_within_seconds(name, tmp_path):
    text, said = REFUSED[name]
    file = tmp_path / "mine.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    started = time.process_time()
    with pytest.raises(ArtifactError, match=f"mine.yaml: (?:.*){said}") as error:
        read_yaml(file)
    assert time.process_time() - started < 10
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "link"])
def test_what_is_no_file_is_refused_and_never_waited_for(kind, tmp_path):
    file = tmp_path / "mine.yaml"
    if kind == "folder":
        file.mkdir()
    elif kind == "device":
        file.symlink_to("/dev/zero")
    else:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "pipe").rename(file) if kind == "pipe" else file.symlink_to("pipe")
    with pytest.raises(ArtifactError, match=r"^\S*mine\.yaml: is no regular file; name one$"):
        read_yaml(file)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2020-13-45", "2020-13-45"),
        ("=", "="),
        ("1e3", 1000.0),
        ("1.024e+3", 1024.0),
        ("-.5E1", -5.0),
        ("1.0e-2", 0.01),
        ("1_000", 1000),
        ("0", 0),
        ("0.10", 0.1),
        *(("+1_000", 1000), ("0o17", "0o17"), ("08", "08"), ("0B11", "0B11"), ("1__0", 10), ("0.1_0", 0.1)),
        *(("~", None), ("null", None), ("yes", True), ("off", False), ("n", "n"), (".inf", float("inf"))),
        ("'010'", "010"),
        ("'12:30'", "12:30"),
        ("0e473cbe21d1e91ec18da343644498be6a3f5454", "0e473cbe21d1e91ec18da343644498be6a3f5454"),
        ("2026-01-31", "2026-01-31"),
        ("n2:4", "n2:4"),
        ("caf\xe9", "caf\xe9"),
        ("[1.0, 2]", [1.0, 2]),
    ],
)
def test_a_value_is_what_it_looks_like(text, value, tmp_path):
    (tmp_path / "mine.yaml").write_text(f"a: {text}", encoding="utf-8-sig")
    assert read_yaml(tmp_path / "mine.yaml") == {"a": value}


def test_what_is_merged_in_may_be_named_again(tmp_path):
    (tmp_path / "mine.yaml").write_text("a: &a {x: 1, y: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: [*a, *b], y: 3}\n")
    found = read_yaml(tmp_path / "mine.yaml")
    assert found["b"] == {"x": 2, "y": 1} and found["c"] == {"x": 1, "y": 3}
