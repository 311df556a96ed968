"""Models in any form (ONNX, TFLite, torch, Relax) become Relax modules with named operators and bound weights."""

from tvm_mpq.frontends.loading import Loaded, load_model

__all__ = ["Loaded", "load_model"]
