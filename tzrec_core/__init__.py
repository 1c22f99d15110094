"""A config-driven TorchRec training library.

This is the one package file that is not empty. OpenMP and torch read these settings once, when
torch is imported or allocates its first tensor, which importing torchrec does: they must be made
here, before any module of the package does that.
"""

import os

# By default an idle OpenMP thread spins. As soon as anything else wants the cores, the reading
# threads of the same process for a start, training slows down several times over.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Huge pages for large tensors, where the kernel leaves them to programs. Tables are read and
# written all over, a few bytes at a time: in small pages finding them takes as long as reading.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
