"""meaning: what types alone cannot refuse, told before any job."""

import pytest

from workflow_scripts.plan.config import ConfigError, load


def test_an_open_book_method_needs_a_task_with_a_passage(shipped):
    config = shipped.dump()
    config["grids"]["smoke"]["blocks"]["core"]["methods"].append("open-book")
    with pytest.raises(
        ConfigError, match=r"core\.methods\[7\]: 'open-book' gives the passage .* no task of this grid"
    ):
        load(config)


def test_a_repair_of_a_model_without_some_layers_is_told_before_any_job(shipped):
    config = shipped.dump()
    core = config["grids"]["smoke"]["blocks"]["core"]
    config["compressors"]["shorter"] = {"algorithm": "drop-layers", "layers": [3]}
    core["compressors"].append("shorter")
    core["methods"] += ["eora-r4", "lora-r4", "lora-r4-eora"]
    with pytest.raises(ConfigError) as error:
        load(config)
    said = "repairs each layer by the dense one, and shorter leaves layers out"
    assert [line.partition(": ")[2] for line in str(error.value).splitlines() if said in line] == [
        f"'{name}' {said}; make a block without it" for name in ("eora-r4", "lora-r4-eora")
    ]


def test_a_grid_that_scores_no_item_of_the_task_is_told_before_any_job(shipped):
    config = shipped.dump()
    config["grids"]["smoke"]["blocks"]["core"]["methods"].append("lora-r4-triviaqa-even")
    config["grids"]["smoke"]["tasks"].remove("triviaqa")
    with pytest.raises(ConfigError, match=r"blocks\.core\.methods\[7\]: .* of which this grid scores none"):
        load(config)
