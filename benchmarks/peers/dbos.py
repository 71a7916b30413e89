"""
DBOS: durable workflows; here each message is one, of a single step, in a queue of its system database in a SQLite file.

It keeps what a workflow returned, and goes on with it where it was. SQLite is what it offers for development; it commits with
a rollback journal, which is several syncs. Messages are published by its client, and its worker looks for them each 10 ms
(1 s as it comes).
"""

from __future__ import annotations

from time import sleep
from typing import Any

from harness import Durable, Handler
from stores import Store

GUARANTEES = Durable(
    "a workflow for each message, its result is kept; SQLite is for development",
    "yes", "yes", "yes, to 1 ms", "again at next launch", package="dbos",
)  # fmt: skip
MOST = 50  # messages
PAUSE = 0.01  # seconds


def open_store(folder: str) -> Store:
    from dbos import DBOS, DBOSClient, DBOSConfig

    url = f"sqlite:///{folder}/dbos.db"

    def launch(listen: list[str]) -> None:
        DBOS(config=DBOSConfig(name="benchmark", system_database_url=url, log_level="ERROR"))
        DBOS.listen_queues(listen)
        DBOS.launch()

    launch([])  # makes the file
    DBOS.register_queue("work", worker_concurrency=1, polling_interval_sec=PAUSE)
    DBOS.destroy()
    client = DBOSClient(system_database_url=url)

    def publish(body: Any) -> None:
        client.enqueue({"queue_name": "work", "workflow_name": "act"}, body)

    def consume(handle: Handler, size: int) -> None:
        @DBOS.workflow(name="act")
        def act(body: Any) -> None:
            handle(body)

        launch(["work"])
        while len(client.list_workflows(status="SUCCESS", load_input=False, load_output=False)) < size:
            sleep(PAUSE)
        DBOS.destroy()

    return Store(publish, consume, client.destroy)
