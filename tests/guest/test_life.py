"""What an instance does by itself: keys, stopping, coming back, reaping, strange images."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.guest.instance import SECONDS, Instance, Person, docker, wait_until

from tidemill.guest.installed import InstalledGuest

pytestmark = pytest.mark.docker
Launch = Callable[..., Instance]

AT_ONCE = 6  # seconds: whoever does not end by themselves is given seven
OWN_KEYS = "/root/.ssh/authorized_keys"


def _enters(instance: Instance, person: Person) -> bool:
    return instance.ssh("true", person=person).returncode == 0


def test_keys_come_and_go_while_it_runs(instance: Instance, tmp_path: Path) -> None:
    other = Person.with_new_key(tmp_path)
    assert not _enters(instance, other)
    instance.give(instance.person.public_line, other.public_line)
    wait_until(lambda: _enters(instance, other), "an added key opens")
    instance.give(other.public_line)
    wait_until(lambda: not _enters(instance, instance.person), "a removed key does not open")
    assert _enters(instance, other)
    instance.give(instance.person.public_line)
    wait_until(lambda: not _enters(instance, other), "a removed key does not open")


def test_keys_of_the_users_own_are_kept_and_not_touched(instance: Instance, tmp_path: Path) -> None:
    friend = Person.with_new_key(tmp_path)
    content = f"# mine\n{friend.public_line}"  # and no newline at its end
    instance.say(f"umask 077; mkdir -p /root/.ssh; cat > {OWN_KEYS}", input=content.encode())
    wait_until(lambda: _enters(instance, friend), "a key of the user's own opens")
    instance.give(instance.person.public_line, instance.person.public_line)
    wait_until(lambda: _enters(instance, instance.person), "the account's key opens")
    assert instance.say(f"cat {OWN_KEYS}") == content
    instance.say(f"chmod 666 {OWN_KEYS}")
    wait_until(lambda: not _enters(instance, friend), "keys that anybody may change do not open")
    instance.say(f"rm {OWN_KEYS}")


def test_a_key_of_the_users_own_can_be_bound_to_a_command(instance: Instance, tmp_path: Path) -> None:
    robot = Person.with_new_key(tmp_path)
    line = f'command="echo only $SSH_ORIGINAL_COMMAND" {robot.public_line}\n'
    instance.say(f"umask 077; mkdir -p /root/.ssh; cat > {OWN_KEYS}", input=line.encode())
    wait_until(lambda: _enters(instance, robot), "a key of the user's own opens")
    assert instance.ssh("id", person=robot).stdout == b"only id\n"
    instance.say(f"rm {OWN_KEYS}")


def test_no_keys_no_entry(launch: Launch) -> None:
    with launch("nothing") as instance:
        instance.give()
        wait_until(lambda: not _enters(instance, instance.person), "nobody gets in")


def test_the_server_comes_back_after_it_was_killed(instance: Instance) -> None:
    docker("exec", instance.name, "/.tidemill/applets/killall", "-9", "dropbear")
    wait_until(lambda: instance.ssh("true").returncode == 0, "the ssh server is back")


def test_what_lost_its_parent_is_reaped(instance: Instance) -> None:
    instance.say("(sleep 0.1 & sleep 0.2 & sleep 0.3 &) >/dev/null 2>&1")
    zombies = "cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z ' || true"
    wait_until(
        lambda: (
            docker("exec", instance.name, "/.tidemill/applets/sh", "-c", zombies) == "0"
            and docker("top", instance.name).count("sleep 0.") == 0
        ),
        "no dead process is left",
    )


@pytest.mark.parametrize("kind", ["debian", "nothing"])
def test_stops_at_once_and_comes_back_the_same(launch: Launch, kind: str) -> None:
    with launch(kind) as instance:
        instance.say("echo kept > /root/dataDisk/file; (sleep 1000 >/dev/null 2>&1 &)")
        with subprocess.Popen(instance.ssh_command("sleep 1000"), stdin=subprocess.DEVNULL) as session:
            wait_until(lambda: docker("top", instance.name).count("sleep 1000") >= 2, "both sleep")
            assert instance.stop() < AT_ONCE
            session.wait(timeout=SECONDS)
        assert docker("inspect", "--format", "{{.State.ExitCode}}", instance.name) == "0"
        instance.start()  # and its host key is the same: the client is strict
        assert instance.say("cat /root/dataDisk/file") == "kept\n"


def test_everybody_is_asked_to_end_before_they_must(launch: Launch) -> None:
    with launch("nothing") as instance:
        instance.say(
            "(trap 'echo asked > /root/asked; exit' TERM; while :; do sleep 0.1; done) >/dev/null 2>&1 & "
            "(trap '' TERM HUP; while :; do sleep 0.1; done) >/dev/null 2>&1 &"
        )
        took = instance.stop()
        assert 6 < took < SECONDS, "the deaf are waited for, and not as long as Docker would"
        assert docker("inspect", "--format", "{{.State.ExitCode}}", instance.name) == "0"
        instance.start()
        assert instance.say("cat /root/asked") == "asked\n"


FILL = b"""
import os, time
try:
    while os.fork():
        pass
except OSError:
    print("full", flush=True)
time.sleep(4)
"""


def test_an_instance_full_of_processes_goes_on_afterwards(launch: Launch, tmp_path: Path) -> None:
    other = Person.with_new_key(tmp_path)
    started = "{{.State.StartedAt}} {{.RestartCount}}"
    with launch("debian", options=["--pids-limit", "40"]) as instance:
        before = docker("inspect", "--format", started, instance.name)
        assert instance.say("python3 -", input=FILL) == "full\n"
        instance.give(instance.person.public_line, other.public_line)
        wait_until(lambda: _enters(instance, other), "all is as before")
        assert docker("inspect", "--format", started, instance.name) == before
        assert instance.stop() < AT_ONCE


def test_other_signals_do_not_end_it(launch: Launch) -> None:
    with launch("nothing") as instance:
        for signal in ("HUP", "USR1", "USR2", "QUIT", "WINCH"):
            docker("kill", "--signal", signal, instance.name)
        instance.say("true")
        assert (
            docker("inspect", "--format", "{{.RestartCount}} {{.State.Running}}", instance.name) == "0 true"
        )


def test_the_image_with_one_static_binary(launch: Launch) -> None:
    with launch("busybox") as instance:
        assert instance.say("ls /bin; cat /etc/passwd").startswith("busybox\nroot:x:0:0:root:/root:")


SPOILED = """
sed -i 's|^root:.*|root:x:0:0:root:/root:/usr/sbin/nologin|' /etc/passwd
rm /etc/shells
printf 'passwd: nothing files\\ngroup: nothing files\\n' > /etc/nsswitch.conf
mkdir -p /root/.ssh
chmod 777 /root /root/.ssh
"""


def test_an_image_that_is_against_it(launch: Launch) -> None:
    """No login allowed, home for everybody, preloaded libraries, no environment left alone."""
    hostile = {"LD_PRELOAD": "/lib/nowhere.so", "LD_LIBRARY_PATH": "/etc", "ENV": "/etc/x", "IFS": "o"}
    options = [argument for name, value in hostile.items() for argument in ("--env", f"{name}={value}")]
    with launch("debian", options=options) as instance:
        docker("exec", "--env", "LD_PRELOAD=", instance.name, "bash", "-c", SPOILED)
        instance.stop()
        instance.start()
        done = instance.ssh('echo "$SHELL $LD_PRELOAD $LD_LIBRARY_PATH"; grep ^root: /etc/passwd')
        assert done.stdout.decode() == (
            "/usr/bin/bash /lib/nowhere.so /etc\nroot:x:0:0:root:/root:/usr/sbin/nologin\n"
        )
        sftp = subprocess.run(
            ["sftp", *instance.options_for(), "-P", str(instance.port), "-b", "-", "root@127.0.0.1"],
            input=b"ls -l /etc/passwd\n",
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        assert b"root     root" in sftp.stdout, sftp.stderr


def test_users_of_the_image_enter_with_their_own_keys(launch: Launch, tmp_path: Path) -> None:
    friend = Person.with_new_key(tmp_path)
    with launch("debian") as instance:
        instance.say(
            "useradd -m -s /bin/bash ada && cd /home/ada && install -d -m 700 -o ada -g ada .ssh && "
            "install -m 600 -o ada -g ada /dev/stdin .ssh/authorized_keys",
            input=friend.public_line.encode(),
        )
        wait_until(lambda: instance.ssh("true", person=friend, user="ada").returncode == 0, "ada enters")
        assert instance.ssh("id -un; pwd; echo $PLAIN $SHELL", person=friend, user="ada").stdout == (
            b"ada\n/home/ada\nvalue /bin/bash\n"
        )
        assert not _enters(instance, friend)


def test_the_old_scp_where_the_image_has_it(launch: Launch, tmp_path: Path) -> None:
    content = os.urandom(100_000)
    (tmp_path / "sent").write_bytes(content)
    with launch("debian") as instance:
        target = "root@127.0.0.1:/root/dataDisk/it"
        command = ["scp", "-O", *instance.options_for(), "-P", str(instance.port), tmp_path / "sent", target]
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
        assert done.returncode == 0, done.stderr
        assert instance.ssh("cat dataDisk/it").stdout == content


def test_rsync_where_the_image_has_it(launch: Launch, tmp_path: Path) -> None:
    """The other side's rsync is the image's too, so that none is needed on this machine."""
    with launch("debian") as here, launch("debian") as there:
        address = docker("inspect", "--format", "{{.NetworkSettings.IPAddress}}", there.name)
        here.say("umask 077; cat > /root/key", input=here.person.key.read_bytes())
        here.say("head -c 100000 /dev/urandom > /root/sent")
        ssh = "ssh -i /root/key -o StrictHostKeyChecking=accept-new"
        here.say(f"rsync -a -e '{ssh}' /root/sent root@{address}:dataDisk/")
        assert there.ssh("cat dataDisk/sent").stdout == here.ssh("cat sent").stdout != b""


def test_agent_forwarding(launch: Launch) -> None:
    with launch("debian") as instance:
        done = subprocess.run(
            ["ssh-agent", "sh", "-c", 'ssh-add -q "$0" && "$@"', str(instance.person.key),
             *instance.ssh_command("-A", "ssh-add -L")],
            capture_output=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        assert done.stdout.decode().strip() == instance.person.public_line, done.stderr


def test_it_refuses_to_share_a_pid_namespace(guest: InstalledGuest, images: Callable[[str], str]) -> None:
    """Its last act is to end every process it can see: it must not see anybody else's."""
    volume = f"{guest.folder}:{guest.mount}:ro"
    done = subprocess.run(
        ["docker", "run", "--rm", "--init", "--volume", volume, images("nothing"), *guest.command],
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout) == (64, b"")
    assert b"first process of its own pid namespace" in done.stderr
