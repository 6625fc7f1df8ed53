"""Make a model, or a checkpoint, whose knowledge of invented people is known: taught, locked, noised, and checked.

A run that was killed continues from its checkpoint under work/. The folder is complete or absent.
"""

import os
from pathlib import Path

import torch

from workflow_scripts.files import artifacts
from workflow_scripts.files.job import Folder, run
from workflow_scripts.files.locks import whole_folder
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.files.work_folders import clear_work, work_folder
from workflow_scripts.kernels.allocator import keep_memory
from workflow_scripts.kernels.device import default_device
from workflow_scripts.plan.digests import unchanged
from workflow_scripts.recover.teaching import check, teach
from workflow_scripts.sources import model_folder, models


def main(base: Folder, manifest: str, details: dict, name: str, spec: dict, made: Provenance) -> None:
    """Fill the folder of `manifest` with the model `base` after the lesson of `spec`.

    details: its note. TeachingError if it did not learn what the lesson says.
    """
    keep_memory()
    torch.set_num_threads(made.threads)
    lesson, folder, device = spec["lesson"], Path(manifest).parent, default_device().type
    taught_on = models.verify(base)
    with whole_folder(folder) as finished:
        key = artifacts.digest([taught_on["files"], lesson, made.code, device, made.threads])
        kept = work_folder(folder, key)
        model, tokenizer = models.load_dense(base, device=device), models.load_tokenizer(base)
        teach(model, tokenizer, lesson, kept)
        found = check(name, model, tokenizer, lesson)
        model.save_pretrained(finished)
        model_folder.place(str(base), base, finished, model_folder.TOKENIZER, link=os.link)
        origin = {"base": lesson["base"], "base_sha256": taught_on["weights_sha256"]}
        origin |= {"lesson": lesson, "right": found}
        about: dict = {
            "name": name,
            "recipe": made.recipe,
            "code": made.code,
            "source": "taught",
            "revision": None,
        }
        about |= {"origin": origin, "remote_code": taught_on["remote_code"], "notes": details.get("note", "")}
        models.seal(finished, about)
    clear_work(folder)


if __name__ == "__main__":
    run(main, unchanged("teach_model"))
