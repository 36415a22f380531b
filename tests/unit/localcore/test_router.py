"""The router: grants, subscriptions, queues, time-outs, restarts. Neither HTTP nor MQTT is needed for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from localcore.errors import RefusedError
from localcore.group import Group
from localcore.invocations import Invocation, Result
from localcore.journal import Journal
from localcore.router import Arrival, Limits, Router
from localcore.secrets import Secrets
from localcore.services import serve_secrets, serve_shadows
from localcore.shadows import Shadows

CLASSIFIER = "beverage_classifier"
CONNECTOR = "GG-ML-INF-image-classification-beverage-classifier"
ARN = "arn:aws:lambda:us-east-1:000000000000:function"
ERRORS = "pi-fleet/pi-1/errors"
LIMITS = Limits(poll=0.2, idle=0.1, absent=0.3, result=0.3)


class FakeCloud:
    """Remembers what went to the broker."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.room = True

    def has_room(self, size: int) -> bool:
        return self.room

    def publish(self, topic: str, payload: bytes) -> None:
        self.messages.append((topic, payload))

    @property
    def errors(self) -> list[dict[str, Any]]:
        return [json.loads(payload) for topic, payload in self.messages if topic == ERRORS]


class Core:
    """A router and what it stands on; `restart` is a kill and a start."""

    def __init__(self, folder: Path, group: Group, limits: Limits = LIMITS) -> None:
        self.folder = folder
        self.group = group
        self.limits = limits
        self.cloud = FakeCloud()
        self.start()

    def start(self) -> None:
        journal = Journal(self.folder / "journal")
        records, damaged = journal.load()
        wanted = self.folder / "wanted"
        self.router = Router(self.group, "pi-1", self.limits, journal, wanted, self.cloud)
        self.router.restore(records, damaged)

    def restart(self) -> None:
        # What a killed process held is gone, and its timers with it.
        self.router.close()
        self.start()

    @property
    def files(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "journal").iterdir() if path.is_file())

    @property
    def wanted(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "wanted").iterdir())

    def publish(self, topic: str, payload: bytes = b"{}", policy: str = "", caller: str = CLASSIFIER) -> None:
        context = {"custom": {"source": "a lie", "subject": topic, "queueFullPolicy": policy}}
        self.router.post_work(caller, "GGRouter", "Event", context, payload)

    def ask(self, payload: bytes = b"?", function: str = "helper", kind: str = "RequestResponse") -> str:
        return self.router.post_work(CLASSIFIER, function, kind, {"custom": {}}, payload)

    async def result(self, id_: str, function: str = "helper") -> Result:
        result = await self.router.result(CLASSIFIER, function, id_)
        assert result is not None
        return result

    async def work(self, function: str = "helper") -> Invocation:
        assert await self.router.work_arrives(function) is Arrival.WORK
        return self.router.take(function)


@pytest.fixture
def in_core(tmp_path: Path, group: Group) -> Callable[..., None]:
    """Return what runs a test's coroutine with a core, in a loop of its own."""

    def run(test: Callable[[Core], Coroutine[Any, Any, None]], limits: Limits = LIMITS) -> None:
        async def main() -> None:
            core = Core(tmp_path, group, limits)
            async with asyncio.timeout(10):
                await test(core)
            core.router.close()

        asyncio.run(main())

    return run


Run = Callable[..., None]


def sentence(result: Result) -> str:
    return str(json.loads(result.payload)["errorMessage"])


# --- invocations


def test_work_is_done_and_its_result_fetched(in_core: Run) -> None:
    async def test(core: Core) -> None:
        id_ = core.ask(b"question")
        work = await core.work()
        assert (work.id, work.payload) == (id_, b"question")
        assert work.context == {"custom": {"source": f"{ARN}:{CLASSIFIER}:1"}}
        core.router.handed(work)
        core.router.post_result("helper", id_, Result(b"answer"))
        assert await core.result(id_) == Result(b"answer")
        core.router.fetched(id_)
        assert core.files == []

    in_core(test)


def test_work_is_handed_out_in_order_and_one_at_a_time(in_core: Run) -> None:
    async def test(core: Core) -> None:
        for number in range(20):
            core.ask(str(number).encode(), kind="Event")
        for number in range(20):
            work = await core.work()
            assert work.payload == str(number).encode()
            core.router.post_result("helper", work.id, Result(b""))
        assert core.cloud.errors == []
        assert core.files == []

    in_core(test)


def test_a_waiting_worker_is_woken(in_core: Run) -> None:
    async def test(core: Core) -> None:
        waiting = asyncio.create_task(core.work())
        await asyncio.sleep(0.01)
        id_ = core.ask()
        assert (await waiting).id == id_

    in_core(test)


def test_a_pinned_worker_asks_again_and_one_on_demand_ends(in_core: Run) -> None:
    async def test(core: Core) -> None:
        assert await core.router.work_arrives(CLASSIFIER) is Arrival.NOTHING
        assert await core.router.work_arrives("helper") is Arrival.NO_MORE

    in_core(test)


def test_of_two_workers_that_wait_the_later_gets_the_work(in_core: Run) -> None:
    async def test(core: Core) -> None:
        first = asyncio.create_task(core.router.work_arrives(CLASSIFIER))
        await asyncio.sleep(0)
        second = asyncio.create_task(core.router.work_arrives(CLASSIFIER))
        await asyncio.sleep(0)
        core.router.deliver("/request/x", b"")
        assert await first is Arrival.NOTHING
        assert await second is Arrival.WORK

    in_core(test)


def test_of_two_workers_that_are_awake_one_gets_work(in_core: Run) -> None:
    async def test(core: Core) -> None:
        first = asyncio.create_task(core.router.work_arrives(CLASSIFIER))
        await asyncio.sleep(0)
        for number in range(2):
            core.router.deliver("/request/x", str(number).encode())
        # The first has been woken, but has not run yet.
        assert (await core.work(CLASSIFIER)).payload == b"0"
        assert await first is Arrival.NOTHING

    in_core(test)


def test_a_worker_that_went_away_gets_nothing_and_the_next_one_does(in_core: Run) -> None:
    async def test(core: Core) -> None:
        gone = asyncio.create_task(core.router.work_arrives(CLASSIFIER))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        core.router.deliver("/request/x", b"1")
        assert (await core.work(CLASSIFIER)).payload == b"1"

    in_core(test)


def test_what_could_not_be_handed_over_is_first_again(in_core: Run) -> None:
    async def test(core: Core) -> None:
        core.ask(b"1")
        core.ask(b"2")
        core.router.put_back(await core.work())
        assert (await core.work()).payload == b"1"
        assert [name.partition(".")[2].partition("-")[0] for name in core.files] == ["started", "waiting"]

    in_core(test)


def test_a_time_out_is_unhandled_and_the_late_result_refused(in_core: Run, group: Group) -> None:
    quick = replace(group, functions=tuple(replace(function, timeout=0.05) for function in group.functions))

    async def test(core: Core) -> None:
        core.group = quick
        core.restart()
        id_ = core.ask()
        work = await core.work()
        result = await core.result(id_)
        assert (result.error, sentence(result)) == ("Unhandled", "helper did not answer within 0.05 s.")
        with pytest.raises(RefusedError, match="may have timed out") as refusal:
            core.router.post_result("helper", work.id, Result(b"late"))
        assert refusal.value.status == 404
        second = core.ask()
        core.router.post_result("helper", (await core.work()).id, Result(b"quick"))
        assert await core.result(second) == Result(b"quick")

    in_core(test)


def test_a_worker_that_asks_in_mid_work_was_restarted(in_core: Run) -> None:
    async def test(core: Core) -> None:
        first, second = core.ask(b"1"), core.ask(b"2")
        await core.work()
        assert (await core.work()).id == second
        result = await core.result(first)
        assert (result.error, sentence(result)) == ("Unhandled", "The worker of helper ended while it handled this.")

    in_core(test)


def test_work_that_no_worker_comes_for_is_unhandled(in_core: Run) -> None:
    async def test(core: Core) -> None:
        ids = [core.ask(), core.ask()]
        assert core.wanted == ["helper"]
        for id_ in ids:
            result = await core.result(id_)
            assert result.error == "Unhandled"
            assert sentence(result) == "No worker of helper asked for work within 0.3 s."
        assert core.wanted == []

    in_core(test)


def test_work_waits_as_long_as_its_worker_works(in_core: Run) -> None:
    async def test(core: Core) -> None:
        core.ask(b"1")
        second = core.ask(b"2")
        work = await core.work()
        await asyncio.sleep(0.5)
        core.router.post_result("helper", work.id, Result(b""))
        assert (await core.work()).id == second

    in_core(test)


def test_a_failed_initialisation_ends_what_waits(in_core: Run) -> None:
    async def test(core: Core) -> None:
        id_ = core.ask()
        core.router.initialized("helper", False, "No module named 'boto3'")
        assert sentence(await core.result(id_)) == "helper could not be initialised: No module named 'boto3'"
        core.router.initialized("helper", True, "")
        assert core.wanted == []

    in_core(test)


def test_results_that_nobody_fetches_are_forgotten(in_core: Run) -> None:
    async def test(core: Core) -> None:
        id_ = core.ask()
        core.router.post_result("helper", (await core.work()).id, Result(b"x"))
        assert len(core.files) == 1
        await asyncio.sleep(0.4)
        assert core.files == []
        with pytest.raises(RefusedError, match="waits for no result"):
            await core.router.result(CLASSIFIER, "helper", id_)

    in_core(test)


def test_results_that_nobody_fetches_are_bounded(in_core: Run) -> None:
    async def test(core: Core) -> None:
        ids = []
        for _ in range(4):
            ids.append(core.ask())
            core.router.post_result("helper", (await core.work()).id, Result(b"x" * 40))
        assert len(core.files) == 2
        assert await core.result(ids[3]) == Result(b"x" * 40)
        with pytest.raises(RefusedError):
            await core.router.result(CLASSIFIER, "helper", ids[0])

    in_core(test, replace(LIMITS, results=100, result=60))


@pytest.mark.parametrize(
    ("caller", "function", "kind", "status"),
    [
        (CLASSIFIER, "helper", "DryRun", 400),
        (CONNECTOR, "helper", "Event", 403),
    ],
)
def test_what_is_not_granted_is_refused(in_core: Run, caller: str, function: str, kind: str, status: int) -> None:
    async def test(core: Core) -> None:
        with pytest.raises(RefusedError) as refusal:
            core.router.post_work(caller, function, kind, {}, b"")
        assert refusal.value.status == status
        assert core.files == []

    in_core(test)


def test_a_result_is_for_its_asker_alone(in_core: Run) -> None:
    async def test(core: Core) -> None:
        id_ = core.ask()
        for caller, function in (("helper", "helper"), (CLASSIFIER, CONNECTOR)):
            with pytest.raises(RefusedError) as refusal:
                await core.router.result(caller, function, id_)
            assert refusal.value.status == 404

    in_core(test)


@pytest.mark.parametrize(
    "arn",
    [f"{ARN}:helper:1", f"{ARN}:helper", "arn:aws:lambda:eu-west-1:123456789012:function:helper:LIVE"],
)
def test_functions_are_found_by_name(in_core: Run, arn: str) -> None:
    async def test(core: Core) -> None:
        assert core.router.name_of(arn) == "helper"

    in_core(test)


@pytest.mark.parametrize("arn", ["helper", f"{ARN}:other:1", "arn:aws:iot:::thing/x"])
def test_an_unknown_function_is_not_found(in_core: Run, arn: str) -> None:
    async def test(core: Core) -> None:
        with pytest.raises(RefusedError) as refusal:
            core.router.name_of(arn)
        assert refusal.value.status == 404

    in_core(test)


def test_a_full_queue_is_an_error_to_who_asks(in_core: Run) -> None:
    async def test(core: Core) -> None:
        ids = [core.ask(b"x" * 40), core.ask(b"x" * 40)]
        with pytest.raises(RefusedError, match="queue of helper is full") as refusal:
            core.ask(b"x" * 40)
        assert refusal.value.status == 503
        assert [(await core.work()).id, len(core.files)] == [ids[0], 2]

    in_core(test, replace(LIMITS, queue_bytes=100))


def test_what_cannot_be_journaled_is_not_accepted(in_core: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(core: Core) -> None:
        def full(*_arguments: object) -> int:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Journal, "add", full)
            with pytest.raises(RefusedError, match="No space left") as refusal:
                core.ask()
            core.router.deliver("/request/x", b"")
        assert refusal.value.status == 503
        assert "No space left" in core.cloud.errors[0]["message"]
        core.ask()

    in_core(test)


# --- messages


def test_a_message_from_the_cloud_reaches_the_function(in_core: Run) -> None:
    async def test(core: Core) -> None:
        core.router.deliver("/request/classify/beverage_container", b"{}")
        work = await core.work(CLASSIFIER)
        assert work.context == {"custom": {"source": "cloud", "subject": "/request/classify/beverage_container"}}
        assert (work.payload, work.kind) == (b"{}", "Event")

    in_core(test)


def test_a_message_to_the_cloud_goes_once_however_many_subscriptions_say_so(in_core: Run) -> None:
    async def test(core: Core) -> None:
        core.publish("/response/a/x", b"answer")
        assert core.cloud.messages == [("/response/a/x", b"answer")]

    in_core(test)


def test_the_source_is_who_it_is_and_not_who_it_says(in_core: Run) -> None:
    async def test(core: Core) -> None:
        core.publish("/x/both")
        work = await core.work()
        assert work.context == {"custom": {"source": f"{ARN}:{CLASSIFIER}:1", "subject": "/x/both"}}
        core.publish("/response/x", caller="helper")
        assert [topic for topic, _ in core.cloud.messages] == ["/x/both"]

    in_core(test)


def test_what_nobody_subscribed_to_is_dropped_with_one_warning(in_core: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def test(core: Core) -> None:
        for _ in range(3):
            core.publish("/nowhere")
        core.router.deliver("/nowhere", b"")
        assert core.cloud.messages == []
        assert core.files == []

    in_core(test)
    assert [record.getMessage() for record in caplog.records] == [
        "No subscription takes '/nowhere' from beverage_classifier; such messages are dropped.",
        "No subscription takes '/nowhere' from cloud; such messages are dropped.",
    ]


def test_warnings_are_bounded(in_core: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def test(core: Core) -> None:
        for number in range(1100):
            core.router.deliver(f"/nowhere/{number}", b"")

    in_core(test)
    assert len(caplog.records) == 1000


@pytest.mark.parametrize(
    ("context", "kind", "status", "said"),
    [
        ({}, "Event", 400, "needs a topic"),
        ({"custom": {"subject": 5}}, "Event", 400, "needs a topic"),
        ({"custom": {"subject": "a/#"}}, "Event", 400, "must not contain"),
        ({"custom": {"subject": ""}}, "Event", 400, "must not be empty"),
        ({"custom": {"subject": "a", "queueFullPolicy": "Some"}}, "Event", 400, "queueFullPolicy 'Some'"),
        ({"custom": {"subject": "a", "queueFullPolicy": []}}, "Event", 400, "queueFullPolicy"),
        ({"custom": {"subject": "a"}}, "RequestResponse", 400, "published as an Event"),
    ],
)
def test_what_cannot_be_published_is_refused(
    in_core: Run, context: dict[str, Any], kind: str, status: int, said: str
) -> None:
    async def test(core: Core) -> None:
        with pytest.raises(RefusedError, match=said) as refusal:
            core.router.post_work(CLASSIFIER, "GGRouter", kind, context, b"")
        assert refusal.value.status == status

    in_core(test)


def test_a_message_too_big_for_the_cloud_goes_nowhere(in_core: Run) -> None:
    async def test(core: Core) -> None:
        core.publish("/x/both", b"x" * 128 * 1024)
        with pytest.raises(RefusedError, match="too big for the cloud") as refusal:
            core.publish("/x/both", b"x" * (128 * 1024 + 1))
        assert refusal.value.status == 413
        assert len(core.cloud.messages) == len(core.files) == 1

    in_core(test)


@pytest.mark.parametrize("policy", ["", "BestEffort"])
def test_by_best_effort_who_has_room_gets_it_and_the_loss_is_reported(in_core: Run, policy: str) -> None:
    async def test(core: Core) -> None:
        core.ask(b"x" * 90)
        core.publish("/x/both", b"y" * 20, policy)
        assert ("/x/both", b"y" * 20) in core.cloud.messages
        (error,) = core.cloud.errors
        assert (error["function"], error["subject"], error["error"]) == ("helper", "/x/both", "Unhandled")
        assert len(core.files) == 1

    in_core(test, replace(LIMITS, queue_bytes=100))


def test_all_or_error_gives_all_or_nothing_and_an_error(in_core: Run) -> None:
    async def test(core: Core) -> None:
        core.publish("/x/both", b"y" * 20, "AllOrError")
        assert (len(core.files), len(core.cloud.messages)) == (1, 1)
        core.ask(b"x" * 80)
        with pytest.raises(RefusedError, match="queue of helper is full") as refusal:
            core.publish("/x/both", b"y" * 20, "AllOrError")
        assert refusal.value.status == 503
        core.cloud.room = False
        with pytest.raises(RefusedError, match="queue of cloud is full"):
            core.publish("/response/x", b"", "AllOrError")
        assert (len(core.files), len(core.cloud.messages)) == (2, 1)

    in_core(test, replace(LIMITS, queue_bytes=100))


def test_a_subscription_may_lead_to_a_connector(in_core: Run) -> None:
    async def test(core: Core) -> None:
        core.router.deliver("/infer", b"\xff\xd8")
        assert (await core.work(CONNECTOR)).payload == b"\xff\xd8"

    in_core(test)


@pytest.mark.parametrize(("topic", "size"), [("/request/x", 101), ("/request/" + "x" * 250, 0)])
def test_what_the_cloud_may_not_send_is_reported(in_core: Run, topic: str, size: int) -> None:
    async def test(core: Core) -> None:
        core.router.deliver(topic, b"x" * size)
        assert core.cloud.errors[0]["subject"] == topic
        assert core.files == []

    in_core(test, replace(LIMITS, payload=100))


# --- errors that nobody waits for


@pytest.mark.parametrize("error", ["Handled", "Unhandled"])
def test_a_failed_event_is_reported(in_core: Run, error: str) -> None:
    async def test(core: Core) -> None:
        core.router.deliver("/request/x", b"")
        work = await core.work(CLASSIFIER)
        core.router.post_result(CLASSIFIER, work.id, Result(b'{"errorMessage": "no picture"}', error))
        (report,) = core.cloud.errors
        assert report.pop("time").endswith("+00:00")
        assert report == {
            "function": CLASSIFIER,
            "subject": "/request/x",
            "id": work.id,
            "error": error,
            "message": "no picture",
        }

    in_core(test)


@pytest.mark.parametrize("payload", [b"\xff", b"[]", b"x" * 10_000, b'{"errorMessage": 5}'])
def test_whatever_a_failure_says_is_reported_as_text(in_core: Run, payload: bytes) -> None:
    async def test(core: Core) -> None:
        core.router.deliver("/request/x", b"")
        core.router.post_result(CLASSIFIER, (await core.work(CLASSIFIER)).id, Result(payload, "Handled"))
        assert 0 < len(core.cloud.errors[0]["message"]) <= 1000

    in_core(test)


def test_a_failure_about_failures_is_not_reported(in_core: Run, group: Group) -> None:
    subscriptions = (replace(group.subscriptions[0], subject="pi-fleet/+/errors"),)

    async def test(core: Core) -> None:
        core.group = replace(group, subscriptions=subscriptions)
        core.restart()
        core.router.deliver(ERRORS, b"{}")
        core.router.post_result(CLASSIFIER, (await core.work(CLASSIFIER)).id, Result(b"", "Handled"))
        assert core.cloud.messages == []

    in_core(test)


# --- on demand


def test_a_function_on_demand_is_wanted_while_it_has_work(in_core: Run) -> None:
    async def test(core: Core) -> None:
        assert core.wanted == []
        core.ask()
        assert core.wanted == ["helper"]
        work = await core.work()
        assert core.wanted == ["helper"]
        core.router.post_result("helper", work.id, Result(b""))
        assert core.wanted == []
        core.router.deliver("/request/x", b"")
        assert core.wanted == []

    in_core(test)


def test_at_a_start_only_what_has_work_is_wanted(in_core: Run) -> None:
    async def test(core: Core) -> None:
        (core.folder / "wanted" / "gone").touch()
        (core.folder / "wanted" / "helper").touch()
        core.restart()
        assert core.wanted == []
        core.ask()
        core.restart()
        assert core.wanted == ["helper"]

    in_core(test)


# --- restarts


def test_what_waited_waits_again_in_order(in_core: Run) -> None:
    async def test(core: Core) -> None:
        ids = [core.ask(str(number).encode()) for number in range(5)]
        core.restart()
        for number in range(5):
            work = await core.work()
            assert (work.id, work.payload) == (ids[number], str(number).encode())
            core.router.post_result("helper", work.id, Result(work.payload))
        core.restart()
        for number in range(5):
            assert await core.result(ids[number]) == Result(str(number).encode())
            core.router.fetched(ids[number])
        assert core.files == []

    in_core(test)


def test_who_was_at_work_may_still_answer(in_core: Run) -> None:
    async def test(core: Core) -> None:
        id_ = core.ask()
        await core.work()
        core.restart()
        core.router.post_result("helper", id_, Result(b"answer", "Handled"))
        core.restart()
        assert await core.result(id_) == Result(b"answer", "Handled")

    in_core(test)


def test_the_time_out_runs_on_over_a_restart(in_core: Run, group: Group) -> None:
    slow = replace(group, functions=tuple(replace(function, timeout=0.4) for function in group.functions))

    async def test(core: Core) -> None:
        core.group = slow
        core.restart()
        id_ = core.ask()
        await core.work()
        await asyncio.sleep(0.3)
        core.restart()
        begun = asyncio.get_running_loop().time()
        assert (await core.result(id_)).error == "Unhandled"
        assert asyncio.get_running_loop().time() - begun < 0.3

    in_core(test)


def test_who_waits_is_sent_home_at_the_end(in_core: Run) -> None:
    async def test(core: Core) -> None:
        id_ = core.ask()
        asker = asyncio.create_task(core.router.result(CLASSIFIER, "helper", id_))
        worker = asyncio.create_task(core.router.work_arrives(CLASSIFIER))
        await asyncio.sleep(0.01)
        core.router.close()
        assert await asker is None
        assert await worker is Arrival.NOTHING
        assert await core.router.work_arrives(CLASSIFIER) is Arrival.NOTHING
        core.start()
        assert (await core.work()).id == id_

    in_core(test)


def test_work_for_a_function_that_left_the_group_is_unhandled(in_core: Run, group: Group) -> None:
    async def test(core: Core) -> None:
        id_ = core.ask()
        core.ask(kind="Event")
        core.group = replace(group, functions=group.functions[:1], subscriptions=())
        core.restart()
        assert sentence(await core.result(id_)) == "helper is no longer in the group."
        assert core.cloud.errors[0]["function"] == "helper"

    in_core(test)


def test_what_is_damaged_is_reported_and_the_rest_goes_on(in_core: Run) -> None:
    async def test(core: Core) -> None:
        core.ask(b"1")
        core.ask(b"2")
        (core.folder / "journal" / core.files[0]).write_bytes(b"")
        journal = Journal(core.folder / "journal")
        journal.load()
        journal.add("waiting", {"of": "another version"}, b"")
        (core.folder / "journal" / "000000000099.waiting").write_bytes(b"")
        core.restart()
        assert (await core.work()).payload == b"2"
        assert "cannot be understood" in core.cloud.errors[0]["message"]
        assert "was damaged" in core.cloud.errors[1]["message"]

    in_core(test)


# --- the core's own services


def with_services(test: Callable[[Core], Coroutine[Any, Any, None]]) -> Callable[[Core], Coroutine[Any, Any, None]]:
    async def run(core: Core) -> None:
        secrets = Secrets(core.group, {"greengrass-Key": {"SecretString": "hush"}}, 0)
        services = asyncio.gather(
            serve_secrets(core.router, secrets), serve_shadows(core.router, Shadows(core.folder / "shadows"))
        )
        await test(core)
        core.router.close()
        await services

    return run


async def ask_service(core: Core, service: str, subject: str, payload: bytes) -> dict[str, Any]:
    context = {"custom": {"subject": subject}} if subject else {}
    id_ = core.router.post_work(CLASSIFIER, service, "RequestResponse", context, payload)
    result = await core.result(id_, service)
    assert result.error == ""
    core.router.fetched(id_)
    reply: dict[str, Any] = json.loads(result.payload)
    return reply


def test_a_shadow_is_updated_and_the_subscribers_hear_of_it(in_core: Run) -> None:
    async def test(core: Core) -> None:
        update = b'{"state": {"desired": {"a": 1}}}'
        reply = await ask_service(core, "GGShadowService", "$aws/things/x/shadow/update", update)
        assert reply["version"] == 1
        topics = [topic for topic, _ in core.cloud.messages]
        assert topics == ["$aws/things/x/shadow/update/accepted", "$aws/things/x/shadow/update/delta"]
        assert json.loads(core.cloud.messages[1][1])["state"] == {"a": 1}
        reply = await ask_service(core, "GGShadowService", "$aws/things/y/shadow/get", b"")
        assert (reply["code"], len(core.cloud.messages)) == (404, 2)
        assert core.files == []

    in_core(with_services(test))


def test_a_shadow_is_updated_by_subscription(in_core: Run) -> None:
    async def test(core: Core) -> None:
        core.router.deliver("$aws/things/x/shadow/update", b'{"state": {"desired": {"a": 1}}}')
        core.router.deliver("$aws/things/x/shadow/update", b"{")
        core.router.deliver("$aws/things/x/shadow/get", b"")
        # What the service publishes comes back where a subscription is as wide as this one.
        core.router.deliver("$aws/things/x/shadow/update/accepted", b"{}")
        while core.files:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        base = "$aws/things/x/shadow"
        assert [topic for topic, _ in core.cloud.messages] == [
            f"{base}/update/accepted",
            f"{base}/update/delta",
            f"{base}/update/rejected",
            f"{base}/get/accepted",
        ]
        assert json.loads(core.cloud.messages[2][1])["code"] == 400

    in_core(with_services(test))


def test_a_secret_is_answered_and_never_written(in_core: Run) -> None:
    async def test(core: Core) -> None:
        id_ = core.router.post_work(
            CLASSIFIER, "GGSecretManager", "RequestResponse", {}, b'{"SecretId": "greengrass-Key"}'
        )
        result = await core.result(id_, "GGSecretManager")
        assert json.loads(result.payload)["SecretString"] == "hush"
        written = b"".join((core.folder / "journal" / name).read_bytes() for name in core.files)
        assert b"greengrass-Key" in written
        assert b"hush" not in written
        core.router.fetched(id_)
        assert core.files == []

    in_core(with_services(test))


def test_a_secret_that_was_asked_for_before_a_restart_is_answered_after(in_core: Run) -> None:
    async def test(core: Core) -> None:
        id_ = core.router.post_work(
            CLASSIFIER, "GGSecretManager", "RequestResponse", {}, b'{"SecretId": "greengrass-Key"}'
        )
        await core.work("GGSecretManager")
        core.restart()

        async def fetch(core: Core) -> None:
            assert json.loads((await core.result(id_, "GGSecretManager")).payload)["SecretString"] == "hush"

        await with_services(fetch)(core)

    in_core(test)


def test_a_service_that_fails_goes_on(in_core: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(core: Core) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Shadows, "request", None)
            context = {"custom": {"subject": "$aws/things/x/shadow/get"}}
            id_ = core.router.post_work(CLASSIFIER, "GGShadowService", "RequestResponse", context, b"")
            assert (await core.result(id_, "GGShadowService")).error == "Unhandled"
        assert (await ask_service(core, "GGShadowService", "$aws/things/x/shadow/get", b""))["code"] == 404

    in_core(with_services(test))


# --- nothing is left


def test_a_thousand_requests_leave_nothing(in_core: Run) -> None:
    async def test(core: Core) -> None:
        async def worker() -> None:
            while await core.router.work_arrives(CLASSIFIER) is Arrival.WORK:
                work = core.router.take(CLASSIFIER)
                id_ = core.ask(work.payload)
                core.router.handed(work)
                helper = await core.work()
                core.router.post_result("helper", helper.id, Result(helper.payload))
                result = await core.result(id_)
                core.router.fetched(id_)
                core.publish("/response/x", result.payload)
                core.router.post_result(CLASSIFIER, work.id, Result(b""))

        for number in range(900):
            core.router.deliver("/request/x", str(number).encode())
        await worker()
        assert core.cloud.messages == [("/response/x", str(number).encode()) for number in range(900)]
        assert core.files == []
        assert core.router._asked == {}
        assert core.router._unfetched == 0

    in_core(test, replace(LIMITS, result=60))
