"""The report's first view: cards, headline figure, one link; lines that reStructuredText takes; frames of any size."""

import re

import pytest
from docutils.core import publish_parts

from tests.unit.synthetic_results import data_of, study, write_grid
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.judge.results import read_results
from workflow_scripts.report.landing import landing, style, with_frames

HOSTILE = "</script><script>window.hacked=1</script>"


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    folder = tmp_path_factory.mktemp("landing")
    truth = study("m", {"lora-r4": 0.1, "idp-50-100": 0.1}, losses={"gptq-w3": 0.2, "sparsegpt-50": 0.1})
    figure = folder / "figure4.svg"
    figure.write_text(f"<svg>{'x' * 50_000}</svg>")
    results = read_results(write_grid(folder, truth, 12))
    return landing(data_of(results, 60).verdict, HOSTILE, figure, "results/synthetic/overview.html")


def test_a_card_for_each_verdict_the_figure_and_a_link_to_the_whole_page(view):
    places = re.findall('<p class="place"><span>(.*?)</span> <span>(.*?)</span>', view)
    assert [place for place, _ in places] == ["m · gptq-w3 · wikipedia", "m · sparsegpt-50 · wikipedia"]
    assert all(re.fullmatch(r"\d+ items of \d tasks, 1 replicate", basis) for _, basis in places)
    assert view.count("Lost by compression: L = ") == 2 and view.count("brought back R") == 2
    assert 'data-page="results/synthetic/overview.html"' in view and view.count("<img") == 1


def test_no_text_of_the_configuration_is_code(view):
    assert HOSTILE not in view and "&lt;/script&gt;" in view


def test_docutils_passes_the_view_on_whole(view):
    """Of a line above 10,000 characters it makes an error, of a blank one the directive's end."""
    indented = "".join(f"    {line}\n" for line in view.splitlines())
    html = publish_parts(f".. raw:: html\n\n{indented}", writer_name="html")["html_body"]
    assert "system-message" not in html and view.strip() in html


def test_snakemakes_report_gets_the_script_and_one_that_is_cut_off_is_an_error():
    page = with_frames("<html><body>the report</body></html>")
    assert page.startswith("<html><body>the report<script>") and page.endswith("</script></body></html>")
    assert "createObjectURL" in page
    with pytest.raises(ArtifactError, match="no whole HTML page"):
        with_frames("<html><body>the rep")


def test_the_style_closes_no_element():
    assert "</" not in style() and ".landing" in style() and ".card" in style()
