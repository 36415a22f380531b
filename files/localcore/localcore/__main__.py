"""`python3 -m localcore`: the router, its services, the IPC and the connection to the broker, in one process.

Credentials come on standard input, so that no other process reads them from a file, an environment or a command line.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from localcore import ipc, process, service_manager
from localcore.broker import OUTGOING, Broker
from localcore.errors import LocalCoreError
from localcore.group import CLOUD, Group, GroupError, load
from localcore.journal import Journal
from localcore.router import Limits, Router
from localcore.secrets import Secrets
from localcore.services import serve_secrets, serve_shadows
from localcore.settings import Credentials, Settings, parse_credentials, parse_settings
from localcore.shadows import Shadows

# What journald reads at the beginning of a line.
PRIORITIES = {logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6}


def main() -> int:
    """Run until SIGTERM; say in one sentence why if that cannot be."""
    parser = argparse.ArgumentParser(prog="localcore", description="Serve a group of Lambdas and connectors.")
    parser.add_argument("--group", type=Path, default=Path("/etc/pi-fleet/group.json"))
    parser.add_argument("--settings", type=Path, default=Path("/etc/pi-fleet/localcore.json"))
    arguments = parser.parse_args()
    handler = logging.StreamHandler()
    handler.setFormatter(_JournalFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    try:
        process.hide()
        group = load(arguments.group)
        settings = parse_settings(_read(arguments.settings))
        text, created = _take_standard_input()
        credentials = parse_credentials(text, group)
        runtime, state = _directory("RUNTIME_DIRECTORY"), _directory("STATE_DIRECTORY")
        asyncio.run(_serve(group, settings, credentials, created, runtime, state))
    except GroupError as error:
        print(f"<3>The group {arguments.group} cannot be served:\n{error}", file=sys.stderr)
        return 1
    except LocalCoreError as error:
        print(f"<3>{error}", file=sys.stderr)
        return 1
    return 0


async def _serve(
    group: Group, settings: Settings, credentials: Credentials, created: float, runtime: Path, state: Path
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    limits = Limits(queue_bytes=settings.queue_bytes, queue_items=settings.queue_items)
    try:
        journal = Journal(runtime / "journal")
        records, damaged = journal.load()
        shadows = Shadows(state / "shadows")
        filters = [subscription.subject for subscription in group.subscriptions if subscription.source == CLOUD]
        broker = Broker(
            settings.broker_host,
            settings.broker_port,
            credentials.client_id or settings.broker_client_id,
            filters,
            journal,
            settings.queue_bytes,
            settings.queue_items,
        )
        router = Router(group, settings.device, limits, journal, runtime / "wanted", broker)
        broker.restore(record for record in records if record.state == OUTGOING)
        router.restore((record for record in records if record.state != OUTGOING), damaged)
    except OSError as error:
        raise LocalCoreError(
            f"The local core cannot use {runtime} and {state} ({error}); check their owner and their room."
        ) from error
    runner = await ipc.serve(router, credentials.tokens, settings.port)
    services = [
        asyncio.create_task(serve_shadows(router, shadows)),
        asyncio.create_task(serve_secrets(router, Secrets(group, credentials.secrets, created))),
    ]
    await broker.start(router.deliver)
    service_manager.notify("READY=1")
    await stop.wait()
    await broker.stop()
    # The server waits for the requests that it serves, some of which wait for the router.
    router.close()
    await asyncio.gather(*services)
    await runner.cleanup()


def _take_standard_input() -> tuple[bytes, float]:
    """Return what standard input holds and when that was written (epoch), and leave /dev/null there."""
    try:
        created = os.fstat(0).st_mtime
        with open(0, "rb", closefd=False) as source:
            text = source.read()
        with Path(os.devnull).open("rb") as null:
            os.dup2(null.fileno(), 0)
    except OSError as error:
        raise LocalCoreError(
            f"Standard input cannot be read ({error.strerror}); give the credentials there, as localcore.service does."
        ) from error
    return text, created


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise LocalCoreError(f"{path} cannot be read ({error.strerror}); converge the device again.") from error


def _directory(variable: str) -> Path:
    path = os.environ.get(variable, "")
    if not Path(path).is_absolute():
        raise LocalCoreError(f"{variable} is {path!r} where a directory must be named; run this as localcore.service.")
    return Path(path)


class _JournalFormatter(logging.Formatter):
    """Puts the priority before each line, as journald reads it."""

    def format(self, record: logging.LogRecord) -> str:
        priority = PRIORITIES.get(record.levelno, 3)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).split("\n"))


if __name__ == "__main__":
    sys.exit(main())
