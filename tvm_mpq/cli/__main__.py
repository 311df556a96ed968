"""`python -m tvm_mpq.cli`."""

from tvm_mpq.cli import main

main()
