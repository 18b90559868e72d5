"""The init script: once, as root, after ssh is up; its output kept, its end told, its text private."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.guest.instance import Instance, docker, wait_until

from tidemill.guest.installed import INIT_LOG_PATH

pytestmark = pytest.mark.docker
Launch = Callable[..., Instance]


@pytest.mark.parametrize("kind", ["debian", "musl", "nothing"])
def test_runs_once_in_the_containers_environment(launch: Launch, kind: str) -> None:
    script = (
        'echo run >> /root/runs; pwd; echo "$HOME $USER $PLAIN"; echo bad >&2; exit 3\r\n# a web form\r\n'
    )
    with launch(kind, init_script=script) as instance:
        assert instance.init_ended() == 3
        output = "/root\n/root root value\nbad\n"
        assert instance.read(INIT_LOG_PATH) == output
        wait_until(lambda: docker("logs", instance.name) == output.strip(), "the engine has its output too")
        instance.stop()
        instance.start()
        instance.say("true")
        assert instance.read("/root/runs") == "run\n"
        assert instance.init_ended() == 3


def test_without_a_first_line_it_is_bashs_where_there_is_bash(launch: Launch) -> None:
    with launch("debian", init_script="a=(1 2); echo ${a[1]} ${BASH_VERSION%%.*}") as instance:
        assert instance.init_ended() == 0
        assert instance.read(INIT_LOG_PATH) == "2 5\n"


def test_with_a_first_line_it_is_its_interpreters(launch: Launch) -> None:
    script = "#! /usr/bin/env python3\nimport sys\nprint('from', 'python')\nsys.exit(4)\n"
    with launch("debian", init_script=script) as instance:
        assert instance.init_ended() == 4
        assert instance.read(INIT_LOG_PATH) == "from python\n"


def test_a_missing_interpreter_is_told(launch: Launch) -> None:
    with launch("nothing", init_script="#!/usr/bin/perl -w\nprint 1;\n") as instance:
        assert instance.init_ended() == 127
        assert (
            instance.read(INIT_LOG_PATH)
            == "tidemill: init script: no interpreter /usr/bin/perl in this image\n"
        )
        instance.say("true")


@pytest.mark.parametrize("first", ["", "#!/bin/sh\n"])
def test_interrupted_is_told_and_not_run_again(launch: Launch, first: str) -> None:
    script = f"{first}echo started; echo run >> /root/runs; sleep 1000"
    with launch("debian", init_script=script) as instance:
        wait_until(lambda: instance.read("/root/runs") is not None, "the script runs")
        assert instance.read(instance.guest.init_exit_path) is None
        assert instance.stop() < 3
        instance.start()
        assert instance.init_ended() == -1
        assert instance.read("/root/runs") == "run\n"


@pytest.mark.parametrize("first", ["", "#!/bin/sh\n"])
def test_its_text_is_in_nobodys_arguments(launch: Launch, first: str) -> None:
    with launch("debian", init_script=f"{first}: private-word\ntouch /root/runs\nsleep 1000\n") as instance:
        wait_until(lambda: instance.read("/root/runs") is not None, "the script runs")
        assert "private-word" not in docker("top", instance.name, "-eo", "pid,args")
        assert "private-word" not in docker("inspect", instance.name)


def test_ssh_is_up_before_it_runs(launch: Launch) -> None:
    script = "nc -w 2 127.0.0.1 22 </dev/null | head -c 7"
    with launch("nothing", init_script=script) as instance:
        assert instance.init_ended() == 0
        assert instance.read(INIT_LOG_PATH) == "SSH-2.0"


def test_another_instances_end_does_not_count(launch: Launch) -> None:
    """A saved image carries the traces of the instance it was made from."""
    with launch("debian", init_script="echo mine") as instance:
        assert instance.init_ended() == 0
        instance.stop()
        instance.host_key = bytes(32)
        instance.init_script = "exit 8"
        instance.give(instance.person.public_line)
        instance.start()
        wait_until(lambda: instance.read(instance.guest.init_exit_path) == "8\n", "its own script has ended")
