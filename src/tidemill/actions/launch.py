"""Launch: write down that an instance is wanted, with its terms, its place and its ports.

One transaction; the loop does the rest. Nothing here talks to a driver.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from datetime import datetime
from typing import TypeVar
from uuid import uuid4

from sqlalchemy import Connection

from tidemill.actions.context import Context
from tidemill.actions.funds import hold_for_start
from tidemill.actions.instance_keys import new_key_hash
from tidemill.actions.quota import check_quota
from tidemill.actions.quoting import quote_of
from tidemill.model.account import Caller
from tidemill.model.errors import Invalid, NotFound, OutOfStock, TidemillError, Unavailable
from tidemill.model.instance import SSH_PORT, Instance, Order, hostname_for
from tidemill.model.lifecycle import State
from tidemill.model.money import shown
from tidemill.model.offer import ChargeMode, Image, InstanceType, Region
from tidemill.model.placement import Need
from tidemill.model.quote import Quote
from tidemill.settings import Settings
from tidemill.store import accounts, instances, launch_keys, metering, nodes, offers, reservations, tariffs
from tidemill.store.instances import Stale
from tidemill.store.tariffs import Price
from tidemill.store.undone import undone

T = TypeVar("T")

TRIES = 50  # each one lost is a machine that was filled by somebody else


async def launch(context: Context, caller: Caller, order: Order, *, key: str | None, body: bytes) -> str:
    """Accept an order and return the new instance's id.

    ``key`` and ``body`` are the caller's Idempotency-Key and the request as it came: the same
    key and body within 24 hours return the same id. Raises NotFound, Invalid, Forbidden (a quota),
    OutOfStock, NotEnoughMoney, Conflict (key used with another body, no key for instances),
    Unavailable (no node port left, no machine in the region).
    """
    now = context.clock.now()
    fingerprint = hashlib.sha256(body).hexdigest() if key is not None else ""
    new_id = _new_id()

    def work(connection: Connection) -> str:
        if key is not None:
            earlier = launch_keys.keep(connection, caller.user.id, key, fingerprint, new_id, now)
            if earlier != new_id:
                return earlier
        return _accept(connection, context.settings, caller, order, now, new_id).id

    try:
        instance_id = await _placed(context, work)
    except TidemillError as error:
        context.metrics.refused_launches.add(error.code)
        raise
    if instance_id == new_id:
        context.metrics.launches.add(order.region_id)
    context.wake.set()
    return instance_id


async def quote(context: Context, caller: Caller, order: Order) -> Quote:
    """What launching this would mean, by launching it and undoing that before anybody sees it.

    Raises what ``launch`` raises.
    """
    now = context.clock.now()

    def work(connection: Connection) -> Quote:
        with undone(connection):
            owed = metering.uncovered(connection, caller.user.id, now)
            made = _accept(connection, context.settings, caller, order, now, _new_id())
            return quote_of(connection, made, 0, owed, now)

    return await _placed(context, work, durable=False)


async def _placed(context: Context, work: Callable[[Connection], T], *, durable: bool = True) -> T:
    """The same again when another server filled the machine between our look and our reach (PostgreSQL)."""
    for _ in range(TRIES):
        try:
            return await context.database.write(work, durable=durable)
        except Stale:
            continue
    raise Unavailable("Too many launches at the same moment; please try again", code="busy")


def _new_id() -> str:
    return f"notebook-{uuid4()}"


def _accept(
    connection: Connection,
    settings: Settings,
    caller: Caller,
    order: Order,
    now: datetime,
    instance_id: str,
) -> Instance:
    user_id = caller.user.id
    image, kind, region = _look_up(connection, order)
    price = _terms(connection, settings, kind, order)
    _check_keys(connection, user_id, order)
    check_quota(connection, settings, user_id, new_instances=1, new_gpus=kind.gpu_num)
    need = Need(kind.cpu_milli, kind.memory_mb, kind.gpu_num)
    node_id = reservations.place(connection, region.id, need, kind.gpu_name)
    if node_id is None and not nodes.any_present(connection, region.id):
        raise Unavailable(
            f'No machine of the region "{region.name}" has answered yet; try again later '
            "(what is wrong, /readyz tells the operator)",
            code="regionUnavailable",
        )
    if node_id is None:
        raise OutOfStock(_out_of_stock(connection, kind, region))
    instance = Instance(
        id=instance_id,
        user_id=user_id,
        name=order.name,
        hostname=hostname_for(order.name, instance_id),
        region_id=region.id,
        node_id=node_id,
        type_id=kind.id,
        type_name=kind.name,
        image_id=image.id,
        image_name=image.name,
        image_reference=image.reference,
        cpu_milli=kind.cpu_milli,
        memory_mb=kind.memory_mb,
        shm_mb=kind.shm_mb,
        pids=kind.pids,
        gpu_name=kind.gpu_name,
        gpu_num=kind.gpu_num,
        charge_mode=order.charge_mode,
        duration=order.duration,
        price_micro=price.amount,
        is_spot=order.is_spot,
        data_disk_gb=order.data_disk_gb,
        enable_common_data=order.enable_common_data,
        enable_docker=order.enable_docker,
        docker_storage_gb=order.docker_storage_gb,
        init_script=order.init_script,
        env=dict(order.env),
        ssh_key_ids=order.ssh_key_ids,
        host_key=secrets.token_bytes(32),
        created_at=now,
        state=State.INITIALIZING,
        state_since=now,
        reason="",
        message="",
        start=1,
        version=1,
        due_at=now,
        not_before=None,
        failures=0,
        revision=0,
        applied_revision=0,
        progress=None,
        init_exit=None,
        started_at=None,
        tariff_id=price.id,
        disk_price_micro=tariffs.disk_price(connection, region.id) if order.data_disk_gb else 0,
        api_key_id=caller.api_key_id,
        max_spend_micro=order.max_spend_micro,
        stop_after_seconds=order.stop_after_seconds,
        auto_renew=order.auto_renew,
        key_hash=new_key_hash(connection, settings, instance_id) if order.instance_key else None,
    )
    instances.insert_new(connection, instance)
    hold_for_start(connection, settings, instance, price, now)
    reservations.give_ports(
        connection, instance_id, node_id, (SSH_PORT, *order.node_ports), settings.node_ports
    )
    _say_what_is_missing(connection, instance, now)
    return instance


def _look_up(connection: Connection, order: Order) -> tuple[Image, InstanceType, Region]:
    image = offers.offered_image(connection, order.image_id)
    if image is None:
        raise NotFound("image not found", code="imageNotFound")
    kind = offers.offered_type(connection, order.type_id)
    if kind is None:
        raise NotFound("instance type not found", code="instanceTypeNotFound")
    region = offers.offered_region(connection, order.region_id)
    if region is None or (kind.regions and region.id not in kind.regions):
        raise NotFound("region not found", code="regionNotFound")
    if order.remote_storage_ids:
        raise NotFound("volume not found", code="volumeNotFound")
    return image, kind, region


def _terms(connection: Connection, settings: Settings, kind: InstanceType, order: Order) -> Price:
    """The price that holds for it from now on. Raises Invalid for what the type does not offer."""
    offered = [mode for mode in ChargeMode if mode in kind.prices]
    if order.charge_mode not in offered:
        raise Invalid(
            f'instance type "{kind.name}" does not offer the charge mode "{order.charge_mode}"; it offers: '
            + (", ".join(offered) or "none"),
            code="chargeModeNotOffered",
        )
    if order.is_spot and not kind.spot:
        raise Invalid(
            f'instance type "{kind.name}" is not offered as spot; it offers: on demand',
            code="spotNotOffered",
        )
    if order.data_disk_gb > settings.data_disk_most_gb:
        raise Invalid(
            f'field "instanceConfiguration.extraDataDiskSizeDB" must be at most {settings.data_disk_most_gb}',
            code="dataDiskTooLarge",
        )
    price = tariffs.current(connection, kind.id, order.region_id, order.charge_mode, is_spot=order.is_spot)
    if price is None:
        raise Invalid(
            f'instance type "{kind.name}" does not offer the charge mode "{order.charge_mode}" as spot; '
            "choose another one",
            code="chargeModeNotOffered",
        )
    total = 0 if order.charge_mode.hourly else price.amount * order.duration
    if order.max_spend_micro is not None and total > order.max_spend_micro:
        raise Invalid(
            f'field "maxSpend" must be at least what the term costs, {shown(total)} {settings.currency}',
            code="maxSpendTooSmall",
        )
    if order.auto_renew and order.charge_mode.hourly:
        raise Invalid(
            f'field "autoRenew" is for perDay, perWeek and perMonth; "{order.charge_mode}" has no term',
            code="nothingToRenew",
        )
    return price


def _check_keys(connection: Connection, user_id: str, order: Order) -> None:
    if order.ssh_key_ids is None:
        return
    own = {key.id for key in accounts.ssh_keys(connection, user_id)}
    if any(key_id not in own for key_id in order.ssh_key_ids):
        raise NotFound("ssh key not found", code="sshKeyNotFound")


def _out_of_stock(connection: Connection, kind: InstanceType, region: Region) -> str:
    """Which type and region have no room, and what has."""
    instead: list[str] = []
    for other in offers.all_types(connection):
        need = Need(other.cpu_milli, other.memory_mb, other.gpu_num)
        for place in offers.all_regions(connection):
            if other.regions and place.id not in other.regions:
                continue
            if reservations.place(connection, place.id, need, other.gpu_name) is not None:
                instead.append(f"{other.name} in {place.name}")
    return f'instance type "{kind.name}" is out of stock in region "{region.name}"; in stock: ' + (
        ", ".join(instead) or "nothing at present"
    )


def _say_what_is_missing(connection: Connection, instance: Instance, now: datetime) -> None:
    """Options that HPC-AI's clients send and this server accepts without having them: say so."""
    missing = [
        words
        for asked, words in (
            (instance.enable_docker, "Docker inside the instance (enableDocker)"),
            (instance.enable_common_data, "common data sets (enableCommonData)"),
        )
        if asked
    ]
    if missing:
        instances.tell(
            connection,
            instance,
            now,
            "notOffered",
            "This server does not offer " + " and ".join(missing) + " yet; launched without",
        )
