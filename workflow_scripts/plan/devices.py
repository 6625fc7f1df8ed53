"""The constants of devices on which costs are forecast (devices.yaml)."""

import functools
from pathlib import Path

import yaml

DEVICES = Path(__file__).with_name("devices.yaml")


@functools.cache
def device_table() -> dict:
    """{devices: {name: constants}, tasks: {name: sizes}}, as the file has it; read once, to be read alone."""
    return yaml.safe_load(DEVICES.read_text(encoding="utf-8"))
