"""Conversion: a source model to full INT8 TFLite, with the record of how it was made."""
