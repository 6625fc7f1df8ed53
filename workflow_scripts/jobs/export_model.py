"""Write a compressed model as a Hugging Face folder in a format that other programs load, tokenizer included."""

import shutil
import sys
import time
from pathlib import Path

from workflow_scripts.compress.export import export
from workflow_scripts.files import artifacts
from workflow_scripts.files.job import job
from workflow_scripts.files.locks import whole_folder
from workflow_scripts.sources.models import TOKENIZER


def main(model: str, compressed: str, output: str, *, form: str, recipe: str, code: str) -> None:
    """model, compressed: folders. `output`: the export.json in the folder that is written, whole or not at all;
    form: plain, gptq, gptq_v2 or compressed-tensors."""
    started = time.time()
    model, compressed, output = Path(model), Path(compressed), Path(output)
    with whole_folder(output.parent) as folder:
        written = export(model, compressed, form, folder)
        if written["reason"]:
            print(f"Written in {written['dtype']}: {written['reason']}", file=sys.stderr, flush=True)
        for name in TOKENIZER:
            if (model / name).exists():
                shutil.copyfile(model / name, folder / name)
        proof = artifacts.read_json(compressed / "compression.json", schema="compression")
        inputs = {"model": proof["model"]["weights_sha256"], "weights": proof["weights_sha256"]}
        files = {path.name: artifacts.sha256_file(path) for path in sorted(folder.iterdir())}
        manifest = artifacts.manifest(
            recipe=recipe, code=code, config={"form": form}, inputs=inputs, started=started
        )
        record = {"format": form, **written, "model": proof["model"]["name"], "compressor": proof["compressor"],
                  "files": files, "manifest": manifest}  # fmt: skip
        artifacts.write_json(folder / output.name, record, schema="export")


if __name__ == "__main__":
    with job(snakemake):
        main(
            str(Path(snakemake.input.model).parent), str(Path(snakemake.input.compression).parent),
            snakemake.output[0], **snakemake.params.args,
        )  # fmt: skip
