"""compressors: the schema's algorithms are those that the package runs."""

from typing import get_args

from workflow_scripts.plan.schema.compressors import AnyCompressor, Uncalibrated


def test_a_load_knows_the_algorithms_that_a_configuration_may_name():
    from workflow_scripts.compress.settings import ALGORITHMS, CALIBRATED, WHOLE

    union, _ = get_args(AnyCompressor)
    kinds = {get_args(kind.model_fields["algorithm"].annotation)[0]: kind for kind in get_args(union)}
    assert sorted(ALGORITHMS) == sorted(kinds)
    calibrated = [name for name, kind in kinds.items() if not issubclass(kind, Uncalibrated)]
    assert sorted(CALIBRATED) == sorted(calibrated)
    assert sorted(WHOLE) == sorted(name for name, kind in kinds.items() if kind.whole)
