"""The workloads: one file each, one line here."""

from harness import Workload

from . import idle, w1, w2, w2n

WORKLOADS: dict[str, Workload] = {
    "W1": w1.WORKLOAD,
    "W2n": w2n.WORKLOAD,
    "W2": w2.WORKLOAD,
    "W2k": w2.KEEPING,
    "idle": idle.WORKLOAD,
}
