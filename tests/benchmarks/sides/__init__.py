"""Sides: what a child process runs. Each module has `build`, and imports one library alone."""
