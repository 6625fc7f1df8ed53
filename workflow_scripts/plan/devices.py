"""The constants of devices on which costs are forecast (devices.yaml)."""

from pathlib import Path

import yaml

DEVICES = Path(__file__).with_name("devices.yaml")


def device_table() -> dict:
    """{devices: {name: constants}, tasks: {name: sizes}}, as the file has it."""
    return yaml.safe_load(DEVICES.read_text(encoding="utf-8"))
