"""The entry train_adapter: from folders to a complete adapter folder, on a tiny model that was really compressed."""

import fcntl
import shutil
from pathlib import Path

import pytest
from peft import PeftModel

from tests import tiny, tiny_settings
from tests.tiny_copies import compressed, fetch_corpus, fetch_model
from workflow_scripts.compress.task import Sources
from workflow_scripts.evaluate.cell import _left_out
from workflow_scripts.files.artifacts import ArtifactError, read_json, sha256_file
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.jobs import compress_model, train_adapter
from workflow_scripts.recover import making
from workflow_scripts.recover.learner import Learner
from workflow_scripts.recover.model_files import ModelFiles
from workflow_scripts.recover.training import TrainingError
from workflow_scripts.recover.windows import training_windows
from workflow_scripts.sources import benchmarks, corpora, models

PROMPT = {"kind": "prompt", "tokens": 5, "init": "vocabulary", "trained": True}
PREFIX = {"kind": "prefix", "tokens": 5, "init": "text"}
LORA = tiny_settings.LORA | {"targets": {"default": ["q_proj"]}}
EVERYWHERE = LORA | {"rank": 8, "alpha": 16, "targets": {"default": ["all-linear"]}}
TRAINING = {
    "tokens": 2048,
    "sequence_length": 32,
    "batch_size": 8,
    "micro_batch": 8,
    "learning_rate": 0.01,
    "warmup": 0.05,
    "schedule": "linear",
    "weight_decay": 1e-5,
    "precision": "fp32",
    "heldout_windows": 4,
}
RTN = {"algorithm": "rtn", "bits": 4, "group_size": None, "symmetric": False, "clip": "none"}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A working directory with a fetched model, a fetched corpus and a compressed model."""
    root = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        fetch_model(tiny.write_model(root / "made/model"), Path("resources/models/tiny"))
        fetch_corpus(Path("resources/corpora/text"))
        compressed(Path("resources/models/tiny"), Path("compressed"), RTN)
    return root


def train(model, folder, method, training, checkpoint_minutes, seed=1):
    files, corpus = ModelFiles(Path(model), Path("compressed")), Path("resources/corpora/text")
    made = Provenance("r", "c", seed=seed, device="cpu")
    output = f"{folder}/training.json"
    train_adapter.main(files, train_adapter.Texts(corpus), output, method, training, checkpoint_minutes, made)


def run(project, monkeypatch, output, method=PROMPT, seed=1, **settings):
    monkeypatch.chdir(project)
    train("resources/models/tiny", output, method, TRAINING | settings, checkpoint_minutes=10, seed=seed)
    return Path(output), read_json(f"{output}/training.json", "training")


@pytest.mark.parametrize("method", [PROMPT, PREFIX, LORA], ids=lambda method: method["kind"])
def test_folder_is_complete_and_peft_loads_it(project, monkeypatch, method):
    folder, record = run(project, monkeypatch, f"adapters/{method['kind']}/seed-1", method)
    assert sorted(file.name for file in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "training.json",
    ]
    assert record["tokens_seen"] == 2048 and record["steps"] == 8
    assert [tokens for tokens, _ in record["loss_curve"]] == [256 * step for step in range(1, 9)]
    assert record["adapter_sha256"] == sha256_file(folder / "adapter_model.safetensors")
    assert record["base_sha256"] == read_json("compressed/compression.json")["weights_sha256"]
    assert (
        record["parameters"]["trainable"]
        == {"prompt": 160, "prefix": 5 * 2 * 2 * 16, "lora": 2 * 2 * 64}[method["kind"]]
    )
    assert record["heldout_loss"]["after"] != record["heldout_loss"]["before"]
    base = models.load_dense("resources/models/tiny")
    assert PeftModel.from_pretrained(base, str(folder)).active_peft_config.base_model_name_or_path == "tiny"


def test_same_seed_same_bits(project, monkeypatch):
    first, _ = run(project, monkeypatch, "adapters/again/seed-1", LORA | {"dropout": 0.1})
    before = sha256_file(first / "adapter_model.safetensors")
    shutil.rmtree(first)
    shutil.rmtree("work/adapters/again")
    again, _ = run(project, monkeypatch, "adapters/again/seed-1", LORA | {"dropout": 0.1})
    assert sha256_file(again / "adapter_model.safetensors") == before


@pytest.mark.parametrize("method", [PROMPT, LORA], ids=lambda method: method["kind"])
def test_a_finished_adapter_that_snakemake_deleted_takes_no_step_again(project, monkeypatch, method):
    """SLURM called jobs failed that ended in the last second of their time; each try then began at the first token."""
    output = f"adapters/deleted-{method['kind']}/seed-1"
    folder, record = run(project, monkeypatch, output, method)
    before = sha256_file(folder / "adapter_model.safetensors")
    shutil.rmtree(folder)
    monkeypatch.setattr(Learner, "accumulate", lambda *_: pytest.fail("it took a step"))
    folder, again = run(project, monkeypatch, output, method)
    assert sha256_file(folder / "adapter_model.safetensors") == before
    own = ("manifest", "peak_memory_mb")
    assert {k: v for k, v in again.items() if k not in own} == {
        k: v for k, v in record.items() if k not in own
    }


def test_an_offset_is_added_to_the_seed_of_text_order_and_start(project, monkeypatch):
    places = {(1, 0): PROMPT, (3, 0): PROMPT, (1, 2): PROMPT | {"seed_offset": 2}}
    found = {
        place: run(project, monkeypatch, f"adapters/offset-{place[1]}/seed-{place[0]}", method, place[0])[1]
        for place, method in places.items()
    }
    weights = {place: record["adapter_sha256"] for place, record in found.items()}
    assert weights[1, 2] == weights[3, 0] != weights[1, 0]
    assert found[1, 2]["manifest"]["seed"] == 1, "the replicate's"


def test_untrained_prompt_is_the_vocabulary_start(project, monkeypatch):
    folder, record = run(project, monkeypatch, "adapters/placebo/seed-1", PROMPT | {"trained": False})
    assert (record["tokens_seen"], record["steps"], record["loss_curve"]) == (0, 0, [])
    assert record["heldout_loss"]["after"] == record["heldout_loss"]["before"]
    from peft.utils import load_peft_weights

    prompt = load_peft_weights(str(folder), device="cpu")["prompt_embeddings"]
    vocabulary = models.load_dense("resources/models/tiny").get_input_embeddings().weight
    assert all((vocabulary == row).all(1).any() for row in prompt)


def test_a_budget_beyond_the_text_is_read_in_epochs_of_different_order(project):
    from workflow_scripts.recover.windows import training_windows
    from workflow_scripts.sources.models import load_tokenizer

    corpus, tokenizer = (
        str(project / "resources/corpora/text"),
        load_tokenizer(project / "resources/models/tiny"),
    )
    once, _ = training_windows(corpus, tokenizer, TRAINING | {"tokens": 32}, 1)
    held = len(training_windows(corpus, tokenizer, TRAINING | {"tokens": 10**6}, 1)[0].unique(dim=0))
    windows, _ = training_windows(corpus, tokenizer, TRAINING | {"tokens": 32 * (2 * held + 3)}, 1)
    first, second = windows[:held], windows[held : 2 * held]
    assert len(once) == 1 and len(windows) == 2 * held + 3
    assert not first.equal(second)
    assert first.unique(dim=0).equal(second.unique(dim=0)), "an epoch skips or repeats windows"


def test_heldout_windows_are_of_the_heldout_documents_and_the_same_for_every_seed(project):
    folder, tokenizer = (
        project / "resources/corpora/text",
        models.load_tokenizer(project / "resources/models/tiny"),
    )
    documents, bos = corpora.read_documents(folder, "heldout"), models.adds_bos(tokenizer)
    expected = corpora.token_windows(documents, tokenizer, 32, 4, 0, bos)
    assert len(expected) == 4
    everything = TRAINING | {"tokens": 10**6}  # every window of the training text is drawn
    for seed in (1, 2):
        windows, heldout = training_windows(str(folder), tokenizer, everything, seed)
        assert heldout.equal(expected)
        assert not (windows[:, None] == heldout).all(-1).any()


def test_a_short_last_step_is_told_by_its_tokens(project, monkeypatch, capsys):
    _, record = run(project, monkeypatch, "adapters/short/seed-1", tokens=13 * 32)
    assert record["tokens_seen"] == 416 and [tokens for tokens, _ in record["loss_curve"]] == [256, 416]
    assert "416 of 416 tokens" in capsys.readouterr().err


def test_a_checkpoint_of_the_same_weights_under_another_config_is_not_used(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    step, left = Learner.accumulate, [3]

    def killed(self, *arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return step(self, *arguments)

    def run_on(model):
        train(model, "adapters/moved/seed-1", PROMPT, TRAINING, checkpoint_minutes=0)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Learner, "accumulate", killed)
        run_on("resources/models/tiny")
    other = tiny.with_another_config(Path("resources/models/tiny"), Path("resources/models/other"))
    run_on(str(other))
    assert "continues from" not in capsys.readouterr().err
    shutil.rmtree("adapters/moved")


def test_second_writer_is_stopped(project, monkeypatch):
    monkeypatch.chdir(project)
    lock = Path("work/adapters/locked/seed-1.lock")
    lock.parent.mkdir(parents=True)
    with open(lock, "w") as handle:
        handle.write("pid 1 on elsewhere")
        handle.flush()
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(ArtifactError, match="is being written by pid 1 on elsewhere"):
            run(project, monkeypatch, "adapters/locked/seed-1")


def test_non_finite_loss_leaves_no_folder(project, monkeypatch):
    with pytest.raises(RuntimeError, match="the loss is nan at step"):
        run(project, monkeypatch, "adapters/diverged/seed-1", learning_rate=float("1e30"))
    assert not Path("adapters/diverged/seed-1").exists()


@pytest.mark.parametrize(
    ("call", "said"), [(1, r"\(base\) is nan before training"), (3, r"\(after\) is nan after 8 steps")]
)
def test_a_heldout_loss_that_is_no_number_is_said_before_any_file(project, monkeypatch, call, said):
    measure, calls = Learner.heldout_loss, []

    def broken(self, *arguments, **named):
        calls.append(None)
        return float("nan") if len(calls) == call else measure(self, *arguments, **named)

    monkeypatch.setattr(Learner, "heldout_loss", broken)
    with pytest.raises(TrainingError, match=f"the held-out loss {said}.*try"):
        run(project, monkeypatch, "adapters/nan/seed-1")
    assert not Path("adapters/nan/seed-1").exists()
    shutil.rmtree("work/adapters/nan")


@pytest.mark.parametrize("method", [PROMPT, PREFIX, EVERYWHERE], ids=lambda method: method["kind"])
def test_distillation_draws_the_compressed_model_to_the_dense_one(project, monkeypatch, method):
    """The divergence falls; the record names the objective."""
    settings = {"objective": "kl_dense", "tokens": 8192, "learning_rate": 1e-3}
    _, record = run(project, monkeypatch, f"adapters/kl-{method['kind']}/seed-1", method, **settings)
    losses = [loss for _, loss in record["loss_curve"]]
    assert record["training"]["objective"] == "kl_dense"
    assert 0 < sum(losses[-8:]) < sum(losses[:8]) < 8 * record["heldout_loss"]["before"]


def test_distillation_of_the_dense_model_itself_starts_at_no_loss_but_for_a_prompts_own_distortion(
    project, monkeypatch
):
    monkeypatch.chdir(project)
    model = Path("resources/models/tiny")
    dense = {"algorithm": "dense"}
    compress_model.main(Sources(model), "uncompressed/compression.json", dense, Provenance("r", "c"))
    files, made = ModelFiles(model, Path("uncompressed")), Provenance("r", "c", seed=1, device="cpu")
    texts = train_adapter.Texts(Path("resources/corpora/text"))
    curves = {}
    for method in (LORA, PROMPT, PREFIX):
        output = f"adapters/kl-dense-{method['kind']}/seed-1/training.json"
        train_adapter.main(files, texts, output, method, TRAINING | {"objective": "kl_dense"}, 10, made)
        curves[method["kind"]] = [loss for _, loss in read_json(output)["loss_curve"]]
    assert curves["lora"] == pytest.approx([0] * 8, abs=1e-6)  # and stays there
    assert min(curves["prompt"][0], curves["prefix"][0]) > 1e-4


def test_a_placebo_that_is_not_trained_needs_no_teacher(project, monkeypatch):
    monkeypatch.setattr(making, "load_dense", None)  # a call would fail
    placebo = PROMPT | {"trained": False}
    _, record = run(project, monkeypatch, "adapters/kl-placebo/seed-1", placebo, objective="kl_dense")
    assert record["steps"] == 0 and record["heldout_loss"]["after"] == record["heldout_loss"]["before"]


def test_an_adapter_may_be_trained_on_a_tasks_own_items(project, monkeypatch):
    monkeypatch.chdir(project)
    local = {"source": "local", "path": str(tiny.write_tasks(project / "made/tasks", 60)["triviaqa"])}
    folder = Path("resources/benchmarks/local/triviaqa")
    if not folder.exists():
        benchmarks.fetch("triviaqa", local, folder, project / "cache", recipe="r", code="c")
    files, made = (
        ModelFiles(Path("resources/models/tiny"), Path("compressed")),
        Provenance("r", "c", seed=1, device="cpu"),
    )
    wordings = ["Question: {{ question }}\nAnswer: {{ answer.value }}"]
    texts = train_adapter.Texts(folder, wordings, scored={"triviaqa": None})
    method, output = (
        LORA | {"corpus": {"task": "triviaqa", "part": "odd"}},
        "adapters/facts/seed-1/training.json",
    )
    train_adapter.main(files, texts, output, method, TRAINING, 10, made)
    record = read_json(output, "training")
    assert record["manifest"]["inputs"]["corpus"] == sha256_file(folder / "data.jsonl")
    told, left_out = record["items"].values()
    assert (told, len(left_out)) == (24, 2)  # two questions stand in both halves
    assert _left_out([Path(output).parent]) == sorted(left_out)
    assert record["heldout_loss"]["after"] < record["heldout_loss"]["before"]
