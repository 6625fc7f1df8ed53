"""config: files read as they are meant, defaults from the schema."""

import re
from pathlib import Path

import pytest

from workflow_scripts.plan.config import ConfigError, files, load, read

ROOT = Path(__file__).parents[3]


def test_the_shipped_configuration_is_valid_and_complete(written):
    config = load(written)
    assert {"smoke", "bench", "paper"} <= set(config.grids)
    assert config.compressors["gptq-w3"].damping == 0.01
    assert config.training["paper"].tokens == 40_960_000
    assert load(config.dump()) == config, "filling in defaults twice changes something"


def test_the_snakefile_reads_the_same_files_in_the_same_order():
    snakefile = (ROOT / "Snakefile").read_text()
    assert [ROOT / name for name in re.findall('configfile: "(.+)"', snakefile)] == files(root=ROOT)


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("training: {smoke: {tokens: 1.024e+3}}", ("training", "smoke", "tokens"), 1024),
        ("training: {smoke: {tokens: 1e3}}", ("training", "smoke", "tokens"), 1000),
        ("grids: {smoke: {evaluation: {items: 1E1}}}", ("grids", "smoke", "evaluation", "items"), 10),
        ("methods: {lora-r2: {rank: 3.0, layers: [1.0]}}", ("methods", "lora-r2", "layers"), [1]),
        (
            "grids: {smoke: {blocks: {core: {seeds: [1.0]}}}}",
            ("grids", "smoke", "blocks", "core", "seeds"),
            [1],
        ),
        (
            "methods: {idp-50-100: {members: [{adapter: prompt-50, seed: 1e0}]}}",
            ("methods", "idp-50-100", "members"),
            [{"adapter": "prompt-50", "seed": 1}],
        ),
    ],
)
def test_a_whole_number_may_be_written_as_a_fraction(text, path, value, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    found = load(read(*files(tmp_path / "mine.yaml", root=ROOT))).dump()
    for key in path:
        found = found[key]
    assert repr(found) == repr(value), "a fraction is left, of which paths and shapes cannot be made"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("grid: smoke\ngrids: {}\ngrid: bench", "line 3: the key 'grid' stands in line 1 already"),
        ("training:\n  smoke: {tokens: 010}", "line 2: 010 counts by eights"),
        ("training:\n  smoke: {tokens: 12:30}", "line 2: 12:30 counts by sixties"),
        ("models: &m {x: *m}", "line 1: an anchor holds itself"),
    ],
)
def test_yaml_that_reads_otherwise_than_it_looks_is_refused(text, said, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=f"mine.yaml: {said}"):
        read(*files(tmp_path / "mine.yaml", root=ROOT))


def test_a_file_that_is_no_configuration_is_named(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "broken.yaml").write_text("a: [1\nb: 2\n")
    for name, message in (
        ("nowhere.yaml", "can't be read"),
        ("binary.yaml", "not valid YAML"),
        ("broken.yaml", "line 2"),
    ):
        with pytest.raises(ConfigError, match=f"{name}: (?s:.*){message}"):
            read(tmp_path / name)


def test_lora_without_targets_for_other_families_takes_all_linears(written):
    """Names that Llama has, left as the default, would adapt a part of another family without a word."""
    lora = written["methods"]["lora-r2"]
    assert load(written).methods["lora-r2"].targets["default"] == ["all-linear"]
    for targets in ({"llama": ["q_proj"]}, {"default": ["all-linear"], "llama": ["q_proj"]}):
        lora["targets"] = targets
        found = load(written).methods["lora-r2"]
        assert found.targets == {"llama": ["q_proj"], "default": ["all-linear"]}
    del lora["targets"]
    assert load(written).methods["lora-r2"].targets == {"default": ["all-linear"]}
