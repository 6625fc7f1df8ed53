"""What jobs ask of a cluster: formulas that scale, and a site file whose errors say what to change."""

from pathlib import Path

import pytest
import yaml

from workflow_scripts.artifacts import ArtifactError
from workflow_scripts.cluster import Requests, read_site
from workflow_scripts.config import load
from workflow_scripts.grid import Plan
from workflow_scripts.grid_status import comment_of, planned
from workflow_scripts.slurm import minutes

ROOT = Path(__file__).parents[2]
PLACE = {
    "grid": "paper",
    "model": "llama-7b",
    "compressor": "gptq-w3",
    "corpus": "c4",
    "method": "lora-r2",
    "seed": "0",
}
RULES = ("compress_model", "train_adapter", "evaluate_cell", "measure_similarity", "measure_latency")


@pytest.fixture(scope="module")
def plan():
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    config["models"]["llama-70b"] = {"source": "local", "path": "/models/llama-70b", "parameters": 6.9e10}
    return Plan(load(config))


@pytest.fixture(scope="module")
def requests(plan):
    return Requests(plan, read_site(Path("no site file")))


def test_a_7b_model_fits_one_gpu_and_gets_memory_and_time(requests):
    for rule in RULES:
        assert requests.gpus(rule, PLACE) == 1
    weights = 4 * 6.7e9 / 1e6  # MB in float32
    assert requests.mem_mb("compress_model", PLACE, 1) < weights
    assert weights / 2 < requests.mem_mb("evaluate_cell", PLACE, 1) < 1.5 * weights
    # 4 FLOP a parameter and token for 40,960,000 tokens at 1.1e14 FLOP/s are 2.8 hours; three times that and 20 minutes
    assert requests.runtime("train_adapter", PLACE, 1) == pytest.approx(3 * 2.8 * 60 + 20, rel=0.05)


def test_a_70b_model_is_compressed_layer_by_layer_and_refused_where_it_fits_no_gpu(requests):
    large = PLACE | {"model": "llama-70b"}
    assert requests.gpus("compress_model", large) == 1
    assert requests.mem_mb("compress_model", large, 1) < 4 * 6.9e10 / 1e6 / 2
    with pytest.raises(ArtifactError, match=r"train_adapter of llama-70b needs about \d+ GB .*has 80"):
        requests.gpus("train_adapter", large)


def test_requests_grow_by_attempt_within_the_partitions_limit(requests):
    for rule in RULES:
        assert requests.mem_mb(rule, PLACE, 3) == 3 * requests.mem_mb(rule, PLACE, 1)
        first, third = requests.runtime(rule, PLACE, 1), requests.runtime(rule, PLACE, 3)
        assert third == pytest.approx(min(3 * first, 24 * 60), abs=3)
    assert requests.extra("train_adapter", PLACE, 1) == "--signal=USR1@300"


def test_smaller_jobs_ask_for_less(plan, requests):
    small = {
        "grid": "smoke",
        "model": "smollm2-135m",
        "compressor": "gptq-w3-g64",
        "corpus": "wikipedia",
        "method": "lora-r2",
    }
    for rule in RULES[:4]:
        assert requests.mem_mb(rule, small, 1) < 6000
        assert requests.runtime(rule, small, 1) < 30


def test_the_site_file_says_where(tmp_path, plan):
    file = tmp_path / "site.yaml"
    file.write_text("{account: mine, partition: gpu, device: cpu-2, max_hours: 0.5, extra: --exclude=n7}")
    requests = Requests(plan, read_site(file))
    assert requests.where("partition") == {
        "slurm_account": "mine", "slurm_partition": "gpu", "constraint": None, "qos": None,
    }  # fmt: skip
    assert requests.where("cpu_partition")["slurm_partition"] is None
    assert requests.gpus("train_adapter", PLACE) is None
    assert requests.runtime("train_adapter", PLACE, 2) == 30
    assert requests.extra("train_adapter", PLACE, 1).endswith("--exclude=n7")


def test_the_committed_example_is_a_valid_site_file():
    assert read_site(ROOT / "profiles/slurm/site.example.yaml")["partition"] == "gpu"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("acount: x", r"site\.yaml: \$: .*'acount' was unexpected"),
        ("account: 'x; rm -rf /'", r"site\.yaml: \$\.account: .*does not match"),
        (
            "device: a999",
            r"site\.yaml: \$\.device: device 'a999' is not in devices\.yaml; it has cpu-2, a100-80g",
        ),
        ("account: [", r"site\.yaml: not valid YAML"),
    ],
)
def test_an_error_in_the_site_file_names_the_key(tmp_path, text, said):
    (tmp_path / "site.yaml").write_text(text)
    with pytest.raises(ArtifactError, match=said):
        read_site(tmp_path / "site.yaml")


def test_slurms_times():
    assert [minutes(t) for t in ("30", "1:30", "02:00:00", "1-00:00:00", "2-12")] == [
        30,
        1.5,
        120,
        1440,
        3600,
    ]
    assert minutes("UNLIMITED") == float("inf")


def test_a_job_in_the_queue_is_known_by_its_comment(plan):
    comments = {comment_of("smoke", work) for work in planned(plan, "smoke")}
    assert "rule_train_adapter_wildcards_smoke_smollm2-135m_gptq-w3-g64_wikipedia_lora-r2_0" in comments
    assert "rule_compress_model_wildcards_smoke_smollm2-135m_sparsegpt-50_wikipedia" in comments
    assert len(comments) == len(planned(plan, "smoke"))
