"""Read the configuration: files, types, and errors that say what to change. Never imports torch."""

from collections.abc import Iterable
from pathlib import Path

import yaml
from pydantic import ValidationError

from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.files.yaml_text import read_yaml
from workflow_scripts.plan import model_limits
from workflow_scripts.plan.names import listed
from workflow_scripts.plan.schema import meaning, repair
from workflow_scripts.plan.schema.configuration import Config
from workflow_scripts.plan.schema.problems import MOST, of_keys, of_types

# Rounds of repair of wrong types: mistakes in the keys of an entry show only once its type is known.
REPAIRS = 4
CATALOGUE = ("config/sources.yaml", "config/compressors.yaml", "config/methods.yaml")
OWN = (*CATALOGUE, "config.yaml")  # read in this order, as the Snakefile does


class ConfigError(ValueError):
    """Every problem of a configuration, one per line: key path, value, what is allowed, nearest name."""


def files(*named: object, root: Path = Path()) -> list[Path]:
    """The workflow's own configuration files below `root`, then the named ones, which are read over them."""
    return [*(root / name for name in OWN), *(Path(str(name)) for name in named)]


def named_files(configfiles: Iterable[object]) -> list[str]:
    """The files that --configfile named, as a command in this folder names them; the workflow's own are left out."""
    here = Path.cwd()
    paths = [Path(str(file)).absolute() for file in configfiles]
    return [
        str(path.relative_to(here) if path.is_relative_to(here) else path)
        for path in paths
        if path not in files(root=here)
    ]


def read(*paths: object, over: dict | None = None) -> dict:
    """The YAML files, and `over` them further values, as one configuration.

    They are merged as Snakemake merges its configfiles: mappings key by key, everything else is replaced by the later
    file's value. ConfigError for a file that can't be read or holds no mapping.
    """
    from snakemake.utils import update_config

    config: dict = {}
    for file in paths:
        try:
            part = read_yaml(str(file))
        except ArtifactError as error:
            raise ConfigError(str(error)) from error
        if not isinstance(part, dict):
            raise ConfigError(f"{file}: holds no mapping of keys to values")
        update_config(config, part)
    update_config(config, over or {})
    return config


def write_complete(config: dict, folder: Path) -> None:
    """Write a complete configuration as the one of a workflow in `folder`: its catalogue adds nothing."""
    *catalogue, own = files(root=folder)
    for file in catalogue:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}\n", encoding="utf-8")
    own.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def load(config: dict) -> Config:
    """The configuration, checked and with its defaults; ConfigError with every problem found."""
    if config.get("partial") in ("true", "false"):  # what `--config partial=true` delivers
        config = config | {"partial": config["partial"] == "true"}
    if isinstance(config.get("blocks"), str):  # of `--config blocks=core`
        config = config | {"blocks": [config["blocks"]]}
    if problems := of_keys(config):
        raise ConfigError(_lines(problems))
    try:
        checked = Config.model_validate(config)
    except ValidationError as error:
        raise ConfigError(_lines(_all_problems(error, config))) from None
    if problems := _of_meaning(checked):
        raise ConfigError(_lines(problems))
    return checked


def _of_meaning(config: Config) -> list[str]:
    return meaning.problems(config) or model_limits.of_grid(config)


def _all_problems(error: ValidationError, config: dict) -> list[str]:
    """The mistakes that types find, and those that show once these are repaired."""
    problems, changed = of_types(error, config), []
    for _ in range(REPAIRS if error.error_count() <= MOST else 0):
        config, paths = repair.repaired(error, config)
        changed += paths
        try:
            return problems + repair.untouched(_of_meaning(Config.model_validate(config)), changed)
        except ValidationError as found:
            error = found
            problems += repair.untouched(of_types(error, config), changed)
    return problems


def _lines(problems: list[str]) -> str:
    """The problems, a line each; those that say the same of keys of one name (an anchor hands a value on) as one."""
    places: dict[tuple, list[str]] = {}
    for problem in problems:
        key, _, text = problem.partition(": ")
        places.setdefault((key.rpartition(".")[2], text), []).append(key)
    lines = []
    for (_, text), keys in places.items():
        first, *more = sorted(keys)
        also = f" (the same in {len(more)} more: {listed(more, 6)})" if more else ""
        lines.append(f"{first}: {text}{also}")
    return "\n".join(sorted(lines))
