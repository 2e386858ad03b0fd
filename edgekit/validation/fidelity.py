"""How far quantised outputs are from float outputs, added up sample by sample in float64."""

import math
from typing import Any

import numpy as np
from edgekit_runtime.manifest import Distance
from numpy.typing import NDArray

# A stand-in for minus infinity: an output that should be all zero and is not.
LOWEST_SQNR_DB = -200.0
_STILL = 1e-8  # of an output's energy: its values change by less than a ten-thousandth


class Fidelity:
    """Adds up one output over samples; memory does not grow with their number."""

    def __init__(self, output: str) -> None:
        self.output = output
        self._values = 0
        self._float_sum = 0.0
        self._int8_sum = 0.0
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
        self._float_sum += float(one.sum())
        self._int8_sum += float(other.sum())
        self._float_energy += float(one @ one)
        self._int8_energy += float(other @ other)
        self._product += float(one @ other)
        self._error_energy += float(error @ error)
        self._error_sum += float(error.sum())
        self._error_max = max(self._error_max, float(error.max(initial=0.0)))

    def around_mean(self) -> float:
        """The cosine of both outputs' distances from the mean of all float values: of what a float output of 290 to 292
        tells, where all that is near 291 has a cosine of 1. That cosine where float's values do not change.
        """
        mean = self._float_sum / max(1, self._values)
        apart = self._float_energy - mean * self._float_sum
        if apart <= _STILL * self._float_energy:
            return self.distance().cosine
        other = self._int8_energy - 2 * mean * self._int8_sum + self._values * mean**2
        product = self._product - mean * self._int8_sum - mean * self._float_sum + self._values * mean**2
        return max(-1.0, min(1.0, product / math.sqrt(apart * other))) if other > 0 else 0.0

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
