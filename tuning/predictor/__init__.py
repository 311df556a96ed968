"""Latencies of kernels that nobody measured, learned from those that somebody did, with an error that was tested.

entry     what a latency key says: its kernel and the machine
traffic   the work that the kernel's row states, and what of its bytes the caches let through
law       microseconds as a sum of that work, fitted per stratum of kernels
features  what the regressor sees beside the law's estimate, and how far two entries are apart
model     the predictor: law, regressor, intervals, refusals;  heldout  its error on shapes it did not see
acquire   which of the missing entries tell most when measured
"""

from __future__ import annotations

from tvm_mpq.tuning.predictor.acquire import most_informative
from tvm_mpq.tuning.predictor.entry import Entry, MachineFacts
from tvm_mpq.tuning.predictor.heldout import Errors
from tvm_mpq.tuning.predictor.model import Prediction, Predictor

__all__ = ["Entry", "Errors", "MachineFacts", "Prediction", "Predictor", "most_informative"]
