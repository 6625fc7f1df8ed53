"""Corpora: disjoint splits, articles, windows of tokens."""

import json
import os
import random
import re

import pytest
import torch

from tests.unit.sources.test_models import make_tokenizer
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.sources import corpora, hub
from workflow_scripts.sources.overlap import shares

MADE = {"recipe": "r", "code": "c"}


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def texts(folder, split):
    return [json.loads(line)["text"] for line in (folder / f"{split}.jsonl").read_text().splitlines()]


def test_hash_split_is_stable_disjoint_and_about_a_tenth():
    documents = [f"document {number}" for number in range(2000)]
    train, heldout, repeated = corpora.separate(documents + documents[:50], None)
    assert repeated == 50
    assert sorted(train + heldout) == sorted(documents)
    assert not set(train) & set(heldout)
    assert 150 < len(heldout) < 250
    # A document's side depends on its text alone.
    assert corpora.separate(documents[::-1], None)[1] == heldout[::-1]
    assert corpora.is_heldout("document 3") == corpora.is_heldout("  document 3\n")


def test_own_splits_lose_what_heldout_repeats():
    train, heldout, repeated = corpora.separate(["a", "b ", "a", "c", "  "], ["b", "d", "d"])
    assert (train, heldout, repeated) == (["a", "c"], ["b", "d"], 3)


WORDS = (
    "north south east west river mountain valley harbour lantern copper silver winter summer orchard " * 3
).split()


def passage(seed, words=40):
    """Text of its own: no two seeds share 64 letters."""
    draw = random.Random(seed)
    return " ".join(f"{draw.choice(WORDS)}{draw.randrange(1000)}" for _ in range(words))


@pytest.mark.parametrize(
    "dress",
    [
        lambda text: f"{passage('before', 90)}\n\n{text}\n\n{passage('after', 90)}",
        lambda text: text.replace(" ", "\n  ").upper(),
        lambda text: f"A header of its own, 12 May\n\n{text.replace(' ', ' - ')}",
        lambda text: text.replace("e", "\u200be").replace("fi", "\ufb01"),
    ],
    ids=["inside a longer one", "other spaces and capitals", "a header and marks", "other forms of letters"],
)
def test_heldout_text_that_stands_in_training_text_is_left_out(dress, tmp_path):
    own = passage("own")
    (tmp_path / "both").mkdir()
    for file, written in (("train", [passage(1), dress(passage(2))]), ("test", [passage(2), own])):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in written)
        (tmp_path / "both" / f"{file}.jsonl").write_text(lines)
    spec = {"source": "local", "path": "both"}
    manifest = corpora.fetch("mine", spec, tmp_path / "out", tmp_path, **MADE)
    assert texts(tmp_path / "out", "heldout") == [own]
    assert manifest["overlapping_documents_removed"] + manifest["repeated_documents_removed"] == 1
    assert manifest["heldout_overlap"] == 0


def test_heldout_text_in_pieces_of_several_training_documents_is_left_out_and_a_quotation_is_told():
    pieces = [passage(seed) for seed in range(4)]
    train = [f"{passage(seed + 10)} {piece}" for seed, piece in enumerate(pieces)]
    quoting = f"{passage(20, 200)} {pieces[0]}"
    kept, seen, overlap = corpora.unseen(train, [" ".join(pieces), quoting, "short", passage(30)])
    assert (kept, seen) == ([quoting, "short", passage(30)], 1)
    assert 0.03 < overlap < 0.1  # a fifth of one in three


@pytest.mark.parametrize("letters", [16, 31, 63, 64, 2**20 + 100])
def test_windows_of_documents_of_any_length_are_found_where_they_stand(letters):
    digits = random.Random(letters).choices("0123456789abcdef", k=letters)
    text = "".join(digits)
    assert shares([text], ["another", f"before, {text} after"]) == [1.0]
    assert shares([text], [text[: letters // 2], text[::-1]])[0] < 0.6


def test_a_source_whose_heldout_text_is_all_training_text_says_so(tmp_path):
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "train.txt").write_text(" ".join(passage(seed) for seed in range(3)))
    (tmp_path / "both" / "test.txt").write_text(passage(1))
    with pytest.raises(ArtifactError, match=r"left for heldout: .* 1 held-out ones stand in training text"):
        corpora.fetch("mine", {"source": "local", "path": "both"}, tmp_path / "out", tmp_path, **MADE)


def test_wikitext_articles_split_at_level_one_headings_only():
    text = (
        " \n = One = \n \n Text = not a heading = here . \n = = Section = = \n More . \n = Two = \n End . \n"
    )
    articles = corpora.wikitext_articles(text)
    assert [article.split("\n")[0] for article in articles] == [" = One = ", " = Two = "]
    assert "".join(articles) == text.removeprefix(" \n")


def test_wikipedia_articles_keep_title_and_drop_stubs():
    body = "word " * 50
    long = f'<doc id="1" title="Long">\nLong\n\n{body}\n\n</doc>\n'
    stub = '<doc id="2" title="Stub">\nStub\n\nShort.\n</doc>\n'
    assert corpora.wikipedia_articles(long + stub) == [f"Long\n\n{body.strip()}"]


def test_local_file_and_folder(tmp_path):
    lines = "".join(json.dumps({"text": f"document {number}"}) + "\n" for number in range(40))
    (tmp_path / "all.jsonl").write_text(lines)
    manifest = corpora.fetch(
        "mine", {"source": "local", "path": "all.jsonl"}, tmp_path / "out", tmp_path, **MADE
    )
    assert manifest["documents"]["train"] + manifest["documents"]["heldout"] == 40
    assert manifest == corpora.verify(tmp_path / "out")
    assert corpora.read_documents(tmp_path / "out", "heldout") == texts(tmp_path / "out", "heldout")
    with pytest.raises(ArtifactError, match="no split 'test'; there are train and heldout"):
        corpora.read_documents(tmp_path / "out", "test")

    folder = tmp_path / "splits"
    folder.mkdir()
    (folder / "train.txt").write_text("first\n\nsecond\nstill second\n\nthird\n")
    (folder / "test.jsonl").write_text('{"text": "third"}\n')
    manifest = corpora.fetch(
        "mine", {"source": "local", "path": "splits"}, tmp_path / "own", tmp_path, **MADE
    )
    assert texts(tmp_path / "own", "train") == ["first", "second\nstill second"]
    assert texts(tmp_path / "own", "heldout") == ["third"]
    assert manifest["split"] == "the source's own" and manifest["repeated_documents_removed"] == 1


@pytest.mark.parametrize(
    ("content", "spec", "message"),
    [
        (None, {}, "no such file or folder"),
        ('{"words": "x"}\n', {}, "line 1: no text"),
        ('{"text": "x"}\n', {}, "no document left for"),
        ('{"text": "x"}\n', {"sha256": "0" * 64}, f"pinned is {'0' * 64}"),
    ],
)
def test_bad_local_source_is_named_and_leaves_nothing(tmp_path, content, spec, message):
    if content is not None:
        (tmp_path / "in.jsonl").write_text(content)
    with pytest.raises(ArtifactError, match=message):
        corpora.fetch(
            "mine", {"source": "local", "path": "in.jsonl"} | spec, tmp_path / "out", tmp_path, **MADE
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("train.jsonl", "validation.jsonl"), "holds validation.jsonl beside train.jsonl"),
        (("more.txt", "train.jsonl", "heldout.jsonl"), "holds more.txt beside train.jsonl"),
        (("data.jsonl", "test.jsonl"), "holds data.jsonl beside test.jsonl"),
    ],
)
def test_a_text_that_is_neither_train_nor_heldout_is_named(names, said, tmp_path):
    (tmp_path / "mine").mkdir()
    for name in names:
        (tmp_path / "mine" / name).write_text("".join(f'{{"text": "{name} {i}"}}\n' for i in range(60)))
    with pytest.raises(ArtifactError, match=f"^c: .*/mine: {said}"):
        corpora.fetch(
            "c", {"source": "local", "path": str(tmp_path / "mine")}, tmp_path / "out", tmp_path, **MADE
        )
    assert not (tmp_path / "out").exists()


def test_hub_wikitext_rows_become_articles(tmp_path, monkeypatch):
    rows = {
        "train": ["", " = A = \n", "", " Text of A . \n", " = B = \n", " Text of B . \n"],
        "test": [" = C = \n", " Text of C . \n"],
    }

    def dataset_rows(repo, name, commit, split, limit):
        assert (repo, name, commit, limit) == ("own/er", "raw", "a" * 40, None)
        return ({"text": text} for text in rows[split])

    monkeypatch.setattr(hub, "dataset_rows", dataset_rows)
    spec = {"source": "hub", "repo": "own/er", "name": "raw", "revision": "a" * 40, "reader": "wikitext"}
    spec |= {"train": "train", "heldout": "test", "documents": None, "heldout_documents": None}
    manifest = corpora.fetch("wt", spec, tmp_path / "out", tmp_path, **MADE)
    assert manifest["revision"] == "a" * 40
    assert texts(tmp_path / "out", "train") == [" = A = \n \n Text of A . \n", " = B = \n Text of B . \n"]
    assert texts(tmp_path / "out", "heldout") == [" = C = \n Text of C . \n"]


# ------------------------------------------------------------------------------------------ windows


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(bos=True)


DOCUMENTS = [f"w{number} " + " ".join(f"w{(number * 7 + k) % 90}" for k in range(20)) for number in range(60)]


def test_windows_are_packed_text_without_overlap(tokenizer):
    windows = corpora.token_windows(DOCUMENTS, tokenizer, 8, None, seed=0, add_bos=False)
    tokens = [len(tokenizer.encode(text + "\n\n", add_special_tokens=False)) for text in DOCUMENTS]
    assert windows.shape == (sum(tokens) // 8, 8) and windows.dtype == torch.long
    assert tokenizer.bos_token_id not in windows
    ids = tokenizer.encode("\n\n".join(DOCUMENTS) + "\n\n", add_special_tokens=False)
    counts, expected = (
        torch.bincount(windows.flatten(), minlength=200),
        torch.bincount(torch.tensor(ids), minlength=200),
    )
    assert (
        counts <= expected
    ).all() and counts.sum() > expected.sum() - 8  # each token at most as often as in the text


def test_windows_depend_on_seed_alone(tokenizer):
    draw = [corpora.token_windows(DOCUMENTS, tokenizer, 8, 5, seed, True) for seed in (0, 0, 1)]
    assert torch.equal(draw[0], draw[1]) and not torch.equal(draw[0], draw[2])
    assert len({tuple(row) for row in draw[0].tolist()}) == 5
    assert (draw[0][:, 0] == tokenizer.bos_token_id).all() and draw[0].shape == (5, 8)
    assert tokenizer.bos_token_id not in draw[0][:, 1:]


def test_more_windows_than_text_is_an_error(tokenizer):
    held = len(corpora.token_windows(DOCUMENTS, tokenizer, 8, None, 0, False))
    assert len(corpora.token_windows(DOCUMENTS, tokenizer, 8, held, 0, False)) == held
    with pytest.raises(ArtifactError, match=rf"{held + 1} windows of 8 tokens asked for.*holds {held}"):
        corpora.token_windows(DOCUMENTS, tokenizer, 8, held + 1, 0, False)
    with pytest.raises(ArtifactError, match="hold no text beside the BOS"):
        corpora.token_windows(DOCUMENTS, tokenizer, 1, 1, 0, True)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "one\n\nnaïve\n".encode("latin-1"), "line 3: is not UTF-8 (byte 0xef)"),
        ("a.txt", "one\n\ntwo".encode("utf-16"), "line 1: is UTF-16"),
        ("a.txt", b"one\n\nt\0wo", "line 3: holds a NUL byte"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text": 5}\n', "line 3: no text"),
        ("a.jsonl", b'{"text": "a"}\n\n["a"]\n', "line 3: no text"),
    ],
)
def test_a_file_that_is_no_text_is_named_with_its_line(name, content, said, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=re.escape(f"{tmp_path / name}: {said}")):
        corpora.fetch(
            "mine",
            {"source": "local", "path": str(tmp_path / name)},
            tmp_path / "out",
            tmp_path,
            recipe="r",
            code="c",
        )


@pytest.mark.parametrize("name", ["b.txt", "train.txt", "heldout.jsonl"])
@pytest.mark.parametrize("way", ["relative", "absolute", "through a folder"])
def test_a_link_out_of_a_corpus_folder_is_not_followed(name, way, tmp_path):
    folder, away = tmp_path / "texts", tmp_path / "away"
    folder.mkdir()
    away.mkdir()
    (folder / "a.txt").write_text("\n\n".join(f"Document {number}" for number in range(99)))
    (away / name).write_text('{"text": "a secret"}\n')
    if way == "through a folder":
        (folder / "sub").symlink_to(away)
    start = {"relative": "../away", "absolute": str(away), "through a folder": "sub"}[way]
    (folder / name).symlink_to(f"{start}/{name}")
    spec = {"source": "local", "path": str(folder)}
    with pytest.raises(
        ArtifactError, match=f"mine: {folder}: {name} is a link to {away / name}, outside of the"
    ):
        corpora.fetch("mine", spec, tmp_path / "out", tmp_path, **MADE)
    assert not (tmp_path / "out").exists()
    (folder / name).unlink()
    (folder / "more.txt").symlink_to("a.txt")  # inside
    (tmp_path / "link").symlink_to(folder)  # the folder that the entry names
    corpora.fetch("mine", spec | {"path": str(tmp_path / "link")}, tmp_path / "out", tmp_path, **MADE)


def test_a_file_that_the_configuration_names_may_be_a_link(tmp_path):
    (tmp_path / "away").mkdir()
    (tmp_path / "away/a.txt").write_text("\n\n".join(f"Document {number}" for number in range(99)))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").symlink_to(tmp_path / "away/a.txt")
    spec = {"source": "local", "path": str(tmp_path / "texts/a.txt")}
    corpora.fetch("mine", spec, tmp_path / "out", tmp_path, **MADE)
    assert (tmp_path / "out/train.jsonl").stat().st_size


def test_a_pipe_in_a_corpus_folder_is_refused_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(ArtifactError, match=r"mine: .*a\.txt is no regular file"):
        corpora.fetch(
            "mine",
            {"source": "local", "path": str(tmp_path)},
            tmp_path / "out",
            tmp_path,
            recipe="r",
            code="c",
        )
