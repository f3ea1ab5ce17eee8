import struct
from ipaddress import IPv4Address, IPv6Address

from agent.system import announce

MAC = bytes.fromhex("021122334455")


def test_arp_request_names_the_address_twice_and_asks_nobody() -> None:
    frame = announce.arp(MAC, IPv4Address("192.0.2.1"), 1)
    assert frame[:14] == b"\xff" * 6 + MAC + b"\x08\x06"
    assert frame[14:22] == bytes.fromhex("0001080006040001")
    assert frame[22:] == MAC + b"\xc0\x00\x02\x01" + bytes(6) + b"\xc0\x00\x02\x01"


def test_arp_reply_names_our_mac_as_the_target() -> None:
    frame = announce.arp(MAC, IPv4Address("192.0.2.1"), 2)
    assert frame[20:22] == b"\x00\x02"
    assert frame[32:38] == MAC


def test_advertisement_overrides_and_its_checksum_holds() -> None:
    ip = IPv6Address("2001:db8::1")
    frame = announce.advertisement(MAC, ip)
    assert frame[:14] == bytes.fromhex("333300000001") + MAC + b"\x86\xdd"
    header, message = frame[14:54], frame[54:]
    assert header[4:8] == struct.pack("!HBB", len(message), 58, 255)
    assert header[8:24] == ip.packed
    assert message[0] == 136
    assert message[4] & 0x20  # override
    assert message[8:24] == ip.packed
    assert message[24:] == b"\x02\x01" + MAC
    pseudo = header[8:40] + struct.pack("!II", len(message), 58)
    words = struct.unpack(f"!{(len(pseudo) + len(message)) // 2}H", pseudo + message)
    total = sum(words)
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF
