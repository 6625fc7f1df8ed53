"""`make forecast GRID=paper`: jobs, hours, disk and memory of a grid before it runs."""

import sys

from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.plan.config import ConfigError, files
from workflow_scripts.plan.forecast import foreseen, summary
from workflow_scripts.plan.recipes import grid_arguments, plan_of


def main(
    configfiles: list[str], grid: str, device: str | None = None, price: float | None = None,
    blocks: list[str] | None = None,
) -> int:  # fmt: skip
    """Print the forecast, for the grid's own device if none is named; returns 1 with a clear line for an unknown grid,
    block or device."""
    try:
        plan = plan_of(configfiles, grid, blocks)
        expected = foreseen(plan, grid, device)
    except (ConfigError, ArtifactError, KeyError, OSError) as error:
        print(error.args[0] if isinstance(error, KeyError) else error, file=sys.stderr)
        return 1
    print(f"Forecast of grid '{grid}': {len(plan.cells(grid))} cells, {len(plan.adapters(grid))} adapters")
    print("\n".join(summary(expected.costs, expected.device, price)))
    return 0


if __name__ == "__main__":
    parser = grid_arguments(__doc__, "paper")
    parser.add_argument("--device", help="a device of plan/devices.yaml; the grid's own if not given")
    parser.add_argument("--price", type=float, help="per device hour")
    arguments = parser.parse_args()
    configfiles = files(*arguments.configfile)
    sys.exit(main(configfiles, arguments.grid, arguments.device, arguments.price, arguments.blocks))
