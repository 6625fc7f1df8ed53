"""Write a compressed model as a Hugging Face folder in a format that other programs load, tokenizer included."""

import shutil
from pathlib import Path

from workflow_scripts.compress.export import export
from workflow_scripts.files import artifacts
from workflow_scripts.files.job import Folder, log, run
from workflow_scripts.files.locks import whole_folder
from workflow_scripts.files.members import COMPRESSION
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.files.source_files import TOKENIZER
from workflow_scripts.plan.digests import unchanged


def main(model: Folder, compressed: Folder, output: str, form: str, made: Provenance) -> None:
    """`output`: the export.json in the folder that is written, whole or not at all; form: plain, gptq, gptq_v2 or
    compressed-tensors."""
    with whole_folder(Path(output).parent) as folder:
        written = export(model, compressed, form, folder)
        if written["reason"]:
            log(f"Written in {written['dtype']}: {written['reason']}")
        for name in TOKENIZER:
            if (model / name).exists():
                shutil.copyfile(model / name, folder / name)
        proof = artifacts.read_json(compressed / COMPRESSION, schema="compression")
        inputs = {"model": proof["model"]["weights_sha256"], "weights": proof["weights_sha256"]}
        record = {
            "format": form,
            **written,
            "model": proof["model"]["name"],
            "compressor": proof["compressor"],
            "files": {path.name: artifacts.sha256_file(path) for path in sorted(folder.iterdir())},
            "manifest": made.manifest({"form": form}, inputs),
        }
        artifacts.write_json(folder / Path(output).name, record, schema="export")


if __name__ == "__main__":
    run(main, unchanged("export_model"))
