"""Activations of one bit on emulated ARM: every NEON family, random and at the ends of the range."""

from __future__ import annotations

import numpy as np

from mpq_testing.conv_cases import DENSE, DEPTHWISE, GROUPED, make_case
from mpq_testing.emulated import EmulatedMachine
from tvm_mpq.kernels.registry import Kernel, Request, fitting
from tvm_mpq.schema import Precision
from tvm_mpq.targets import features, resolve

CORE = "cortex-a76"
"""Its features fit every family."""


def test_every_family_equals_the_definition(machine: EmulatedMachine, rng: np.random.Generator) -> None:
    used, found = set(), []
    for w in (DENSE[9], DEPTHWISE[1], GROUPED[0]):
        for weight_bits in (8, 2, 1):
            request = Request(w, Precision(weight_bits, 1), 8, features(resolve(CORE)))
            for family in fitting(request):
                if family.name not in used and not family.name.endswith("__generic"):
                    used.add(family.name)
                    kernel = Kernel(request, family, family.knob_space(request)[0])
                    found += [make_case(kernel, rng, extreme) for extreme in (False, True)]
    assert {name.rpartition("__")[2] for name in used} == {"neon", "dotprod"} and len(used) >= 6
    machine.check(found, CORE)
