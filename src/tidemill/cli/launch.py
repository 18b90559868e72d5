"""``tidemill launch``: from flags, a file or answers to an instance that can be entered."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from tidemill.cli import following, order, quote
from tidemill.cli.asking import agrees, is_somebody_there
from tidemill.cli.connection import connected
from tidemill.cli.failures import Failure
from tidemill.cli.options import ServerOption
from tidemill.cli.order import Body, Catalogue, Said
from tidemill.cli.output import Form, Output, show_one, told

if TYPE_CHECKING:
    from tidemill.cli.following import Launch
    from tidemill.client import Client
    from tidemill.wire.instances import InstanceRow
    from tidemill.wire.quote import QuoteInfo

SSH_PORT = 22
NAMED = "By name or id; a part that only one has is enough."


def launch(
    name: Annotated[
        str | None, typer.Argument(help="What to call it; a name is made up otherwise.", show_default=False)
    ] = None,
    type: Annotated[
        str | None,
        typer.Option(
            "--type", "-t", metavar="NAME", help=f"What to rent: `tidemill price` lists it. {NAMED}"
        ),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            "--image", "-i", metavar="NAME", help=f"What it runs: `tidemill image list` lists it. {NAMED}"
        ),
    ] = None,
    region: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where; without it, where the type is in stock.")
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            "-m",
            metavar="hour|tide|day|week|month",
            help="How it is charged; without it, by the hour where that is offered.",
        ),
    ] = None,
    duration: Annotated[
        int | None, typer.Option(metavar="COUNT", help="How many days, weeks or months are bought.")
    ] = None,
    spot: Annotated[
        bool | None, typer.Option("--spot/--no-spot", help="Cheaper, and it may be taken away.")
    ] = None,
    port: Annotated[
        list[int] | None,
        typer.Option(
            "--port", "-p", metavar="PORT", help="A port inside to publish besides ssh; may be said again."
        ),
    ] = None,
    disk: Annotated[
        int | None, typer.Option(metavar="GB", help="Size of a data disk at /root/dataDisk.")
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|-", help="A script to run once at the first start; - reads it from stdin."
        ),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            "--env",
            "-e",
            metavar="K[=V]",
            help="A variable inside; may be said again. K alone passes on the value that it has here, "
            "which others cannot see in the list of processes.",
        ),
    ] = None,
    env_file: Annotated[
        str | None,
        typer.Option(metavar="FILE|-", help="Variables, one K=V or K on each line; # begins a comment."),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key", "-k", metavar="NAME", help="An ssh key that opens it; without it, all of the account's."
        ),
    ] = None,
    max_spend: Annotated[
        str | None, typer.Option(metavar="AMOUNT", help="Stop it when it has cost so much.")
    ] = None,
    stop_after: Annotated[
        str | None,
        typer.Option(metavar="SPAN", help="Stop it so long after it was reachable: 90m, 2h, 1h30m."),
    ] = None,
    auto_renew: Annotated[
        bool | None,
        typer.Option("--auto-renew/--no-auto-renew", help="Buy another day, week or month when one ends."),
    ] = None,
    instance_key: Annotated[
        bool | None,
        typer.Option(
            "--instance-key/--no-instance-key",
            help="Give it a key for itself: inside, `tidemill stop --self` works.",
        ),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            "--file",
            "-f",
            metavar="FILE|-",
            help="The body of the request, JSON or YAML, sent as it is; flags change fields of it.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before it is launched.")] = False,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Do not wait until it runs; print its id.")
    ] = False,
    no_init_wait: Annotated[
        bool, typer.Option("--no-init-wait", help="Do not wait until the init script has ended.")
    ] = False,
    cancel_on_interrupt: Annotated[
        bool,
        typer.Option("--cancel-on-interrupt", help="Ctrl-C, or being ended, ends the instance too. For CI."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what it would cost, and do nothing.")
    ] = False,
    curl: Annotated[
        bool,
        typer.Option(
            "--curl",
            help="Print the cURL call that would launch it, and do nothing. What --env and --init say is in "
            "it; the token or API key is not, but a variable of the shell.",
        ),
    ] = False,
    server: ServerOption = None,
    output: Output = Form.TABLE,
) -> None:
    """Launch an instance, and print how to enter it.

    What it costs is shown first, and asked about. On a terminal, type and image are asked for where nobody
    said them. Then it is waited for; Ctrl-C leaves the launch going on, or ends it when you say so.

    \b
    tidemill launch                                   answers questions
    tidemill launch train -t h100 -i pytorch -m tide  by name
    tidemill launch -f body.yaml -y                   the exact request, without a question
    """
    if [file, init, env_file].count(order.STDIN) > 1:
        raise order.wrong("Standard input can be read once, for one of --file, --init and --env-file")
    said = Said(
        name=name,
        type=type,
        image=image,
        region=region,
        mode=None if mode is None else order.charge_mode(mode),
        duration=duration,
        spot=spot,
        ports=tuple(port or ()),
        disk=disk,
        init=None if init is None else order.text_of(init, "--init"),
        env=order.environment(env or (), env_file),
        keys=tuple(key or ()),
        max_spend=max_spend,
        stop_after=None if stop_after is None else order.seconds(stop_after),
        auto_renew=auto_renew,
        instance_key=instance_key,
    )
    body = {} if file is None else order.body_in(file)
    if dry_run:
        body["dryRun"] = True
    does_nothing = curl or body.get("dryRun") is True
    _check_answers(said, body, asks=not (yes or does_nothing))
    if curl:
        _print_curl(said, body, server)
        return
    with connected(server) as client:
        catalogue = Catalogue(client)
        body = _completed(said, body, catalogue)
        ours = _is_ours(server)
        if does_nothing:
            _print_quote(client, body, catalogue, output)
            return
        if ours:
            _, facts = _quoted(client, body, catalogue)
            typer.echo(told(facts), err=True, nl=False)
            _warn_of_no_key(client)
        else:
            typer.echo(f"{quote.what_of(body, catalogue)}. This service tells no price beforehand.", err=True)
        if not yes and not agrees("Launch it?"):
            raise Failure("Nothing was launched", code="notConfirmed")
        if cancel_on_interrupt:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        made = following.begun(client, body, cancels=cancel_on_interrupt, knows_keys=ours)
        if detach:
            _print_detached(made, output)
        else:
            _print_entry(made, output, has_init=ours and not no_init_wait and _has_init(body))


def _check_answers(said: Said, body: Body, *, asks: bool) -> None:
    """Raises Failure where something would have to be asked, and nobody is there."""
    if is_somebody_there():
        return
    missing = [
        flag
        for flag, value, field in (
            ("--type", said.type, "instanceTypeId"),
            ("--image", said.image, "imageId"),
        )
        if value is None and field not in body
    ]
    if missing:
        raise order.wrong(
            f"{' and '.join(missing)} must be said",
            "What there is, show: tidemill price, tidemill image list",
        )
    if asks:
        raise order.wrong(
            "There is no terminal to ask on whether to launch it",
            "Say --yes to launch without a question, or --dry-run to see what it would cost",
        )


def _completed(said: Said, body: Body, catalogue: Catalogue) -> Body:
    """The whole body; what nobody said is asked for."""
    if is_somebody_there() and not order.is_whole(body):
        from tidemill.cli.questions import answered

        said = answered(said, body, catalogue)
    return order.body_of(said, body, catalogue)


def _is_ours(server: str | None) -> bool:
    """Whether the service knows what the contract does not: HPC-AI's would take a dry run for a launch."""
    from tidemill.cli.access import chosen
    from tidemill.client.service import Service

    return Service.at(chosen(server).server.url) is Service.TIDEMILL


def _has_init(body: Body) -> bool:
    configuration: Any = body.get("instanceConfiguration")
    return isinstance(configuration, dict) and bool(cast(Body, configuration).get("initScript"))


def _print_curl(said: Said, body: Body, server: str | None) -> None:
    from tidemill.cli.access import chosen
    from tidemill.cli.curl import curl

    if order.needs_names(said, body):
        with connected(server) as client:
            body = _completed(said, body, Catalogue(client))
    else:
        body = order.body_of(said, body, None)
    typer.echo(curl(chosen(server), body))


def _quoted(client: Client, body: Body, catalogue: Catalogue) -> tuple[QuoteInfo, list[tuple[str, str]]]:
    """The quote, and what to tell a person of it. Raises Refused: every check of a launch is made."""
    from tidemill.clock import SystemClock

    found = client.instances.quote(body)
    segments = (
        client.billing.price(
            str(body["instanceTypeId"]), str(body["region"]), spot=body.get("isSpotInstance") is True
        ).segments
        if quote.follows_tide(body)
        else []
    )
    what = quote.what_of(body, catalogue)
    return found, quote.facts(found, what=what, segments=segments, now=SystemClock().now())


def _print_quote(client: Client, body: Body, catalogue: Catalogue, output: Form) -> None:
    found, facts = _quoted(client, body, catalogue)
    show_one(found, facts, output, name=lambda _: str(body["name"]))


def _warn_of_no_key(client: Client) -> None:
    """One line; a key that may not look at them gets none."""
    from tidemill.client.errors import Refused

    try:
        keys = client.account.ssh_keys()
    except Refused:
        return
    if not keys:
        typer.echo(
            "There is no ssh key in this account. Add one with: tidemill key add; or tidemill ssh makes one",
            err=True,
        )


def _print_detached(made: Launch, output: Form) -> None:
    typer.echo(f"{made.name} is being launched. Look at it with: tidemill ls", err=True)
    if output in {Form.JSON, Form.YAML}:
        show_one(made.client.instances.get(made.id), [], output, name=lambda _: made.name)
    else:
        typer.echo(made.name if output is Form.NAME else made.id)


def _print_entry(made: Launch, output: Form, *, has_init: bool) -> None:
    """Wait, and print the ssh line. Raises Failure where it does not run, or its init script failed."""
    row = following.followed(made, has_init=has_init)
    if output is Form.TABLE:
        typer.echo(_ssh_line(row))
        typer.echo(f"Or: tidemill ssh {made.word}", err=True)
    else:
        show_one(row, [], output, name=lambda _: made.name)
    if has_init and (problem := following.init_failure(made)):
        raise Failure(
            f"{made.name} runs, but: {problem}",
            code="initScriptFailed",
            next=f"What it printed, shows: tidemill logs {made.word}",
        )


def _ssh_line(row: InstanceRow) -> str:
    spec = row.instanceSpecInfo
    port = next((each.nodePort for each in spec.nodePorts if each.port == SSH_PORT), SSH_PORT)
    return f"ssh -p {port} {row.instanceMetadata.instanceUsername}@{spec.regionInfo.sshAddress}"
