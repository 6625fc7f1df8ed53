"""Implementations of compression. The setting `engine` of a compressor names one, and only that one is loaded."""
