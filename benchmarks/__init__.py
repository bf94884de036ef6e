"""Benchmarks of the product, run as ``python -m benchmarks.NAME`` from a checkout.

numpy's own threads are switched off before numpy is loaded: every number here is of one thread.
"""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
