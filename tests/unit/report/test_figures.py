"""Every figure draws a full grid, names what a poor grid lacks, keeps text as text and repeats its bytes."""

import copy
from dataclasses import replace

import pytest
from matplotlib.collections import LineCollection
from matplotlib.layout_engine import ConstrainedLayoutEngine

from tests.unit.synthetic_results import data_of as judged_data
from tests.unit.synthetic_results import study, write_grid
from workflow_scripts.files.artifacts import check
from workflow_scripts.judge.results import read_results
from workflow_scripts.plan.layout import Group
from workflow_scripts.report.figure_pareto import Setting, front, settings
from workflow_scripts.report.figure_style import FAMILIES, save, use_style
from workflow_scripts.report.figures import FIGURES, draw
from workflow_scripts.report.figures_measured import latency, method_style
from workflow_scripts.report.svg import notes_of

GAINS = {"lora-r4": 0.1, "prompt-50": 0.05, "prompt-100": 0.06, "ptune-50": -0.02, "idp-50-100": 0.1}
TRAINING = {
    "method": {"kind": "lora"},
    "training": {},
    "tokens_seen": 10,
    "steps": 2,
    "micro_batch": 1,
    "loss_curve": [[5, 4.0], [10, 3.5]],
    "heldout_loss": {"base": 4.0, "before": 4.0, "after": 3.6},
    "parameters": {"trainable": 1, "paper_formula": 1},
    "seconds": 1.0,
    "peak_memory_mb": 1,
    "base_sha256": "0",
    "adapter_sha256": "0",
    "manifest": {},
}
SIMILARITY = {
    "cell": {
        "grid": "synthetic",
        "model": "llama-7b",
        "compressor": "gptq-w3",
        "corpus": "wikipedia",
        "method": "lora-r4",
        "seed": 0,
    },
    "attention": [0.99, 0.97, 0.9],
    "activations": [0.999, 0.98, 0.95],
    "text": {"corpus": "wikipedia", "windows": 1, "length": 8},
    "manifest": {},
}


def timing(method, variant, seconds, token=None):
    def spread(median):
        return median and {"median": median, "low": 0.9 * median, "high": 1.1 * median}

    return {
        "method": method,
        "variant": variant,
        "prefill": spread(seconds),
        "prefill_ratio": spread(seconds),
        "token": spread(token),
        "token_ratio": spread(token),
    }


LATENCY = {
    "place": {
        "grid": "synthetic",
        "model": "llama-7b",
        "compressor": "gptq-w3",
        "corpus": "wikipedia",
        "seed": 0,
    },
    "shape": {"batch": 16, "sequence": 1024, "generate": 8, "repeats": 3, "precision": "fp32"},
    "latencies": [
        timing("none", "none", 1.0, 0.1),
        timing("prompt-100", "prompt", 1.1, 0.1),
        timing("prompt-100", "prompt_cached", 1.05, 0.1),
        timing("ptune-50", "prefix", 1.05, 0.1),
        timing("idp-50-100", "idp", 1.2, 0.1),
        timing("idp-50-100", "idp_mixed", 1.3, 0.1)
        | {
            "shares": {"prompt-50": 0.5, "prompt-100": 0.5},
            "cached_ratio": {"prompt-50": {"median": 1.2, "low": 1.1, "high": 1.3}},
        },
        timing("lora-r4", "lora", 1.4, 0.12),
        timing("lora-r4", "lora_merged", 1.0),
    ],
    "manifest": {"device": "made-up device"},
}


def data_of(folder, truth, skip=(), **measured):
    return judged_data(read_results(write_grid(folder, truth, 12, skip=skip)), 100, **measured)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    truth = study("llama-7b", GAINS, losses={"gptq-w3": 0.2, "sparsegpt-50": 0.1}, control=False)
    truth |= {
        ("llama-7b", "gptq-w4", "wikipedia", "none", 0): 0.6,
        ("llama-7b", "rtn-w3", "none", "none", 0): 0.4,
    }
    path = "results/synthetic/adapters/llama-7b/gptq-w3/wikipedia/lora-r4/seed-0/training.json"
    compressed = "results/synthetic/compressed/llama-7b"
    lost = {("llama-7b", "sparsegpt-50", "wikipedia", "ptune-50", 0)}
    return data_of(
        tmp_path_factory.mktemp("grid"),
        truth,
        lost,
        training={path: TRAINING},
        compression={
            f"{compressed}/dense/none/seed-0/compression.json": {
                "bytes_on_disk": 4e8,
                "effective_bits": 32.0,
            },
            f"{compressed}/gptq-w3/wikipedia/seed-0/compression.json": {
                "bytes_on_disk": 4e7,
                "effective_bits": 3.2,
            },
        },
        similarity={"similarity.json": SIMILARITY},
        latency={"latency.json": LATENCY},
    )


@pytest.fixture(scope="module")
def poor(tmp_path_factory):
    return data_of(tmp_path_factory.mktemp("poor"), {("m", "dense", "none", "none", 0): 0.7})


def svg(name, data, folder):
    draw(name, data, [str(folder / f"{name}.svg"), str(folder / f"{name}.pdf")])
    assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    return (folder / f"{name}.svg").read_text()


SAYS = {
    "figure1": ["bits per weight", "zero weights", "gptq (wikipedia)", "Hollow marks", "dense"],
    "figure2": ["held-out perplexity (windowed, per token", "none", "100"],
    "figure3": ["Encode once", "Score at the first layer", "Keep the winner"],
    "figure4": ["parameters added", "LoRA", "IDP"],
    "figure5": ["cosine similarity to dense", "token activations", "lora-r4"],
    "figure6": ["mean of its prompts"],
    "figure7": ["prompt-50 alone", "idp-50-100", "Average", "winogrande"],
    "gains": ["gain g on the compressed model", "lost by compression", "points of accuracy", "idp-50-100"],
    "pareto": [
        "parameters added",
        "forward pass (s)",
        "1 dense",
        "Numbered and named below",
        "dense model's at 16 bits",
    ],
    "training": ["training tokens", "lora-r4"],
    "latency": [
        "seconds per forward pass",
        "lora-r4, merged",
        "idp-50-100, rows mixed",
        "served rows with",
        "×1.40",
        "made-up device",
    ],
}


@pytest.mark.parametrize("name", SAYS)
def test_a_figure_of_a_full_grid(name, full, tmp_path):
    text = svg(name, full, tmp_path)
    assert all(words in text for words in SAYS[name])  # text is text, not outlines
    assert "<dc:date>" not in text


def test_the_made_up_measurements_fit_their_schemas():
    check(SIMILARITY, "similarity", "similarity.json")
    check(LATENCY, "latency", "latency.json")
    check(TRAINING, "training", "training.json")


@pytest.mark.parametrize(
    ("coverage", "said"),
    [
        (0.9609375, "Medians with 95 % intervals (order statistics, covering 96.1 %);"),
        (0.75, "Medians with the range of all rounds, which covers the true median at 75.0 %;"),
        (None, "Medians with percentile bootstrap intervals, which on few rounds cover less than 95 %;"),
    ],
)
def test_latency_says_what_its_intervals_cover(full, coverage, said):
    record = copy.deepcopy(LATENCY)
    for entry in record["latencies"]:
        entry["prefill"] |= {"coverage": coverage} if coverage else {}
    figure = latency(replace(full, measured={"latency": {"latency.json": record}}), "A title")
    assert str(figure.get_label()).startswith(said)


@pytest.mark.parametrize(("name", "kind"), [("figure5", "similarity"), ("latency", "latency")])
def test_a_planned_measurement_that_was_not_run_is_not_called_unplanned(name, kind, poor, tmp_path):
    text = svg(name, replace(poor, planned={kind: 8}), tmp_path)
    assert f"a {kind} measurement (8 planned" in text and f"grids.synthetic.{kind}" in text
    assert "Not in this grid" not in text


@pytest.mark.parametrize(("name", "kind"), [("figure5", "similarity"), ("latency", "latency")])
def test_a_part_of_the_planned_measurements_says_so(name, kind, full, tmp_path):
    assert "1 of 4 planned measurements exist." in svg(name, replace(full, planned={kind: 4}), tmp_path)
    assert "planned measurements" not in svg(name, replace(full, planned={kind: 1}), tmp_path)


def test_every_figure_is_tested():
    assert set(SAYS) == set(FIGURES)


@pytest.mark.parametrize("name", [name for name in SAYS if name != "figure3"])
def test_a_grid_that_lacks_what_a_figure_shows(name, poor, tmp_path):
    assert "Not in this grid" in svg(name, poor, tmp_path)


@pytest.mark.parametrize("name", [name for name in SAYS if name != "figure3"])
def test_a_figure_without_its_cells_names_them(name, tmp_path):
    truth = study("m", {"prompt-50": 0.1, "idp-50-100": 0.1})
    text = svg(name, data_of(tmp_path, truth, skip={c for c in truth if c[1] == "gptq-w3"}), tmp_path)
    assert "Nothing to draw so far" in text and "Not in this grid" not in text
    assert "m / gptq-w3 / wikipedia (3)" in text
    assert notes_of(tmp_path / f"{name}.svg") is None  # the page leaves it out


def test_the_notes_of_a_figure_stand_in_its_file_and_not_in_the_drawing(full, tmp_path):
    """They are the page's one caption; a command is nowhere in it."""
    text = svg("figure4", full, tmp_path)
    said = notes_of(tmp_path / "figure4.svg")
    assert said.startswith("Intervals: 95 %, bootstrap over items. Methods share their items")
    assert text.count("bootstrap over items") == 1 and "snakemake" not in text
    assert full.results.missing and "planned cells" not in text  # the page says it once
    assert b"bootstrap over items" in (tmp_path / "figure4.pdf").read_bytes()


def test_wider_intervals_of_methods_with_several_replicates_are_explained(full, tmp_path):
    """Over copies too they are wider than those of a method with one: more evidence must not look like less."""
    truth = study("m", {"lora-r4": 0.1, "prompt-50": 0.05})
    truth |= {(*place[:4], 1): value for place, value in truth.items() if place[3] == "lora-r4"}
    svg("figure4", data_of(tmp_path, truth), tmp_path)
    also = "; of lora-r4 (gptq-w3, wikipedia) over replicates too, which makes these wider, not worse. "
    assert notes_of(tmp_path / "figure4.svg").startswith(
        f"Intervals: 95 %, bootstrap over items{also}Methods"
    )
    for name in ("figure1", "figure2", "figure6", "pareto"):
        svg(name, full, tmp_path)
        assert "Intervals: 95 %, bootstrap over items. " in notes_of(tmp_path / f"{name}.svg")


@pytest.mark.parametrize("name", ["figure1", "figure4", "figure5", "figure6", "pareto", "training"])
def test_the_panels_of_a_row_have_equal_y_axes(name, full):
    panels = [axes for axes in FIGURES[name][0](full, "").axes if axes.axison]
    rows = {}
    for axes in panels:
        rows.setdefault(axes.get_subplotspec().rowspan.start, set()).add(axes.get_ylim())
    assert rows and all(len(limits) == 1 for limits in rows.values())


def test_figure_1_shows_the_bits_that_a_model_stores_and_else_those_that_its_setting_names(full):
    quantised = FIGURES["figure1"][0](full, "").axes[0]
    at = {x for line in quantised.lines if len(line.get_xdata()) == 1 for x in line.get_xdata()}
    assert {3.2, 4.0} <= at and "overhead included" in quantised.get_xlabel()


def test_reference_lines_are_named_beside_the_frame(full):
    axes = FIGURES["figure4"][0](full, "").axes[0]
    assert {"dense", "compressed"} <= {text.get_text() for text in axes.texts}
    assert not axes.patches  # no band without a name


def test_training_curves_are_smoothed_over_faint_ones(full):
    losses = [4.0, 5.0, 3.0, 4.5, 3.5, 4.0, 3.0]
    record = TRAINING | {"loss_curve": [[n, loss] for n, loss in enumerate(losses)]}
    (path,) = full.records("training")
    axes = FIGURES["training"][0](replace(full, measured={"training": {path: record}}), "").axes[0]
    raw, smooth, _ = axes.lines
    assert list(raw.get_ydata()) == losses and raw.get_alpha() < 0.5
    assert smooth.get_ydata()[3] == pytest.approx(sum(losses[1:6]) / 5) and smooth.get_alpha() is None


def test_a_sweep_whose_cells_are_still_to_come_is_not_said_to_be_outside_the_grid(tmp_path):
    truth = study("m", {}, losses={"gptq-w3": 0.2, "sparsegpt-50": 0.1})
    text = svg(
        "figure1", data_of(tmp_path, truth, skip={c for c in truth if c[1] == "sparsegpt-50"}), tmp_path
    )
    assert "no cell of a sparsity sweep" in text and "so far" in text


def test_models_of_no_known_bits_or_sparsity_have_no_figure_1(tmp_path):
    """Checkpoints of others and pruned layers: the page leaves such a figure out."""
    data = data_of(tmp_path, study("m", GAINS))
    compressors = data.compressors | {"gptq-w3": {"algorithm": "external"}}
    figure = FIGURES["figure1"][0](replace(data, compressors=compressors), "")
    assert len(figure.axes) == 1 and "of known bits or sparsity" in figure.axes[0].texts[1].get_text()


def test_the_legend_of_one_panel_is_not_cut_off(tmp_path):
    data = data_of(tmp_path, study("m", GAINS))
    figure = FIGURES["figure4"][0](data, "")
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width


def test_the_same_data_give_the_same_bytes(full, tmp_path):
    for folder in ("a", "b"):
        draw("figure4", full, [str(tmp_path / folder / f"f.{kind}") for kind in ("svg", "pdf")])
    for kind in ("svg", "pdf"):
        assert (tmp_path / "a" / f"f.{kind}").read_bytes() == (tmp_path / "b" / f"f.{kind}").read_bytes()


class Nudged(ConstrainedLayoutEngine):
    """Constrained layout as another processor solves it: other last digits."""

    def execute(self, fig):
        super().execute(fig)
        for axes in fig.axes:
            axes._set_position([edge + 1e-13 for edge in axes.get_position(original=True).bounds])


def test_the_last_digits_of_the_layout_do_not_change_the_bytes(full, tmp_path):
    use_style()
    for name, engine in (("a", ConstrainedLayoutEngine()), ("b", Nudged())):
        figure = FIGURES["figure4"][0](full, "")
        figure.set_layout_engine(engine)
        save(figure, [str(tmp_path / f"{name}.svg")], "")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_mean_over_fewer_tasks_is_no_point(full):
    group = Group("llama-7b", "gptq-w3", "wikipedia")
    judged = next(g for g in full.verdict["groups"] if g["compressor"] == "gptq-w3")
    assert full.average(group, "lora-r4")["value"] > 0
    judged["metrics"]["accuracy_all_tasks"]["absent_tasks"] = ["piqa"]
    assert full.average(group, "lora-r4") is None
    judged["metrics"]["accuracy_all_tasks"]["absent_tasks"] = []


def test_the_front_holds_what_nothing_cheaper_equals():
    def setting(label, cost, accuracy):
        return Setting(label, "none", {"value": accuracy}, cost, None, None)

    found = [
        setting("a", 3, 50),
        setting("b", 1, 40),
        setting("c", 2, 40),
        setting("d", 1, 39),
        setting("e", 4, 60),
    ]
    assert [s.label for s in front(found, "parameters")] == ["b", "a", "e"]


def test_the_pareto_view_adds_the_adapter_and_falls_back_to_the_dense_times(full):
    found = {s.label: s for s in settings(full, "llama-7b")}
    lora = found["gptq-w3 wikipedia lora-r4"]
    assert lora.megabytes == pytest.approx(40 + 4 * 1.22)
    assert found["dense"].megabytes == 200  # at 16 bits, as sparse values are stored, not the source's 32
    assert lora.seconds == 1.0  # merged, the faster of the two ways
    assert found["gptq-w3 wikipedia prompt-100"].seconds == 1.05
    assert found["sparsegpt-50 wikipedia lora-r4"].megabytes is None
    # Neither timed here nor on the dense model.
    assert found["sparsegpt-50 wikipedia lora-r4"].seconds is None
    assert [label for label in found if label == "dense"] == ["dense"]


def test_lines_differ_without_colour_and_within_a_family(full):
    few = method_style(full, ["lora-r4", "prompt-50", "prompt-100", "ptune-50"])
    assert len({style for *_, style in few.values()}) == 4
    many = method_style(full, ["lora-r2", "prompt-50", "prompt-100", "ptune-50", "lora-r4", "prompt-26"])
    assert many["lora-r2"] != many["lora-r4"]
    assert len({many[f"prompt-{n}"] for n in (26, 50, 100)}) == 3


def test_an_interval_is_seen_inside_a_dark_bar(full):
    """Ink on a dark bar is lost in grey: a light halo, wider than the line, parts them."""
    axes = FIGURES["figure7"][0](full, "").axes[0]
    intervals = [drawn for drawn in axes.collections if isinstance(drawn, LineCollection)]
    assert intervals
    for drawn in intervals:
        halo = drawn.get_path_effects()[0]._gc
        assert halo["foreground"] == "white" and halo["linewidth"] > 2 * drawn.get_linewidth()[0]


def test_only_a_grid_with_printed_values_speaks_of_hollow_marks(full, tmp_path):
    assert "Hollow" in svg("figure4", full, tmp_path)
    other = data_of(tmp_path / "other", study("m", GAINS))
    assert "ollow" not in svg("figure4", other, tmp_path) + FIGURES["figure4"][0].__doc__


def test_families_differ_in_colour_and_in_marker_or_hatch():
    looks = list(FAMILIES.values())
    assert len({colour for _, colour, _, _ in looks}) == len(looks)
    assert len({(marker, hatch) for _, _, marker, hatch in looks}) == len(looks)
