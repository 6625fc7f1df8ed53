"""repair: the stand-in for a wrong part is one that its type accepts."""

import types

from workflow_scripts.plan.schema import compressors, configuration, grids, methods, repair, sources
from workflow_scripts.plan.schema.problems import json_schema


def test_every_part_of_the_schema_has_a_smallest_value_that_its_type_accepts():
    root = json_schema()
    for name, rule in root["$defs"].items():
        getattr(repair_kinds(), name).model_validate(repair.smallest(rule, root))


def repair_kinds():
    """A namespace with every type of the configuration."""
    kinds = types.SimpleNamespace()
    for module in (compressors, configuration, grids, methods, sources):
        vars(kinds).update({key: kind for key, kind in vars(module).items() if isinstance(kind, type)})
    return kinds
