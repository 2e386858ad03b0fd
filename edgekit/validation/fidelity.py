"""How far quantised outputs are from float outputs, added up sample by sample in float64."""

import math
from typing import Any

import numpy as np
from edgekit_runtime.manifest import Distance
from numpy.typing import NDArray

# A stand-in for minus infinity: an output that should be all zero and is not.
LOWEST_SQNR_DB = -200.0


class Fidelity:
    """Adds up one output over samples; memory does not grow with their number."""

    def __init__(self, output: str) -> None:
        self.output = output
        self._values = 0
        self._float_energy = 0.0
        self._int8_energy = 0.0
        self._product = 0.0
        self._error_energy = 0.0
        self._error_sum = 0.0
        self._error_max = 0.0

    def add(self, reference: NDArray[Any], quantised: NDArray[Any]) -> None:
        """Real values of the same shape."""
        one = np.asarray(reference, np.float64).ravel()
        other = np.asarray(quantised, np.float64).ravel()
        error = np.abs(one - other)
        self._values += one.size
        self._float_energy += float(one @ one)
        self._int8_energy += float(other @ other)
        self._product += float(one @ other)
        self._error_energy += float(error @ error)
        self._error_sum += float(error.sum())
        self._error_max = max(self._error_max, float(error.max(initial=0.0)))

    def distance(self) -> Distance:
        """The sums as a Distance.

        cosine = a.b / (|a| |b|); SQNR = 10 log10(sum a^2 / sum (a - b)^2) in dB, a being the float output.
        """
        norm = math.sqrt(self._float_energy) * math.sqrt(self._int8_energy)
        if norm > 0:
            cosine = max(-1.0, min(1.0, self._product / norm))
        else:
            cosine = 1.0 if self._float_energy == self._int8_energy else 0.0
        sqnr = None
        if self._error_energy > 0:
            ratio = self._float_energy / self._error_energy
            sqnr = max(LOWEST_SQNR_DB, 10 * math.log10(ratio)) if ratio > 0 else LOWEST_SQNR_DB
        mean = self._error_sum / self._values if self._values else 0.0
        return Distance(self.output, self._error_max, mean, cosine, sqnr)
