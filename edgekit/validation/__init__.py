"""Validation: float against INT8 on the same inputs, through the Engine that ships."""
