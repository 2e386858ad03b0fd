"""How far outputs are from a reference: the one definition of max, mean, cosine and SQNR."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgekit_runtime.errors import InputError
from edgekit_runtime.manifest import Distance


def measure(output: str, values: Any, reference: Any) -> Distance:
    """The distance of real `values` from real `reference`, arrays of one shape, over all of their elements.

    `cosine = v.r / (|v| |r|)`, 1 when both are all zero and 0 when one is; `sqnr_db = 10 log10(sum r^2 /
    sum (v - r)^2)`, None when there is no error, and 0 dB for an error over a reference of nothing.
    Raises InputError for other shapes, and for values that are not finite.
    """
    got = np.asarray(values, dtype=np.float64)
    wanted = np.asarray(reference, dtype=np.float64)
    if got.shape != wanted.shape or not got.size:
        raise InputError(f"output '{output}' has shape {list(got.shape)}, its reference {list(wanted.shape)}")
    if not (np.isfinite(got).all() and np.isfinite(wanted).all()):
        raise InputError(f"output '{output}' has values that are not finite")
    error = got - wanted
    noise, signal, power = (float(np.square(part).sum()) for part in (error, wanted, got))
    if signal > 0 and power > 0:
        cosine = float((got * wanted).sum() / math.sqrt(signal) / math.sqrt(power))
    else:
        cosine = 1.0 if signal == power else 0.0
    sqnr = None
    if noise > 0:
        sqnr = 10 * math.log10(signal / noise) if signal > 0 else 0.0
    return Distance(output, float(np.abs(error).max()), float(np.abs(error).mean()), max(-1.0, min(1.0, cosine)), sqnr)
