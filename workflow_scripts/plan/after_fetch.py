"""Check the configuration again as soon as a model is fetched: its folder may rule out what grids ask of it.

No result depends on this module: it is in no recipe of a model (plan/recipes.py).
"""

from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.plan.config import ConfigError, load


def check(config: dict, model: str) -> None:
    """ArtifactError with everything that no cell could do with the fetched model; the run stops before any of it."""
    try:
        load(config)
    except ConfigError as error:
        raise ArtifactError(f"{model} was fetched, and it cannot run the configuration: {error}") from error
