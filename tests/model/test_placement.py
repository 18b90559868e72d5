"""Placement fits, packs, and is a pure function of what it is given."""

from hypothesis import given
from hypothesis import strategies as st

from tidemill.model.placement import Need, Room, choose, fits

rooms = st.lists(
    st.builds(
        Room,
        node_id=st.uuids().map(str),
        cpu_milli=st.integers(0, 64_000),
        memory_mb=st.integers(0, 512_000),
        devices=st.integers(0, 8),
    ),
    max_size=12,
)
needs = st.builds(
    Need, cpu_milli=st.integers(10, 64_000), memory_mb=st.integers(16, 512_000), devices=st.integers(0, 8)
)


@given(rooms, needs)
def test_what_is_chosen_has_room_and_nothing_is_chosen_only_when_none_has(
    all_rooms: list[Room], need: Need
) -> None:
    chosen = choose(all_rooms, need)
    able = [room for room in all_rooms if fits(room, need)]
    assert (chosen in able) if able else (chosen is None)


@given(rooms, needs)
def test_the_order_of_the_nodes_does_not_matter(all_rooms: list[Room], need: Need) -> None:
    assert choose(all_rooms, need) == choose(reversed(all_rooms), need)


@given(rooms, needs)
def test_a_cpu_instance_goes_where_fewest_devices_are_wasted(all_rooms: list[Room], need: Need) -> None:
    chosen = choose(all_rooms, need)
    if chosen is not None:
        assert chosen.devices == min(room.devices for room in all_rooms if fits(room, need))


def test_fits_counts_how_often() -> None:
    assert fits(Room("a", 4000, 8192, 2), Need(1000, 1024, 1)) == 2
    assert fits(Room("a", 4000, 8192, 0), Need(1000, 1024, 0)) == 4
    assert fits(Room("a", 500, 8192, 0), Need(1000, 1024, 0)) == 0
