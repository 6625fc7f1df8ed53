"""The store of answers: what was written comes back, what is damaged or of another model doesn't."""

import json

import pytest

from workflow_scripts.evaluate.store import AnswerStore

ANSWER = {"scores": [[-1.25, True], [-0.1 - 0.2, False]], "prompt": 0}


def filled(path, fingerprint="a", keys=("one", "two", "three")) -> AnswerStore:
    store = AnswerStore(path, fingerprint)
    for key in keys:
        store.put(key, ANSWER | {"prompt": len(key)})
    return store


def test_answers_survive_without_close_and_floats_are_exact(tmp_path):
    # never closed, as in a killed process, but held: Python would close the file of one that is dropped
    held = filled(tmp_path / "s")
    again = AnswerStore(tmp_path / "s", "a")
    assert again.get("one") == ANSWER | {"prompt": 3}
    assert again.get("one")["scores"][1][0] == -0.1 - 0.2
    assert again.get("four") is None and again.damaged == 0
    assert len(held) == 3


def test_another_fingerprint_sees_nothing(tmp_path):
    filled(tmp_path / "s", "a").close()
    other = AnswerStore(tmp_path / "s", "b")
    assert len(other) == 0 and other.damaged == 3


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_line_cut_short_is_skipped_and_writing_goes_on(tmp_path, cut):
    filled(tmp_path / "s").close()
    whole = (tmp_path / "s").read_bytes()
    (tmp_path / "s").write_bytes(whole[:-cut])
    store = AnswerStore(tmp_path / "s", "a")
    # cutting the last line feed alone leaves the answer intact
    assert len(store) == (3 if cut == 1 else 2)
    store.put("four", ANSWER)
    store.close()
    again = AnswerStore(tmp_path / "s", "a")
    assert again.get("four") == ANSWER and again.get("one") is not None


@pytest.mark.parametrize("position", range(0, 150, 10))
def test_a_changed_byte_never_changes_an_answer(tmp_path, position):
    filled(tmp_path / "s", keys=("one",)).close()
    content = bytearray((tmp_path / "s").read_bytes())
    content[position % len(content)] ^= 1
    (tmp_path / "s").write_bytes(bytes(content))
    found = AnswerStore(tmp_path / "s", "a").get("one")
    assert found is None or found == ANSWER | {"prompt": 3}


def test_valid_json_that_is_no_entry_is_damage(tmp_path):
    (tmp_path / "s").write_text("[1, 2]\n" + json.dumps({"key": "one"}) + "\n\n7\n")
    store = AnswerStore(tmp_path / "s", "a")
    assert len(store) == 0 and store.damaged == 3
