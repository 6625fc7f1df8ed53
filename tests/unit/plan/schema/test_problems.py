"""problems: every mistake named with its key, value, what is allowed, nearest name; all of them at once."""

import copy
import time

import pytest

from workflow_scripts.plan.config import ConfigError, load


def problems_of(config, path, value):
    """Set (or, with value None, delete) the key at `path` and return the lines of the error."""
    config = copy.deepcopy(config)
    part = config
    for key in path[:-1]:
        part = part[key]
    if value is None:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    with pytest.raises(ConfigError) as error:
        load(config)
    return str(error.value)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("modles", {}, ["modles: unknown key", "did you mean 'models'?"]),
        ("methods lora-r2 rnk", 3, ["methods.lora-r2.rnk: unknown key", "'rank'"]),
        ("methods idp-50-100 score", "learnt", ["idp-50-100.score: 'learnt'", "did you mean 'learned'?"]),
        ("methods idp-50-100-learned calibrated", True, ["idp-50-100-learned.calibrated: has no effect"]),
        ("methods dora-r4 options", {"rank": 4}, ["dora-r4.options.rank: 'rank' is no option of PEFT's"]),
        ("methods dora-r4 peft_type", "ADALORA", ["dora-r4.peft_type: ADALORA is not allowed"]),
        ("methods lora-r2 corpus", "wikpedia", ["methods.lora-r2.corpus: 'wikpedia'", "'wikipedia'"]),
        ("methods lora-r2 corpus", {"task": "sciq"}, ["lora-r2.corpus: give either a corpus' name"]),
        (
            "methods lora-r2 corpus",
            {"task": "trivia", "part": "even"},
            ["corpus.task: 'trivia'", "'triviaqa'"],
        ),
        (
            "methods lora-r2 corpus",
            {"task": "piqa", "part": "odd"},
            ["corpus.task: tasks.piqa has no wordings"],
        ),
        (
            "tasks sciq-closed context",
            "{{ support",
            ["sciq-closed.context: '{{ support' is no Jinja template"],
        ),
        ("tasks sciq wordings", ["{{ question }}", "{{ a | nix }}"], ["sciq.wordings[1]: ", "'nix'"]),
        ("methods lora-r2 corpus", {"tasks": ["piqa"]}, ["corpus.tasks[0]: tasks.piqa has no wordings"]),
        ("methods lora-r2 corpus", {"tasks": ["trivia"]}, ["corpus.tasks[0]: 'trivia'", "'triviaqa'"]),
        (
            "methods lora-r2 corpus",
            {"tasks": ["sciq"], "part": "odd"},
            ["lora-r2.corpus: give either a corpus' name, task and part, or tasks"],
        ),
        ("grids smoke pair prompt", "idp-50-families", ["pair.prompt: ", "items of arc_easy, "]),
        (
            "grids bench evaluation items",
            1000,
            [
                "blocks.recovery.methods[11]: 'prompt-50-science' is trained on the items that the grid does not",
                "score, and it scores all of sciq",
                "'idp-50-families' is trained on",
            ],
        ),
        ("benchmarks pypi webqs", None, ["items of webqs, which benchmarks.pypi lacks"]),
        ("methods lora-r2 corpus", {"task": "sciq", "part": "evn"}, ["'evn'", "did you mean 'even'?"]),
        ("grids smoke pair lora", "lora-r4-triviaqa-odd", ["pair.lora: ", "trained on items of triviaqa"]),
        (
            "methods lora-r2 training",
            {"objective": "kl_dens"},
            ["training.objective: 'kl_dens'", "'kl_dense'"],
        ),
        ("methods lora-r2 training", {"temperature": 2.0}, ["lora-r2.training.temperature: has no effect"]),
        (
            "methods lora-r2-kl training",
            {"objective": "kl_dense", "mixture": 0.0},
            ["lora-r2-kl.training.mixture: 0 leaves nothing of kl_dense"],
        ),
        (
            "methods prompt-100-untrained training",
            {"objective": "kl_dense"},
            ["prompt-100-untrained.training: has no effect with trained: false"],
        ),
        ("training bench prompt mixture", 0.5, ["training.bench.prompt.mixture: has no effect without"]),
        ("methods eora-r4 rank", 128, ["methods.eora-r4.rank: 128", "from 2 to 64"]),
        ("methods lora-r4-eora start", "eroa", ["lora-r4-eora.start: 'eroa'", "did you mean 'eora'?"]),
        ("grids smoke pair prompt", "eora-r4", ["pair.prompt: 'eora-r4' is of kind eora"]),
        ("models smollm2-135m pakage", "x", ["models.smollm2-135m.pakage", "'package'"]),
        ("compressors gptq-w3 bits", 9, ["compressors.gptq-w3.bits: 9", "from 2 to 8"]),
        ("compressors sparsegpt-50 sparsity", 1.2, ["compressors.sparsegpt-50.sparsity: 1.2", "to 0.99"]),
        ("compressors sparsegpt-2of4 pattern", "5:4", ["sparsegpt-2of4.pattern: '5:4'", "n < m"]),
        ("compressors sparsegpt-50 pattern", "2:4", ["either sparsity or pattern"]),
        ("compressors gptq-w3 algorithm", "gtpq", ["gptq-w3.algorithm: 'gtpq'", "did you mean 'gptq'?"]),
        ("training smoke tokens", 0, ["training.smoke.tokens: 0", "from 1"]),
        ("training smoke lora learning_rate", "1e-2", ["learning_rate: '1e-2'", "read as text"]),
        ("training smoke batch_size", True, ["batch_size: True", "a whole number"]),
        ("methods idp-50-100 members", ["prompt-5"], ["idp-50-100.members[0]: 'prompt-5'", "'prompt-50'"]),
        ("methods idp-50-100 members", ["lora-r2"], ["members[0]: 'lora-r2' is no prompt"]),
        ("methods idp-50-100 members", [], ["idp-50-100.members: holds nothing"]),
        (
            "methods prompt-50 corpus",
            "wikipedi",
            ["methods.prompt-50.corpus: 'wikipedi' is no name in corpora"],
        ),
        ("methods prompt-50 corpus", "none", ["methods.prompt-50.corpus: 'none' is no name in corpora"]),
        ("methods idp-50-100 corpus", "wikipedia", ["methods.idp-50-100.corpus: unknown key"]),
        (
            "methods idp-50-100 members",
            [{"adapter": "prompt-50", "corpus": "wikipedia"}],
            ["members[0].corpus: unknown key; allowed: adapter, seed"],
        ),
        ("methods none", None, ["methods.none: must be there"]),
        ("grids smoke pair", None, ["grids.smoke: the key pair is missing"]),
        (
            "grids smoke pair lora",
            "prompt-50",
            ["'prompt-50' is of kind prompt; allowed kinds for this role: lora, peft"],
        ),
        ("grids smoke training", "smok", ["grids.smoke.training: 'smok'", "did you mean 'smoke'?"]),
        (
            "grids smoke blocks core methods",
            ["lora-r"],
            ["blocks.core.methods[0]: 'lora-r'", "did you mean 'lora-r"],
        ),
        (
            "grids smoke blocks core corpora",
            ["none"],
            [
                "corpora: 'none' is for method none",
                "make a block with a corpus for gptq-w3-g64, sparsegpt-50",
            ],
        ),
        (
            "grids smoke blocks core compressors",
            "gptq-w3-g64",
            ["compressors: 'gptq-w3-g64' has the wrong type; allowed: a list ([first, second])"],
        ),
        (
            "grids smoke blocks",
            [],
            ["blocks: [] has the wrong type; allowed: a mapping ({key: value})"],
        ),
        (
            "methods prompt-50 tokens",
            "six",
            ["'six' has the wrong type; allowed: a whole number; it was read"],
        ),
        ("grids smoke blocks core models", ["smollm2-135m"] * 2, ["smollm2-135m is listed twice"]),
        ("grid", "smok", ["grid: 'smok'", "did you mean 'smoke'?"]),
        (
            "blocks",
            ["core", "dens"],
            ["blocks[1]: 'dens' is no block of grid smoke", "did you mean 'dense'?"],
        ),
        ("blocks", "figure-1", ["blocks[0]: 'figure-1' is no block of grid smoke; allowed: dense, core"]),
        ("blocks", [], ["blocks: holds nothing"]),
        (
            "models ../evil",
            {"source": "local", "path": "x", "parameters": 1e6},
            ["'../evil'", "allowed pattern"],
        ),
        ("methods a'b", {"kind": "none"}, ["allowed pattern"]),
        ("methods é", {"kind": "none"}, ["allowed pattern"]),
        ("methods a;b", {"kind": "none"}, ["allowed pattern"]),
        ("methods a;b", {"tokens": 5}, ["'a;b' is not allowed", "the key kind is missing"]),
        (
            "methods a;b",
            {"kind": "prompt", "tokens": "six"},
            ["'a;b' is not allowed", "'six' has the wrong type"],
        ),
        ("compressors a;b", {"algorithm": "rtn", "bits": 3, "bit": 3}, ["'a;b' is not", "bit: unknown key"]),
        ("grids smoke description", "a\ud800", ["description: the text holds '\\ud800'"]),
        ("models smollm2-135m note", "a\0", ["note: the text holds '\\x00'"]),
    ],
)
def test_a_mistake_is_named(written, path, value, expected):
    message = problems_of(written, path.split(), value)
    for part in expected:
        assert part in message


def test_a_family_of_which_another_task_scores_every_item_is_named(written):
    """sciq-closed is sciq's file."""
    config = copy.deepcopy(written)
    config["grids"]["bench"]["tasks"] = ["arc_easy", "sciq-closed"]
    load(config)  # it scores 200 of its 1,000 items
    message = problems_of(config, ["grids", "bench", "evaluation", "items"], 1000)
    assert "'prompt-50-science' is trained on the items that the grid does not score" in message
    assert "and it scores all of sciq-closed (the same file as sciq's); lower evaluation.items" in message


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a b", "'a b' is not allowed; allowed pattern"),
        ("a\n", "control character"),
        (5, "the key 5 is not text"),
    ],
)
def test_a_name_that_is_none_is_told(written, name, expected):
    assert expected in problems_of(written, ["methods", name], {"kind": "none"})


def test_every_mistake_is_reported_at_once(written):
    config = copy.deepcopy(written)
    config["compressors"]["gptq-w3"]["bits"] = 9
    config["training"]["smoke"]["tokens"] = 0
    with pytest.raises(ConfigError) as error:
        load(config)
    assert len(str(error.value).splitlines()) == 2


def test_mistakes_of_types_and_of_meaning_are_reported_at_once(written):
    config = copy.deepcopy(written)
    config["compressors"]["gptq-w3"]["bits"] = 9
    config["methods"]["new"] = {"tokens": 0, "extra": 1}
    config["modles"] = {}
    smoke = config["grids"]["smoke"]
    smoke["tasks"] = [*smoke["tasks"], "copa"]
    smoke["pair"] = {"prompt": "lora-r2", "lora": "lora-r2"}
    smoke["evaluation"]["items"] = -1
    smoke["blocks"]["core"]["models"] = ["smollm2-135"]
    smoke["blocks"]["core"]["compressors"] = ["gptq-w3", "sparsegpt50"]
    del config["grids"]["bench"]["training"]
    with pytest.raises(ConfigError) as error:
        load(config)
    assert [line.split(": ", 1)[0] for line in str(error.value).splitlines()] == [
        "compressors.gptq-w3.bits",
        "grids.bench",
        "grids.smoke.blocks.core.compressors[1]",
        "grids.smoke.blocks.core.models[0]",
        "grids.smoke.evaluation.items",
        "grids.smoke.pair.prompt",
        "grids.smoke.tasks[9]",
        "methods.new.extra",
        "methods.new.tokens",
        "methods.new",
        "modles",
    ], str(error.value)


def test_what_would_take_for_ever_is_refused_within_seconds(written):
    def edited(path, value):
        config = part = copy.deepcopy(written)
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = value
        return config

    many = [f"n{number}" for number in range(20_000)]
    block = ("grids", "smoke", "blocks", "core")
    cases = [
        (
            edited(("models", "smollm2-135m", "parameters"), 1e300),
            r"parameters: 1e\+300 .* allowed: to 1e\+15",
        ),
        (edited(("training", "smoke", "tokens"), 10**300), "training.smoke.tokens: 1e.300 is not allowed"),
        (
            edited(("training", "smoke", "tokens"), -(10**400)),
            "tokens: a number of 400 digits is not allowed",
        ),
        (edited((*block, "methods"), many), r"core.methods: 19,980 more names that methods lacks"),
        (edited((*block, "seeds"), list(range(20_000))), "core: asks for 280,000 cells; at most 50,000"),
        (edited(("methods",), written["methods"] | {name: {"kind": "nnoe"} for name in many}), "19,900 more"),
    ]
    for config, said in cases:
        started = time.process_time()
        with pytest.raises(ConfigError, match=said):
            load(config)
        assert time.process_time() - started < 20, said


@pytest.mark.parametrize(
    "path", [("training", "smoke", "lora", "learning_rate"), ("compressors", "sparsegpt-50", "sparsity")]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_named(written, path, value):
    assert f"{'.'.join(path)}: {value} is no finite number" in problems_of(written, path, value)


def test_lists_say_what_they_hold_and_what_they_need(written):
    members = ("methods", "idp-50-100", "members")
    assert "methods.idp-50-100.members: prompt-50 is listed twice" in problems_of(
        written, members, ["prompt-50"] * 2
    )
    concat = problems_of(written, ("methods", "concat-50-100", "members"), ["prompt-50"])
    assert "methods.concat-50-100.members: holds 1; at least 2 needed" in concat
    assert "methods.lora-v-r3.layers: 1 is listed twice" in problems_of(
        written, ("methods", "lora-v-r3", "layers"), [1, 1]
    )


def test_a_wrong_value_that_an_anchor_hands_on_is_said_once(written):
    config = copy.deepcopy(written)
    for name in ("lora-r2", "lora-r3", "lora-r4"):
        config["methods"][name]["alpha"] = -1
    config["methods"]["lora-v-r2"]["rank"] = -1
    with pytest.raises(ConfigError) as error:
        load(config)
    assert str(error.value).splitlines() == [
        "methods.lora-r2.alpha: -1 is not allowed; allowed: above 0 "
        "(the same in 2 more: methods.lora-r3.alpha, methods.lora-r4.alpha)",
        "methods.lora-v-r2.rank: -1 is not allowed; allowed: from 1 to 4096",
    ]


@pytest.mark.parametrize(
    ("catalogue", "entry", "expected"),
    [
        (
            "methods",
            {"tokens": 0, "extra": 1},
            ["new: the key kind is missing", "new.tokens: 0", "new.extra: unknown key"],
        ),
        (
            "compressors",
            {"method": "gptq", "bits": 9},
            ["new: the key algorithm is missing", "new.bits: 9", "new.method"],
        ),
        ("models", {"path": 5}, ["new: the key source is missing", "new.path: 5 has the wrong type"]),
    ],
)
def test_an_entry_without_its_type_is_told_its_other_mistakes_too(written, catalogue, entry, expected):
    message = problems_of(written, [catalogue, "new"], entry)
    for part in expected:
        assert f"{catalogue}.{part}" in message


def test_a_repair_is_never_told_as_a_mistake(written):
    """A wrong kind, name or member has no second line about what stands in for it."""
    for path, value in (
        (["corpora", "a b"], {"source": "local", "path": "x"}),
        (["methods", "lora-r2", "kind"], "lorra"),
        (["methods", "idp-50-100", "members"], [5, "prompt-50"]),
        (["grids", "smoke", "tasks"], "arc_easy"),
        (["grids", "smoke", "pair"], None),
        (["compressors", "dense", "algorithm"], "dens"),
        (["methods"], []),
        (["grids", "smoke"], 3),
    ):
        assert len(problems_of(written, path, value).splitlines()) == 1, path
