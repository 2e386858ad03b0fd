"""Emulated ARM boards: how one is built, run and stopped. Standard library and edgekit_runtime's errors only."""
