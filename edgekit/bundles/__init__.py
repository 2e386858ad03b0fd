"""Bundles: one deterministic file that holds a release, its writer and its strict reader."""
