"""Measure how close a cell's attention and activations are to the dense model's, layer by layer (figure 5)."""

from dataclasses import asdict, replace

from workflow_scripts.evaluate.settings import HeldoutText
from workflow_scripts.files import artifacts, locks
from workflow_scripts.files.job import run
from workflow_scripts.files.members import text_of
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.plan.digests import unchanged
from workflow_scripts.recover.model_files import ModelFiles
from workflow_scripts.sources.fetch import recorded_files


def main(
    files: ModelFiles, text: HeldoutText, output: str, cell: dict, method: dict, made: Provenance
) -> None:
    """Write `output`: mean cosines per layer over `text`.

    An IDP chooses each window's prompt on the window before it.
    """
    with locks.hold(output):
        import torch

        from workflow_scripts.evaluate.loading import load_cell
        from workflow_scripts.evaluate.perplexity import require_room, windows_of
        from workflow_scripts.evaluate.scorer import Scorer
        from workflow_scripts.evaluate.similarity import layer_similarities
        from workflow_scripts.kernels.device import chosen_device
        from workflow_scripts.sources.corpora import read_documents
        from workflow_scripts.sources.models import load_dense

        torch.set_num_threads(made.threads)
        device = chosen_device(made.device)
        inputs = files.inputs() | {"corpus": recorded_files(text.corpus)[text_of("heldout")]}
        recovered, tokenizer = load_cell(files, method, cell["seed"], "fp32", device)
        scorer = Scorer(recovered.model, tokenizer, recovered.bank, recovered.selector)
        require_room(scorer, text.length, f"grids.{cell['grid']}.similarity.length")
        documents = read_documents(text.corpus, "heldout")
        windows, _ = windows_of(documents, scorer, text.length, text.windows, text.corpus.name)
        prompts = scorer.select([windows[i - 1] if i else [] for i in range(len(windows))])
        dense = load_dense(files.model, device=device)
        attention, activations = layer_similarities(dense, recovered.model, windows, recovered.bank, prompts)
        config = {"method": method, "windows": text.windows, "length": text.length}
        record = {
            "cell": cell,
            "attention": attention,
            "activations": activations,
            "text": {**asdict(text), "corpus": text.corpus.name},
            "manifest": replace(made, device=str(device)).manifest(config, inputs),
        }
        artifacts.write_json(output, record, "similarity")


if __name__ == "__main__":
    run(main, unchanged("measure_similarity"))
