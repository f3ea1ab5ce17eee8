from agent.engine.model import AddressSet, Family, SetType
from agent.system import addresssets


def test_sets_are_read_with_their_members() -> None:
    saved = (
        "create a hash:net family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x0\n"
        "create b hash:ip,port family inet6 hashsize 1024 maxelem 65536\n"
        "create foreign list:set size 8\n"
        "create a.new hash:net family inet hashsize 1024 maxelem 65536\n"
        "add a 10.0.0.0/8\n"
        "add a 192.0.2.1\n"
        "add b 2001:db8::1,tcp:80\n"
        "add foreign a\n"
        "add a.new 192.0.2.9\n"
    )
    assert addresssets.parse(saved) == {
        "a": AddressSet("a", Family.V4, SetType.NET, frozenset({"10.0.0.0/8", "192.0.2.1"})),
        "b": AddressSet("b", Family.V6, SetType.IP_PORT, frozenset({"2001:db8::1,tcp:80"})),
    }


def test_no_sets_are_none() -> None:
    assert addresssets.parse("") == {}
