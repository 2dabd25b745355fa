"""Steps that compress a network, one file each, with the precisions that they bring."""

from bench.compress.channels import Channels
from bench.compress.cluster import Cluster
from bench.compress.mixed import Mixed
from bench.compress.quantize import Quantize
from bench.compress.sparse import Sparse
from bench.compress.train import Train

__all__ = ["Channels", "Cluster", "Mixed", "Quantize", "Sparse", "Train"]
