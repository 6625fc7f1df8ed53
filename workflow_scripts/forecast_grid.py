"""`make forecast GRID=paper`: jobs, hours, disk and memory of a grid before it runs."""

import argparse
import sys

from workflow_scripts.analyze.forecast import foreseen, summary
from workflow_scripts.config import ConfigError, load, read
from workflow_scripts.grid import Plan


def main(configfiles: list[str], grid: str, device: str | None = None, price: float | None = None) -> int:
    """Print the forecast, for the grid's own device if none is named; returns 1 with a clear line for an unknown grid
    or device."""
    try:
        plan = Plan(load(read(*configfiles)))
        if grid not in plan.config["grids"]:
            names = ", ".join(plan.config["grids"])
            raise KeyError(f"grid '{grid}' is not in {' or '.join(map(str, configfiles))}; there are {names}")
        expected = foreseen(plan, grid, device)
    except (ConfigError, KeyError, OSError) as error:
        print(error.args[0] if isinstance(error, KeyError) else error, file=sys.stderr)
        return 1
    print(f"Forecast of grid '{grid}': {len(plan.cells(grid))} cells, {len(plan.adapters(grid))} adapters")
    print("\n".join(summary(expected.costs, expected.device, price)))
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grid", default="paper")
    parser.add_argument("--device", help="a device of analyze/devices.yaml; the grid's own if not given")
    parser.add_argument("--price", type=float, help="per device hour")
    parser.add_argument("--configfile", nargs="+", default=[], help="read over config.yaml")
    arguments = parser.parse_args()
    files = ["config.yaml", *arguments.configfile]
    sys.exit(main(files, arguments.grid, arguments.device, arguments.price))
