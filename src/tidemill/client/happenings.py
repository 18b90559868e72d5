"""What happens to the caller's instances, as it happens: server-sent events that go on where they were."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tidemill.client.effects import Flow, Item, Now, Outgoing, Read, Sleep
from tidemill.client.errors import EventsLost, NoAnswer, NotUnderstood
from tidemill.client.kinds import K, stream
from tidemill.client.sending import opened
from tidemill.client.subject import Subject

if TYPE_CHECKING:
    from tidemill.wire.events import InstanceEvent

PATH = "/api/events"
EVENTS = "text/event-stream"
SILENCE = 50.0  # seconds: the server sends something every 15
STEADY = 5.0  # seconds after which a stream counts as one that worked


@dataclass(slots=True)
class Frame:
    """One server-sent event; of an id alone, ``event`` and ``data`` are empty."""

    id: str = ""
    event: str = ""
    data: list[str] = field(default_factory=list[str])


class Frames:
    """From pieces of bytes to frames, by the rules of HTML's "event stream" (WHATWG, 9.2.6)."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._text = ""
        self._frame = Frame()

    def feed(self, piece: bytes) -> Iterator[Frame]:
        """The frames that are whole with this piece; comments and what else is no field is passed over."""
        self._text += self._decoder.decode(piece)
        *lines, self._text = self._text.replace("\r\n", "\n").split("\n")
        for line in lines:
            if line:
                self._take(line)
            elif self._frame != Frame():
                whole, self._frame = self._frame, Frame()
                yield whole

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "id":
                self._frame.id = value
            case "event":
                self._frame.event = value
            case "data":
                self._frame.data.append(value)
            case _:
                return


class Happenings(Subject[K]):
    """``client.events``."""

    @stream
    def events(
        self, *, instance_id: str | None = None, after: int | None = None, follow: bool = True
    ) -> Flow[InstanceEvent]:
        """Everything that happens to the caller's instances, or to one, until it is closed.

        From now on, or after the event with the seq ``after``. A stream that breaks off goes on where it
        was: none is missed and none comes twice. Without ``follow`` it ends with what is known now. Raises
        EventsLost where the server was restored from a backup that does not know ``after``; NoAnswer when
        it cannot be reached for as long as the client's retries last; Refused.
        """
        query = {} if instance_id is None else {"instanceId": instance_id}
        query |= {} if follow else {"follow": "false"}
        last = None if after is None else str(after)
        attempt = 0
        while True:
            headers = {"Accept": EVENTS} | ({} if last is None else {"Last-Event-ID": last})
            sent = Outgoing("GET", PATH, headers=headers, query=query, quiet_for=SILENCE)
            tap = yield from opened(self.manner.retries, sent)
            if tap.media_type != EVENTS:
                raise NotUnderstood("What came is no stream of events; is it a tidemill server?")
            began: float = yield Now()
            frames = Frames()
            try:
                while (piece := (yield Read(tap))) is not None:
                    for frame in frames.feed(piece):
                        last = frame.id or last
                        if frame.event == "reset":
                            raise EventsLost(
                                _message(frame), after=int(last) if last and last.isdecimal() else 0
                            )
                        if frame.event == "instance":
                            yield Item(_event(frame))
                if not follow:
                    return
            except NoAnswer:
                if not follow:
                    raise
            ended: float = yield Now()
            attempt = 1 if ended - began > STEADY else attempt + 1
            yield Sleep(self.manner.retries.pause(attempt))


def _event(frame: Frame) -> InstanceEvent:
    from tidemill.client.effects import Reply
    from tidemill.client.modelled import understood
    from tidemill.client.service import Service
    from tidemill.wire.events import InstanceEvent

    whole = Reply(200, {}, "\n".join(frame.data).encode())
    return understood(whole, InstanceEvent, Service.TIDEMILL)


def _message(frame: Frame) -> str:
    import json

    try:
        said = json.loads("\n".join(frame.data))["message"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return "The server lost its place"
    return str(said)
