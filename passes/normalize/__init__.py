"""Any imported network -> one recognisable shape per operator. See `Normalize`."""

from tvm_mpq.passes.normalize.normalize import Normalize

__all__ = ["Normalize"]
