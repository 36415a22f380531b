"""The core's own services, which take their work from the router as workers do."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from localcore.errors import RefusedError
from localcore.group import SHADOW
from localcore.invocations import REQUEST, Invocation, Result
from localcore.router import SECRETS, Arrival, Router
from localcore.secrets import Secrets
from localcore.shadows import TOPIC, Reply, Shadows

log = logging.getLogger(__name__)


async def serve_secrets(router: Router, secrets: Secrets) -> None:
    """Answer requests for secrets until the router closes."""
    await _serve(router, SECRETS, lambda invocation: secrets.reply(invocation.caller, invocation.payload))


async def serve_shadows(router: Router, shadows: Shadows) -> None:
    """Answer requests for shadows until the router closes, and publish what subscriptions want to know of them."""

    def answer(invocation: Invocation) -> bytes:
        topic = invocation.subject
        if invocation.kind != REQUEST and not TOPIC.fullmatch(topic):
            # A subscription of `shadow/#` brings the service's own answers back to it.
            return b""
        reply = shadows.request(topic, invocation.payload)
        loop.call_soon_threadsafe(_publish, router, topic, reply, invocation.kind)
        return json.dumps(reply.document).encode()

    loop = asyncio.get_running_loop()
    await _serve(router, SHADOW, answer)


def _publish(router: Router, topic: str, reply: Reply, kind: str) -> None:
    """Publish an answer; who asked for a result hears of a rejection from that."""
    messages = []
    if reply.accepted:
        messages.append((f"{topic}/accepted", reply.document))
    elif kind != REQUEST:
        messages.append((f"{topic}/rejected", reply.document))
    if reply.delta is not None:
        messages.append((f"{topic}/delta", reply.delta))
    for subject, document in messages:
        try:
            router.route(SHADOW, subject, json.dumps(document).encode())
        except RefusedError as error:
            log.warning("%s could not be published: %s", subject, error)


async def _serve(router: Router, name: str, answer: Callable[[Invocation], bytes]) -> None:
    """Do the work of a service, one piece at a time and in order, in a thread: storing may take a card a second."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix=name) as executor:
        while await router.work_arrives(name, for_ever=True) is Arrival.WORK:
            invocation = router.take(name)
            try:
                result = Result(await loop.run_in_executor(executor, answer, invocation))
            except Exception:
                log.exception("%s failed on a request.", name)
                result = Result.unhandled(f"{name} failed; see the journal of the local core.")
            try:
                router.post_result(name, invocation.id, result)
            except RefusedError:
                log.error("%s took longer than %g s; its storage is too slow.", name, router.limits.service)
