"""The documentation: its commands run, its configuration loads, its reference is complete."""
