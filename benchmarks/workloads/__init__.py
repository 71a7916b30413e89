"""The workloads: one file each, one line here."""

from harness import Workload

from . import (
    actors,
    fanout,
    idle,
    idle_cpu,
    one_at_a_time,
    publishers,
    request,
    request_loop,
    sqlite_backlog,
    sqlite_publish,
    sqlite_through,
    subjects,
    there_and_back,
    w1,
    w2,
    w2n,
)

WORKLOADS: dict[str, Workload] = {
    "W1": w1.WORKLOAD,
    "W2n": w2n.WORKLOAD,
    "W2": w2.WORKLOAD,
    "W2k": w2.KEEPING,
    "fanout": fanout.WORKLOAD,
    "subjects": subjects.WORKLOAD,
    "publishers": publishers.WORKLOAD,
    "one_at_a_time": one_at_a_time.WORKLOAD,
    "request": request.WORKLOAD,
    "request_loop": request_loop.WORKLOAD,
    "there_and_back": there_and_back.WORKLOAD,
    "idle": idle.WORKLOAD,
    "idle_cpu": idle_cpu.WORKLOAD,
    "actors": actors.WORKLOAD,
    "million": actors.MILLION,
    "sqlite_publish": sqlite_publish.PUBLISH,
    "sqlite_publishers": sqlite_publish.PUBLISHERS,
    "sqlite_through": sqlite_through.THROUGH,
    "sqlite_backlog": sqlite_backlog.BACKLOG,
    "sqlite_processes": sqlite_through.PROCESSES,
}
