"""The configuration as types: every key with its description, unit, allowed values and default. Defaults stand here and
nowhere else; the reference page of the configuration is made from these classes."""
