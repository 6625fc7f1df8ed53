"""Checkpoints that somebody else compressed: their formats, and their reading to plain float32 weights.

Reading is the work of the library that owns a format; the choice, the checks and the record are this package's. To add
a format: name it in `formats.py`, and give its reader in `reading.py`.
"""
