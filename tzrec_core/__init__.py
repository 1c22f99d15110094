"""A config-driven TorchRec training library.

This is the one package file that is not empty. OpenMP reads its settings when torch is imported,
so they must be made here, before any module of the package does that.
"""

import os

# By default an idle OpenMP thread spins. As soon as anything else wants the cores, the reading
# threads of the same process for a start, training slows down several times over.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
