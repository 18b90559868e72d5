"""Calls about instances: launch, look, wait, stop, end."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import uuid4

from tidemill.client.effects import Flow, Item, Now, Outgoing, Read, Sleep, Steps, last
from tidemill.client.errors import ClientError, LaunchFailed, NotFound, WaitedTooLong
from tidemill.client.kinds import K, context, operation, stream
from tidemill.client.modelled import Modelled, checked, pages
from tidemill.client.sending import opened
from tidemill.client.service import Service
from tidemill.client.subject import Amount
from tidemill.model.lifecycle import State
from tidemill.wire.instances import (
    EventRow,
    EventsAnswer,
    Filter,
    InstanceAnswer,
    InstanceListAnswer,
    InstanceListRequest,
    InstanceRequest,
    InstanceRow,
    StartRequest,
)
from tidemill.wire.limits import PAGE_SIZE_MOST
from tidemill.wire.pages import Pager

if TYPE_CHECKING:  # at run time they are imported by the calls that need them
    from tidemill.wire.billing import UsageRow
    from tidemill.wire.launch import LaunchRequest
    from tidemill.wire.quote import QuoteInfo

Order: TypeAlias = "LaunchRequest | Mapping[str, Any]"

# Statuses that an instance stays in until somebody asks for something, or time or money does.
SETTLED = frozenset(
    state.value
    for state in (
        State.RUNNING,
        State.STOPPED,
        State.STARTING_FAILED,
        State.INITIALIZATION_FAILED,
        State.ARCHIVED,
        State.RELEASED,
    )
)
RUNNING = State.RUNNING.value
FIRST_LOOK, LONGEST_LOOK = 0.1, 2.0  # seconds between looks at what is waited for
EVENTS_AT_ONCE = 1000
PATIENCE = 1800.0  # seconds: the image may have to be pulled


class Instances(Modelled[K]):
    """``client.instances``."""

    @operation
    def create(self, order: Order, *, idempotency_key: str | None = None) -> Steps[str]:
        """Launch what ``order`` says, a LaunchRequest or the exact body; gives the id of the instance.

        The launch goes on by itself. A lost answer is asked for again under the same Idempotency-Key (one
        is made where none is given), so there is never a second instance. Raises Refused, NoAnswer.
        """
        ours = self.manner.service is Service.TIDEMILL
        headers = {"Idempotency-Key": idempotency_key or str(uuid4())} if ours else {}
        answer = yield from self._post(
            "/api/instance/create", InstanceAnswer, order, repeatable=ours, headers=headers
        )
        return answer.instanceId

    @operation
    def launch(
        self,
        name: str,
        type: str,
        image: str,
        *,
        region: str | None = None,
        charge_mode: str | None = None,
        duration: int = 1,
        spot: bool = False,
        ports: Sequence[int] = (),
        data_disk_gb: int = 0,
        init_script: str = "",
        env: Mapping[str, str] | None = None,
        ssh_key_ids: Sequence[str] | None = None,
        max_spend: Amount | None = None,
        stop_after_seconds: int | None = None,
        auto_renew: bool = False,
        instance_key: bool = False,
        options: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Steps[str]:
        """Launch by the names of type and image (see ``client.orders.compose``); gives the id.

        Raises Unknown, Refused, NoAnswer.
        """
        from tidemill.client.orders import compose
        from tidemill.wire.accounts import EmptyRequest
        from tidemill.wire.catalogue import ImageListAnswer, StockAnswer

        stock = yield from self._post(
            "/api/resource/user/instance/list", StockAnswer, EmptyRequest(), repeatable=True
        )
        images = yield from self._post(
            "/api/resource/image/list", ImageListAnswer, EmptyRequest(), repeatable=True
        )
        order = compose(
            stock,
            images,
            name=name,
            type=type,
            image=image,
            region=region,
            charge_mode=charge_mode,
            duration=duration,
            spot=spot,
            ports=ports,
            data_disk_gb=data_disk_gb,
            init_script=init_script,
            env=env,
            ssh_key_ids=ssh_key_ids,
            max_spend=max_spend,
            stop_after_seconds=stop_after_seconds,
            auto_renew=auto_renew,
            instance_key=instance_key,
            options=options,
        )
        return (yield from Instances.create.steps(self, order, idempotency_key=idempotency_key))

    @operation
    def quote(self, order: Order) -> Steps[QuoteInfo]:
        """What a launch would cost, after every check of it, and without it. Raises Refused, ClientError."""
        from tidemill.wire.quote import QuoteAnswer

        self._check_quotes()
        asked: Order = (
            {**order, "dryRun": True}
            if isinstance(order, Mapping)
            else order.model_copy(update={"dryRun": True})
        )
        answer = yield from self._post("/api/instance/create", QuoteAnswer, asked, repeatable=True)
        return answer.quote

    @operation
    def page(
        self,
        number: int = 1,
        size: int = 20,
        *,
        status: Collection[str] | None = None,
        name: str | None = None,
        region: str | None = None,
        include_released: bool = False,
    ) -> Steps[InstanceListAnswer]:
        """One page of the caller's instances, newest first; the first is number 1."""
        asked = _listing(Pager(currentPage=number, pageSize=size), status, name, region, include_released)
        return (yield from self._post("/api/instance/list", InstanceListAnswer, asked, repeatable=True))

    @stream
    def list(
        self,
        *,
        status: Collection[str] | None = None,
        name: str | None = None,
        region: str | None = None,
        include_released: bool = False,
        page_size: int = PAGE_SIZE_MOST,
    ) -> Flow[InstanceRow]:
        """All the caller's instances, newest first, page by page. ``name`` is a part of it."""

        def ask(pager: Pager) -> Steps[InstanceListAnswer]:
            asked = _listing(pager, status, name, region, include_released)
            return self._post("/api/instance/list", InstanceListAnswer, asked, repeatable=True)

        return pages(
            ask,
            lambda page: page.instances,
            lambda page: page.pager,
            identity=lambda row: row.instanceMetadata.instanceId,
            size=page_size,
        )

    @operation
    def get(self, instance_id: str) -> Steps[InstanceRow]:
        """One instance. Raises NotFound."""
        if self.manner.service is Service.TIDEMILL:
            return (yield from self._get(f"/api/instance/{instance_id}", InstanceRow))
        number = 1
        while True:  # there is no call for one
            page = yield from Instances.page.steps(self, number, 100)
            for row in page.instances:
                if row.instanceMetadata.instanceId == instance_id:
                    return row
            if not page.instances or number * 100 >= page.pager.totalEntries:
                raise NotFound("ent: instance not found", status=404, code="instanceNotFound")
            number += 1

    @operation
    def start(self, instance_id: str) -> Steps[None]:
        """Start a stopped instance. One that is started already is no error. Raises Refused."""
        yield from self._ask("start", instance_id, repeatable=True)

    @operation
    def quote_start(self, instance_id: str) -> Steps[QuoteInfo]:
        """What a start would cost, without it. Raises Refused, ClientError."""
        from tidemill.wire.quote import QuoteAnswer

        self._check_quotes()
        asked = StartRequest(instanceId=instance_id, dryRun=True)
        answer = yield from self._post("/api/instance/start", QuoteAnswer, asked, repeatable=True)
        return answer.quote

    @operation
    def stop(self, instance_id: str) -> Steps[None]:
        """Stop an instance; its disks are kept. Raises Refused."""
        yield from self._ask("stop", instance_id, repeatable=True)

    @operation
    def restart(self, instance_id: str) -> Steps[None]:
        """Stop and start an instance. Not sent a second time when its answer is lost. Raises Refused."""
        yield from self._ask("restart", instance_id, repeatable=False)

    @operation
    def terminate(self, instance_id: str) -> Steps[None]:
        """End an instance and its disks. Raises Refused; NotFound when it is gone already."""
        yield from self._ask("terminate", instance_id, repeatable=True)

    def _check_quotes(self) -> None:
        """HPC-AI's service ignores fields that it does not know: a dry run would be a launch."""
        if self.manner.service is not Service.TIDEMILL:
            raise ClientError("This service tells no price beforehand")

    def _ask(self, verb: str, instance_id: str, *, repeatable: bool) -> Steps[InstanceAnswer]:
        asked = InstanceRequest(instanceId=instance_id)
        return self._post(f"/api/instance/{verb}", InstanceAnswer, asked, repeatable=repeatable)

    @stream
    def events(self, instance_id: str, *, after: int = 0) -> Flow[EventRow]:
        """What happened to an instance so far, oldest first; only what has a higher seq than ``after``.

        For what happens from now on, see ``client.events``.
        """
        while True:
            query = {"after": str(after), "limit": str(EVENTS_AT_ONCE)}
            found = yield from self._get(f"/api/instance/{instance_id}/events", EventsAnswer, query)
            for row in found.events:
                yield Item(row)
            if len(found.events) < EVENTS_AT_ONCE:
                return
            after = found.events[-1].seq

    @stream
    def logs(self, instance_id: str, *, follow: bool = False, tail: int | None = None) -> Flow[bytes]:
        """What init script and console printed, in pieces as they come. Raises Refused, NoAnswer."""
        query = {"follow": "true"} if follow else {}
        if tail is not None:
            query["tail"] = str(tail)
        sent = Outgoing(
            "GET",
            f"/api/instance/{instance_id}/logs",
            query=query,
            quiet_for=math.inf if follow else None,
        )
        tap = yield from opened(self.manner.retries, sent)
        while (piece := (yield Read(tap))) is not None:
            yield Item(piece)

    @operation
    def usage(self, instance_id: str) -> Steps[UsageRow]:
        """How long an instance ran, and what it cost so far."""
        from tidemill.wire.billing import UsageRow

        return (yield from self._get(f"/api/instance/{instance_id}/usage", UsageRow))

    @stream
    def watch(self, instance_id: str, *, timeout: float = math.inf) -> Flow[InstanceRow]:
        """The instance now, and again whenever it has changed, until it is in a status that it stays in.

        A server that does not answer in between is asked again. Raises WaitedTooLong after ``timeout``
        seconds, Refused.
        """
        began: float = yield Now()
        pause, seen = FIRST_LOOK, None
        while True:
            row = yield from Instances.get.steps(self, instance_id)
            if row != seen:
                seen, pause = row, FIRST_LOOK
                yield Item(row)
            status = row.instanceRuntimeInfo.status
            if status in SETTLED:
                return
            now: float = yield Now()
            if now - began + pause > timeout:
                raise WaitedTooLong(
                    f"{_named(row)} is still {status} after {timeout:g} seconds; it goes on by itself", row
                )
            yield Sleep(pause)
            pause = min(LONGEST_LOOK, pause * 1.3)

    @operation
    def wait_until_running(self, instance_id: str, *, timeout: float = PATIENCE) -> Steps[InstanceRow]:
        """Wait until it can be entered. Raises LaunchFailed with the reason, WaitedTooLong, Refused."""
        return (yield from self._wait(instance_id, RUNNING, timeout))

    @operation
    def wait_until_stopped(self, instance_id: str, *, timeout: float = PATIENCE) -> Steps[InstanceRow]:
        """Wait until it has stopped. Raises NotReached where it goes elsewhere, WaitedTooLong, Refused."""
        return (yield from self._wait(instance_id, State.STOPPED.value, timeout))

    def _wait(self, instance_id: str, wanted: str, timeout: float) -> Steps[InstanceRow]:
        watched = Instances.watch.steps(self, instance_id, timeout=timeout)
        row = yield from last(watched)
        runtime = row.instanceRuntimeInfo
        if runtime.status == wanted:
            return row
        reason = runtime.diagnosisMessage or runtime.diagnosisReason or "nobody said why"
        raise LaunchFailed(f"{_named(row)} is {runtime.status} and not {wanted}: {reason}", row)

    @context
    def launched(self, order: Order, *, timeout: float = PATIENCE) -> Flow[InstanceRow]:
        """An instance for as long as the ``with`` block lasts: launched, waited for, always terminated.

        Also when it does not come to run, the block raises, or the program is interrupted while it waits.
        Raises what create, wait_until_running and terminate raise.
        """
        key = str(uuid4())
        try:
            made = yield from Instances.create.steps(self, order, idempotency_key=key)
        except ClientError:
            raise
        except BaseException:  # interrupted: it may have been made, and the same key says which one it is
            if self.manner.service is Service.TIDEMILL:
                made = yield from Instances.create.steps(self, order, idempotency_key=key)
                yield from self._end(made)
            raise
        try:
            row = yield from self._wait(made, RUNNING, timeout)
            yield Item(row)
        finally:
            yield from self._end(made)

    def _end(self, instance_id: str) -> Steps[None]:
        try:
            yield from self._ask("terminate", instance_id, repeatable=True)
        except NotFound:
            return


def _named(row: InstanceRow) -> str:
    about = row.instanceMetadata
    return about.instanceName or about.instanceId


def _listing(
    pager: Pager,
    status: Collection[str] | None,
    name: str | None,
    region: str | None,
    include_released: bool,
) -> InstanceListRequest:
    wanted: dict[str, Any] = {
        "status": list(status) if status else None,
        "name": name,
        "region": region,
        "includeReleased": include_released or None,
    }
    asked = {field: value for field, value in wanted.items() if value is not None}
    if not asked:
        return InstanceListRequest(pager=pager)
    return InstanceListRequest(pager=pager, filter=checked(Filter, asked))
