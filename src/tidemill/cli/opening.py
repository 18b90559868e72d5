"""``tidemill open``: what an instance serves, in the browser."""

from __future__ import annotations

import os
import shlex
import sys
from typing import Annotated

import typer

from tidemill.cli import resolving
from tidemill.cli.completion import instance_names
from tidemill.cli.connection import connected
from tidemill.cli.failures import Exit, Failure
from tidemill.cli.options import ServerOption
from tidemill.cli.output import Form, Output, show_rows
from tidemill.cli.table import Column


def open_(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="An instance by name, id or a beginning of one.",
            autocompletion=instance_names,
            show_default=False,
        ),
    ],
    port: Annotated[
        int | None,
        typer.Argument(metavar="[PORT]", help="As it is inside; needed where there are several.", min=1),
    ] = None,
    print_only: Annotated[bool, typer.Option("--print", help="Print the address, and open nothing.")] = False,
    server: ServerOption = None,
    output: Output = Form.TABLE,
) -> None:
    """Open a port of an instance in the browser, and print its address.

    Ports are published at launch; all that is not, ssh forwards: tidemill ssh NAME -L 8888:localhost:8888
    """
    from tidemill.cli.entering import running
    from tidemill.cli.route import is_address
    from tidemill.model.instance import SSH_PORT

    with connected(server) as client:
        row = running(client, resolving.instance(client, name), name)
    address = row.instanceSpecInfo.regionInfo.sshAddress
    if not is_address(address):
        raise Failure(f"The server says an impossible address: {address!r}", code="badAnswer")
    ports = {
        each.port: url_of(address, each.nodePort)
        for each in row.instanceSpecInfo.nodePorts
        if each.port != SSH_PORT
    }
    found = ports if port is None else {at: url for at, url in ports.items() if at == port}
    if not found:
        there = f"; published are: {', '.join(map(str, ports))}" if ports else ""
        what = "no port but that of ssh" if port is None else f"no port {port}"
        forwarded = port or 8888
        raise Failure(
            f"{name} has published {what}{there}",
            exit=Exit.NOT_FOUND,
            code="noPort",
            next=f"Forward it with: tidemill ssh {shlex.quote(name)} -L {forwarded}:localhost:{forwarded}",
        )
    rows = [{"port": at, "url": url} for at, url in found.items()]
    if len(rows) > 1 or output is not Form.TABLE:
        columns = [
            Column("PORT", lambda each: str(each["port"]), right=True),
            Column("ADDRESS", lambda each: each["url"], firm=True),
        ]
        show_rows(rows, columns, output, name=lambda each: str(each["url"]), empty="")
        return
    (url,) = found.values()
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()
    if not print_only and not _shown(url):
        typer.echo("There is no browser here", err=True)


def url_of(address: str, port: int) -> str:
    return f"http://{f'[{address}]' if ':' in address else address}:{port}"


def _shown(url: str) -> bool:
    """In a browser with a window, or in the one that BROWSER names; one that takes the terminal is none."""
    import webbrowser

    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return False
    takes_terminal = isinstance(browser, webbrowser.GenericBrowser) and not isinstance(
        browser, webbrowser.BackgroundBrowser
    )
    if takes_terminal and not os.environ.get("BROWSER"):
        return False
    return browser.open(url)
