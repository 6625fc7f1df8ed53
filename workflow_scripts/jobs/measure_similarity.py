"""Measure how close a cell's attention and activations are to the dense model's, layer by layer (figure 5)."""

import time
from pathlib import Path

from workflow_scripts.files import artifacts, locks
from workflow_scripts.files.job import job


def main(
    model: str, compressed: str, adapters: list[str], corpus: str, output: str, *,
    cell: dict, method: dict, windows: int, length: int, recipe: str, code: str, threads: int = 1,
    device: str | None = None,
) -> None:  # fmt: skip
    """Write `output`: mean cosines per layer over the corpus' first held-out windows.

    model, compressed, adapters, corpus: folders. An IDP chooses each window's prompt on the window before it.
    """
    started = time.time()
    with locks.hold(output):
        import torch

        from workflow_scripts.evaluate.loading import CellFiles, load_cell
        from workflow_scripts.evaluate.perplexity import heldout_windows, require_room
        from workflow_scripts.evaluate.scorer import Scorer
        from workflow_scripts.evaluate.similarity import layer_similarities
        from workflow_scripts.kernels.device import default_device
        from workflow_scripts.sources.corpora import read_documents
        from workflow_scripts.sources.models import load_dense

        torch.set_num_threads(threads)
        target = torch.device(device) if device else default_device()
        files = CellFiles(Path(model), Path(compressed), [Path(adapter) for adapter in adapters])
        inputs = files.inputs() | {
            "corpus": artifacts.read_json(Path(corpus) / "manifest.json")["files"]["heldout.jsonl"]
        }
        trained_on = Path(model).parents[1] / "corpora" / cell["corpus"]
        recovered, tokenizer = load_cell(files, method, cell["seed"], "fp32", target, trained_on)
        scorer = Scorer(recovered.model, tokenizer, recovered.bank, recovered.selector)
        require_room(scorer, length, f"grids.{cell['grid']}.similarity.length")
        text = heldout_windows(
            read_documents(Path(corpus), "heldout"), scorer, length, windows, Path(corpus).name
        )
        prompts = scorer.select([text[i - 1] if i else [] for i in range(len(text))])
        dense = load_dense(model, device=target)
        attention, activations = layer_similarities(dense, recovered.model, text, recovered.bank, prompts)
        record = {
            "cell": cell,
            "attention": attention,
            "activations": activations,
            "text": {"corpus": Path(corpus).name, "windows": windows, "length": length},
            "manifest": artifacts.manifest(
                recipe=recipe, code=code, config={"method": method, "windows": windows, "length": length},
                inputs=inputs, seed=cell["seed"], device=str(target), threads=threads, started=started,
            ),
        }  # fmt: skip
        artifacts.write_json(output, record, "similarity")


if __name__ == "__main__":
    with job(snakemake):
        main(
            str(Path(snakemake.input.model).parent), str(Path(snakemake.input.compression).parent),
            [str(Path(file).parent) for file in snakemake.input.adapters], str(Path(snakemake.input.corpus).parent),
            snakemake.output.similarity, cell={**dict(snakemake.wildcards), "seed": int(snakemake.wildcards.seed)},
            threads=snakemake.threads, **snakemake.params.args,
        )  # fmt: skip
