"""What is asked of a name server, and what its replies say, without their numbers."""

import contextlib
from ipaddress import ip_address

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.system.dns import Answer, NotDns, question, read


def reply(*records: str, code: dns.rcode.Rcode = dns.rcode.NOERROR) -> bytes:
    """An answer about vm1.example, of records as a zone file has them."""
    message = dns.message.make_response(dns.message.make_query("vm1.example.", "A", id=7))
    message.set_rcode(code)
    for record in records:
        name, kind, value = record.split()
        message.answer.append(dns.rrset.from_text(name, 60, "IN", kind, value))
    return message.to_wire()[2:]


def test_question_is_one_that_has_a_number_before_it() -> None:
    asked = dns.message.from_wire(b"\0\7" + question("vm1.example", "AAAA"))
    assert (asked.id, str(asked.question[0])) == (7, "vm1.example. IN AAAA")
    assert asked.flags & dns.flags.RD


def test_closing_dot_changes_nothing() -> None:
    assert question("vm1.example.", "A") == question("vm1.example", "A")


def test_addresses_of_the_type_are_told_wherever_an_alias_leads() -> None:
    whole = reply(
        "vm1.example. CNAME vm2.example.",
        "vm2.example. A 192.0.2.1",
        "vm2.example. AAAA 2001:db8::1",
        "vm2.example. TXT what",
        "vm2.example. A 192.0.2.2",
    )
    four = {ip_address("192.0.2.1"), ip_address("192.0.2.2")}
    assert read(whole, "A") == Answer("NOERROR", frozenset(four))
    assert read(whole, "AAAA") == Answer("NOERROR", frozenset({ip_address("2001:db8::1")}))


def test_refusal_is_called_by_its_name() -> None:
    assert read(reply(), "A").well
    assert read(reply(code=dns.rcode.NXDOMAIN), "A") == Answer("NXDOMAIN")
    assert not read(reply(code=dns.rcode.REFUSED), "A").well
    assert read(reply(code=dns.rcode.NOTAUTH), "A").code == "NOTAUTH"


def test_reply_that_is_cut_off_anywhere_is_none() -> None:
    whole = reply("vm1.example. A 192.0.2.1")
    for length in range(len(whole)):
        with pytest.raises(NotDns):
            read(whole[:length], "A")


def test_question_is_no_answer() -> None:
    with pytest.raises(NotDns):
        read(question("vm1.example", "A"), "A")


@given(tail=st.binary(max_size=64), count=st.integers(0, 3))
def test_whatever_comes_is_an_answer_or_none(tail: bytes, count: int) -> None:
    head = b"\x81\x80\0\1" + count.to_bytes(2) + b"\0\0\0\0"
    with contextlib.suppress(NotDns):
        assert isinstance(read(head + tail, "AAAA"), Answer)
