"""The pipeline's package: one room per idea. ARCHITECTURE.md lists the rooms and their modules."""
