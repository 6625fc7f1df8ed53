"""Methods of PEFT by name: PEFT's own gradients and files, options checked against PEFT's classes, faults refused."""

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from tests.tiny_models import VOCABULARY, tiny_llama, tiny_opt
from workflow_scripts.evaluate import latency
from workflow_scripts.plan.schema.peft_types import OURS, PEFT_TYPES, REFUSED, known_options, problems
from workflow_scripts.recover import adapters, peft_methods
from workflow_scripts.recover.learner import Learner
from workflow_scripts.recover.training import train

OPTIONS = {
    "DORA": {"r": 2},
    "RSLORA": {"r": 2},
    "IA3": {},
    "LOHA": {"r": 2},
    "LOKR": {"r": 2},
    "VERA": {"r": 4},
    "OFT": {"r": 0, "oft_block_size": 4},
    "BOFT": {"boft_block_size": 4},
    "HRA": {"r": 2},
    "FOURIERFT": {"n_frequency": 20},
    "VBLORA": {"r": 2, "num_vectors": 16, "vector_length": 16, "topk": 2},
    "RANDLORA": {"r": 4},
    "DELORA": {"r": 2},
    "MISS": {"r": 4},
    "ROAD": {"group_size": 8},
    "HIRA": {"r": 2},
    "SHIRA": {"r": 2},
    "LN_TUNING": {},
}
FAMILIES = {"llama": tiny_llama, "opt": tiny_opt}
ROWS = torch.randint(VOCABULARY, (5, 12), generator=torch.Generator().manual_seed(3))


def method(name, **options):
    return {"kind": "peft", "peft_type": name, "options": OPTIONS[name] | options}


def moved(learner):
    """The learner with its parameters moved from a start that changes nothing."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in learner.parameters:
            parameter += 0.05 * torch.randn_like(parameter)
    return learner


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", PEFT_TYPES)
def test_loss_gradient_and_saved_adapter_are_pefts_own(name, family, tmp_path):
    adapted = adapters.create(FAMILIES[family](), method(name), 0)
    learner = moved(Learner(adapted))
    loss = learner.accumulate(ROWS, micro_batch=2)
    ours = [parameter.grad.clone() for parameter in learner.parameters]
    adapted.zero_grad()
    logits = adapted(input_ids=ROWS).logits
    reference = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ROWS[:, 1:].flatten())
    reference.backward()
    assert loss == pytest.approx(reference.item(), abs=1e-5)
    largest = max(parameter.grad.abs().max().item() for parameter in learner.parameters)
    assert largest > 1e-4
    for one, parameter in zip(ours, learner.parameters, strict=True):
        torch.testing.assert_close(one, parameter.grad, atol=5e-5 * max(1, largest), rtol=1e-4)

    adapters.save(adapted, tmp_path, "tiny")
    recovered = adapters.attach(FAMILIES[family](), None, method(name), [tmp_path])
    peft = PeftModel.from_pretrained(FAMILIES[family](), str(tmp_path)).eval()
    with torch.no_grad():
        mine, theirs = recovered.model(input_ids=ROWS).logits, peft(input_ids=ROWS).logits
    torch.testing.assert_close(mine, logits.detach(), atol=1e-5, rtol=0)
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
    count = sum(parameter.numel() for parameter in learner.parameters)
    assert recovered.parameters["trainable"] == recovered.parameters["effective"] == count
    assert recovered.bank is None


KINDS = {
    "lora": {
        "kind": "lora",
        "rank": 2,
        "alpha": 16,
        "dropout": 0.0,
        "targets": {"default": ["q_proj"]},
        "layers": None,
    },
    "prompt": {"kind": "prompt", "tokens": 3, "init": "vocabulary"},
    "prefix": {"kind": "prefix", "tokens": 3, "init": "text"},
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [*PEFT_TYPES, *KINDS])
def test_in_bfloat16_an_adapter_is_float32_is_moved_by_a_step_and_is_loaded_as_it_was_trained(
    name, family, tmp_path
):
    asked = KINDS.get(name) or method(name)
    adapted = adapters.create(FAMILIES[family](dtype=torch.bfloat16), asked, 0, ROWS[0])
    learner = Learner(adapted)
    assert {parameter.dtype for parameter in learner.parameters} == {torch.float32}
    learner.accumulate(ROWS, micro_batch=2)
    before = [parameter.detach().clone() for parameter in learner.parameters]
    torch.optim.AdamW(learner.parameters, lr=2e-4, weight_decay=0.0).step()
    for one, other in zip(before, learner.parameters, strict=True):
        there = other.grad.abs() > 1e-6
        assert (one != other)[there].float().mean() > 0.95 or not there.any()
    adapters.save(adapted, tmp_path, "tiny")
    if name in PEFT_TYPES:
        recovered = adapters.attach(FAMILIES[family](dtype=torch.bfloat16), None, asked, [tmp_path]).model
        loaded = dict(recovered.named_parameters())
        for key, parameter in adapted.named_parameters():
            assert torch.equal(parameter, loaded[key]) and parameter.dtype == loaded[key].dtype, key
        with torch.no_grad():
            assert torch.equal(recovered(input_ids=ROWS).logits, adapted(input_ids=ROWS).logits)


@pytest.mark.parametrize("name", ["DORA", "IA3", "VERA"])
def test_the_loop_trains_it_and_the_seed_decides_the_start(name, tmp_path):
    settings = {
        "batch_size": 5,
        "micro_batch": 5,
        "learning_rate": 1e-2,
        "warmup": 0.0,
        "schedule": "constant",
        "weight_decay": 0.0,
        "checkpoint_minutes": 10,
    }
    windows, finals = ROWS.repeat(8, 1), []
    for run in ("one", "two"):
        (tmp_path / run).mkdir()
        learner = Learner(adapters.create(tiny_llama(), method(name), 7))
        state = train(learner, settings, windows, 7, tmp_path / run)
        assert state.losses[-1] < state.losses[0]
        finals.append(torch.cat([parameter.detach().flatten() for parameter in learner.parameters]))
    assert torch.equal(*finals)


def test_dora_is_no_sum_so_the_loop_leaves_its_forward_pass_alone():
    """The magnitude has a gradient; a low-rank sum put in its place would give it none."""
    adapted = adapters.create(tiny_llama(), method("DORA"), 0)
    learner = moved(Learner(adapted))
    learner.accumulate(ROWS, micro_batch=5)
    magnitudes = [p for name, p in adapted.named_parameters() if "magnitude" in name and p.requires_grad]
    assert len(magnitudes) == 14 and all(parameter.grad.abs().max() > 0 for parameter in magnitudes)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"r": "8"},
            "type DORA with .*: method.options.r: '8' has the wrong type; PEFT's LoraConfig wants int",
        ),
        ({"r": 0}, r"peft_type DORA with options {'r': 0}: `r` should be a positive integer"),
        ({"rank_pattern": {"(q": 4}}, r"peft_type DORA with options .*: missing \)"),
        ({"layers_pattern": "h"}, "peft_type DORA with options .*: When `layers_pattern` is specified"),
        (
            {"target_modules": ["q_proj", "q_projj"]},
            "target_modules: no decoder layer of this model has a q_projj",
        ),
        (
            {"exclude_modules": ["q_projj"]},
            "options.exclude_modules: no decoder layer of this model has a q_p",
        ),
        ({"layers_to_transform": [0, 2]}, "options.layers_to_transform: 2 is not allowed; .* layers 0 to 1"),
        ({"target_modules": ".*lm_head"}, "lm_head would be adapted, which lies outside the decoder layers"),
        (
            {"target_modules": ".*(embed_tokens|q_proj)"},
            "model.embed_tokens would be adapted, which lies outside",
        ),
    ],
)
def test_what_peft_takes_and_gets_wrong_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        adapters.create(tiny_llama(), method("DORA", **options), 0)


WHOLE = "model.layers.1.self_attn.q_proj"


@pytest.mark.parametrize(
    ("name", "options", "unused"),
    [
        ("DORA", {"rank_pattern": {"q_projj": 4}}, "q_projj"),
        ("DORA", {"target_modules": ["v_proj"], "alpha_pattern": {"v_proj": 4, WHOLE: 8}}, WHOLE),
        ("DELORA", {"rank_pattern": {".*proj": 4, "q_proj": 3}}, "q_proj"),
        ("DELORA", {"lambda_pattern": {"model.q_proj": 4}}, "model.q_proj"),
        ("FOURIERFT", {"n_frequency_pattern": {WHOLE: 10}}, WHOLE),
        ("DORA", {"rank_pattern": {"q_proj": 4, WHOLE: 3}}, WHOLE),
        ("DORA", {"rank_pattern": {WHOLE: 3, "q_proj": 4}}, None),
        ("RSLORA", {"rank_pattern": {r"layers\.1\..*": 3}}, None),
        ("FOURIERFT", {"n_frequency_pattern": {"q_proj": 10}}, None),
    ],
)
def test_a_pattern_that_decides_about_no_adapted_module_is_refused(name, options, unused):
    """PEFT passes over it, and all modules have the rank of the others."""

    def parameters(**options):
        adapted = adapters.create(tiny_llama(), method(name, **options), 0)
        return sum(parameter.numel() for parameter in adapters.trained_parameters(adapted))

    if unused is None:
        assert parameters(**options) != parameters()
    else:
        with pytest.raises(ValueError, match=f"_pattern: no adapted module takes its value from {unused};"):
            parameters(**options)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_a_start_that_changes_the_frozen_model_is_refused_if_a_later_peft_has_one_by_another_name(start):
    model = tiny_llama()
    before = peft_methods.sums(model)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=start))
    with pytest.raises(ValueError, match=r"this start changes the frozen model .*, which no saved adapter"):
        peft_methods.require_sound(adapted, before)


@pytest.mark.parametrize("family", FAMILIES)
def test_ln_tuning_trains_the_norms_of_the_decoder_layers_and_not_the_last_one(family):
    """OPT's last norm has the name of one in each layer; PEFT's own choice adapts it too."""
    adapted = adapters.create(FAMILIES[family](), method("LN_TUNING"), 0)
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert trained and all(".layers." in name for name in trained)
    assert len({name.rpartition(".ln_tuning_layers")[0] for name in trained}) == 4  # two norms in two layers


def test_options_are_those_of_the_installed_peft():
    """Read from PEFT's text, and the same as its dataclasses say."""
    import dataclasses
    import importlib

    for name, (folder, config, _) in PEFT_TYPES.items():
        kind = getattr(importlib.import_module(f"peft.tuners.{folder}.config"), config)
        fields = {field.name for field in dataclasses.fields(kind)}
        assert set(known_options(name)) <= fields and {"target_modules", "modules_to_save"} <= fields
        assert set(OPTIONS[name]) <= set(known_options(name))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("DRA", {}, "m.peft_type: 'DRA' is no method of PEFT .* did you mean 'DORA'?"),
        (
            "DORA",
            {"rnk_pattern": {}},
            "m.options.rnk_pattern: 'rnk_pattern' is no option of PEFT's LoraConfig",
        ),
        ("DORA", {"use_dora": False}, "m.options.use_dora: is set by the name DORA; remove it"),
        ("DORA", {"lora_dropout": 0.1}, "m.options.lora_dropout: is not allowed: it would have no effect"),
        *((name, {}, f"m.peft_type: {name} is not allowed: it ") for name in REFUSED),
        *(("VERA", {option: None}, f"m.options.{option}: is not allowed: it (would|is) ") for option in OURS),
        ("HIRA", {"rank_pattern": {"q_proj": 4}}, "m.options.rank_pattern: is not allowed: it would have no"),
        ("DORA", {"r": "8"}, "m.options.r: '8' has the wrong type; PEFT's LoraConfig wants int"),
        ("DORA", {"r": True}, "m.options.r: True has the wrong type"),
        ("DORA", {"r": 8.0}, "m.options.r: 8.0 has the wrong type"),
        ("DORA", {"rank_pattern": [1]}, r"m.options.rank_pattern: \[1\] has the wrong type; .*dict"),
        ("FOURIERFT", {"scaling": "150"}, "m.options.scaling: '150' has the wrong type; .* wants float"),
        ("MISS", {"init_weights": "bet"}, r"m.options.init_weights: 'bet' has .* bool \| Literal\['bat'"),
        ("DORA", {"target_modules": ["q_proj", 3]}, "m.options.target_modules: .* has the wrong type"),
        ("DORA", {"target_modules": ["q_proj", "lm_head"]}, "m.options.target_modules: lm_head lies outside"),
        ("IA3", {"target_modules": "model.embed_tokens"}, "target_modules: model.embed_tokens lies outside"),
        *(
            ("RSLORA", {"init_lora_weights": start}, f"m.options.init_lora_weights: {start!r} is not allowed")
            for start in ("eva", "corda", "loftq", "lora_ga", "pissa", "pissa_niter_4", "olora", "mica", 1)
        ),
    ],
)
def test_a_wrong_name_or_option_is_told_before_any_job(name, options, said):
    import re

    (found,) = problems("m", name, options)
    assert re.search(said, found)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DORA", {"r": 8, "lora_alpha": 4, "init_lora_weights": "gaussian", "rank_pattern": {"q_proj": 4}}),
        ("RSLORA", {"init_lora_weights": False, "layers_to_transform": [0], "target_modules": ["q_proj"]}),
        ("FOURIERFT", {"scaling": 150, "random_loc_seed": None}),
        ("MISS", {"init_weights": "bat"}),
        ("ROAD", {"variant": "road_2"}),
        ("OFT", {"eps": 1e-5, "coft": True, "target_modules": ".*q_proj"}),
    ],
)
def test_options_of_pefts_own_types_are_accepted(name, options):
    assert list(problems("m", name, options)) == []


def test_it_is_timed_as_modules(tmp_path):
    methods = {"none": {"kind": "none"}, "dora": method("DORA")}
    timed = latency.variants(tiny_llama(), None, methods, tmp_path, 2, 8)
    assert set(timed) == {("none", "none"), ("dora", "peft")}
