"""The bytes of a packet, and what is refused."""

import io
import tracemalloc

import fastavro
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from payloads.alert_schema import field_types, schema
from services.alerts.packets import PacketRefused, alert_of, container, decode, encode, from_wire, to_wire

ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.binary(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=10,
)
FIELDS = st.one_of(st.sampled_from([f["name"] for f in schema()["fields"]]), st.text(max_size=8))
SOURCE_FIELDS = st.sampled_from(sorted(field_types("diaSource")))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(FIELDS, ANYTHING, max_size=3), source=st.dictionaries(SOURCE_FIELDS, ANYTHING, max_size=3))
def test_damaged_packet_is_refused_with_a_reason_or_valid_in_the_schema(packet, changes, source):
    damaged = packet(5, **source) | changes
    try:
        made = encode(damaged)
    except PacketRefused as error:
        assert str(error).startswith("alert ")  # noqa: PT017 - either is well, nothing else is
        return
    read = decode(made.avro)
    assert fastavro.validate(read, schema())
    assert read["diaSourceId"] == read["diaSource"]["diaSourceId"] == alert_of(made.avro)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_are_refused_or_a_packet(packet, data):
    """Cut, changed and random bytes: a length in them that promises gigabytes must not be believed."""
    whole = to_wire(encode(packet(5)).avro)
    place, byte = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 255))
    damaged = data.draw(
        st.sampled_from(
            [whole[:place], whole[:place] + bytes([byte]) + whole[place + 1 :], whole + bytes([byte]), whole[:5] + b"\xff" * 9]
        )
    )
    try:
        read = decode(from_wire(damaged))
    except PacketRefused as error:
        assert str(error)  # noqa: PT017
        return
    assert set(read) == {field["name"] for field in schema()["fields"]}


def test_lying_lengths_cost_no_memory(packet):
    whole = encode(packet(5, stamp=b"")).avro
    tracemalloc.start()
    for cut in range(len(whole)):
        with pytest.raises(PacketRefused):
            decode(whole[:cut] + b"\xfe\xff\xff\xff\xff\xff\xff\xff\x7f")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


@pytest.mark.parametrize("number", [0, 1, -1, 63, 64, 2**62, -(2**63), 2**63 - 1])
def test_id_of_a_packet_is_read_from_its_first_bytes(packet, number):
    assert alert_of(encode(packet(number)).avro) == number


def test_packet_of_another_schema_is_not_taken_for_ours(packet):
    with pytest.raises(PacketRefused, match="begins with 0000000007"):
        from_wire(b"\0\0\0\0\x07" + encode(packet(1)).avro)


def test_container_gives_the_place_of_each_packet(packet):
    made = [encode(packet(n, stamp=b"x" * (n % 300))) for n in range(1, 200)]
    content, places = container(made)
    assert [content[start : start + size] for start, size in places] == [one.avro for one in made]
    assert [a["diaSourceId"] for a in fastavro.reader(io.BytesIO(content))] == list(range(1, 200))
    assert [block.num_records for block in fastavro.block_reader(io.BytesIO(content))] == [1] * 199
