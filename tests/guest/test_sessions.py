"""What a person does over ssh, in an image with everything, with another libc, and with nothing."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from tests.guest.instance import ENV, SECONDS, Instance, Terminal, docker, wait_until

pytestmark = pytest.mark.docker


def test_exit_status(instance: Instance) -> None:
    assert [instance.ssh(f"exit {code}").returncode for code in (0, 1, 42)] == [0, 1, 42]


def test_death_by_a_signal_is_not_success(instance: Instance) -> None:
    assert instance.ssh("kill -9 $$").returncode != 0


def test_quoting_reaches_the_shell_as_it_was_written(instance: Instance) -> None:
    text = """a  b 'c' "d" $(echo e) \\ * ; &\nnext line"""
    quoted = text.replace("'", "'\\''")
    done = instance.ssh(f"printf '%s' '{quoted}'")
    assert (done.stdout, done.stderr) == (text.encode(), b"")


def test_streams_are_clean(instance: Instance) -> None:
    """Every byte comes back as it went, and nothing is added to either stream."""
    content = bytes(range(256)) * 4096 + os.urandom(65536)
    done = instance.ssh("cat", input=content)
    assert done.stdout == content
    assert done.stderr == b""
    done = instance.ssh("echo out; echo err >&2")
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


def test_environment_is_the_containers(instance: Instance) -> None:
    env = dict(line.split("=", 1) for line in instance.say("env -0").split("\0") if line)
    applets = ":/.tidemill/applets" if env["SHELL"].startswith("/.tidemill") else ""
    assert {name: env[name] for name in ENV} == ENV | {"PATH": ENV["PATH"] + applets}
    assert (env["HOME"], env["USER"], env["LOGNAME"]) == ("/root", "root", "root")
    assert env["SSH_CONNECTION"].split()[-1] == "22"
    assert instance.say("pwd") == "/root\n"


def test_root_without_a_password(instance: Instance) -> None:
    assert instance.say("id -u; id -un") == "0\nroot\n"
    done = instance.ssh("-o", "PubkeyAuthentication=no", "-v", "true")
    assert done.returncode == 255
    assert b"Permission denied (publickey)" in done.stderr


def test_data_disk_folder(instance: Instance) -> None:
    instance.say("test -d /root/dataDisk && test -w /root/dataDisk")


def test_sftp(instance: Instance, tmp_path: Path) -> None:
    content = os.urandom(300_000)
    (tmp_path / "sent").write_bytes(content)
    done = subprocess.run(
        ["sftp", *instance.options_for(), "-P", str(instance.port), "-b", "-", "root@127.0.0.1"],
        input=f"pwd\nput {tmp_path}/sent there\nchmod 600 there\nget there {tmp_path}/back\nrm there\n",
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Remote working directory: /root\n" in done.stdout
    assert (tmp_path / "back").read_bytes() == content


@pytest.mark.parametrize("remote", ["copied", "~/copied", "/tmp/copied"])
def test_scp(instance: Instance, tmp_path: Path, remote: str) -> None:
    content = os.urandom(100_000)
    (tmp_path / "sent").write_bytes(content)
    there = f"root@127.0.0.1:{remote}"
    for source, target in (("sent", there), (there, "back")):
        done = subprocess.run(
            ["scp", *instance.options_for(), "-P", str(instance.port), source, target],
            cwd=tmp_path,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "back").read_bytes() == content
    instance.say("test -f " + (remote if remote.startswith("/") else "/root/copied"))


def test_terminal_with_job_control(instance: Instance) -> None:
    with Terminal(instance.ssh_command("-tt")) as terminal:
        terminal.type("stty -echo; PS1='ready''> '\r")
        hello = terminal.expect(r"(?s).*ready> ")
        assert "job control" not in hello
        assert "tty" not in hello.replace("stty -echo", "")
        terminal.type("tty; echo $TERM\r")
        terminal.expect(r"/dev/pts/\d+\s+xterm\s+ready> ")
        terminal.type("cat\r")
        wait_until(lambda: " cat" in docker("top", instance.name), "cat runs")
        terminal.type("one\r")
        terminal.expect("one")
        terminal.type("\x1a")
        terminal.expect(r"(?s)Stopped.*ready> ")
        terminal.type("echo $PATH\r")
        assert ENV["PATH"] in terminal.expect(r"(?s)/opt/tools/bin:.*ready> ")
        terminal.type("fg\r")
        terminal.expect("cat")
        terminal.type("two\r")
        terminal.expect("two")
        terminal.type("\x04")
        terminal.expect("ready> ")
        terminal.type("exit 3\r")
        assert terminal.returncode() == 3, terminal.seen


def test_interrupt_key_reaches_the_command(instance: Instance) -> None:
    with Terminal(
        instance.ssh_command(
            "-tt", "trap 'echo inter''rupted; exit 9' INT; echo wai''ting; while :; do sleep 0.2; done"
        )
    ) as terminal:
        terminal.expect("waiting")
        terminal.type("\x03")
        terminal.expect("interrupted")
        assert terminal.returncode() == 9


def test_login_shell_without_a_terminal(instance: Instance) -> None:
    done = instance.ssh("-T", input=b"echo from stdin; exit 5\n")
    assert (done.stdout, done.returncode) == (b"from stdin\n", 5)


def test_message_of_the_day_is_for_terminals(instance: Instance) -> None:
    motd = instance.files / "motd"
    motd.write_text("notice: nine lives left\n")
    try:
        with Terminal(instance.ssh_command("-tt")) as terminal:
            terminal.expect("nine lives left")
        assert instance.say("true") == ""
        assert b"nine lives" not in instance.ssh("-T", input=b"exit\n").stdout
    finally:
        motd.unlink()


def test_notices_greet_whoever_comes_in(instance: Instance) -> None:
    """As long as the driver's file is there; others than root may read it, and it comes back when lost."""
    notices, since = instance.files / "notices", "2026-03-01T12:00:00Z"

    def told() -> str:
        return instance.ssh("/.tidemill/bin/busybox cat /run/tm/notices").stdout.decode()

    lines = f"{since} money it lasts for * less than an hour\n{since} term it \\nends\n"
    notices.write_text(lines)
    notices.chmod(0o600)
    try:
        wait_until(lambda: told() == lines, "programs are told")
        assert instance.say("/.tidemill/bin/busybox stat -c %a /run/tm /run/tm/notices") == "755\n644\n"
        with Terminal(instance.ssh_command("-tt")) as terminal:
            first = rf"\*\* it lasts for \* less than an hour \(told at {since}\)"
            terminal.expect(rf"{first}\r\n\*\* it \\nends \(told at {since}\)\r\n")
        assert instance.say("true") == ""
        assert instance.ssh("-T", input=b"exit\n").stdout == b""
        instance.say("/.tidemill/bin/busybox rm -r /run/tm")
        wait_until(lambda: told() == lines, "programs are told again")
    finally:
        notices.unlink()
    wait_until(lambda: told() == "", "nothing is told any more")
    with Terminal(instance.ssh_command("-tt")) as terminal:
        terminal.type("echo rea''dy; exit\r")
        terminal.expect("ready")
        terminal.returncode()
        assert "less than an hour" not in terminal.seen


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_forwarding_to_the_instance(instance: Instance) -> None:
    port = _free_port()
    with subprocess.Popen(
        instance.ssh_command("-N", "-L", f"127.0.0.1:{port}:127.0.0.1:22"), stderr=subprocess.PIPE
    ) as client:
        try:

            def banner() -> bool:
                try:
                    with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                        return connection.recv(64).startswith(b"SSH-2.0-dropbear")
                except OSError:
                    return False

            wait_until(banner, "the forwarded port leads to the instance's ssh server")
        finally:
            client.terminate()


def test_forwarding_from_the_instance(instance: Instance) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SECONDS)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"from the client's side\n")

        server = threading.Thread(target=serve)
        server.start()
        there = 20_000 + listener.getsockname()[1] % 10_000
        done = instance.ssh(
            "-R",
            f"{there}:127.0.0.1:{listener.getsockname()[1]}",
            f"/.tidemill/bin/busybox nc 127.0.0.1 {there} </dev/null",
        )
        server.join()
    assert done.stdout == b"from the client's side\n", done.stderr


def test_several_sessions_over_one_connection(instance: Instance, tmp_path: Path) -> None:
    control = ["-o", f"ControlPath={tmp_path}/c"]
    with subprocess.Popen(instance.ssh_command("-M", "-N", *control)) as master:
        try:
            wait_until((tmp_path / "c").exists, "the connection stands")
            for number in range(5):
                assert instance.ssh(*control, f"echo {number}").stdout == f"{number}\n".encode()
        finally:
            master.kill()  # told to end, it waits for sessions that are still closing
