"""Rehearsal, tables, sets, counters and the legacy guard, on real kernels' tables."""

from collections.abc import Iterator, Mapping

import pytest

from agent.engine.host import CheckFailed
from agent.engine.model import AddressSet, CounterKey, Family, SetType, Table
from agent.system import addresssets, legacy, xtables
from agent.system.namespaces import Scratch
from agent.system.rehearsal import Rehearsal
from agent.system.run import CommandFailed, run
from agent.system.xtables import TableKey

FILTER: TableKey = (Family.V4, Table.FILTER)
NAT: TableKey = (Family.V4, Table.NAT)
GUESTS = AddressSet("guests", Family.V4, SetType.NET, frozenset({"10.1.1.0/24"}))
HEAD = "*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"


@pytest.fixture
def live() -> Iterator[Scratch]:
    """A network of the test's own, which stands for the machine's."""
    scratch = Scratch("test")
    yield scratch
    scratch.close()


@pytest.fixture
def rehearsal() -> Iterator[Rehearsal]:
    made = Rehearsal()
    yield made
    made.close()


def table(*rules: str, chains: tuple[str, ...] = ()) -> str:
    named = [f":{chain} - [0:0]" for chain in chains]
    return HEAD + "\n".join([*named, *rules, "COMMIT", ""])


def web(port: int) -> str:
    return f'-A INPUT -p tcp -m tcp --dport {port} -m comment --comment "/web/{port}/a b" -j ACCEPT'


def rehearsed(rehearsal: Rehearsal, text: str, *sets: AddressSet) -> str:
    return rehearsal.rehearse({one.name: one for one in sets}, {FILTER: text})[FILTER]


def test_what_the_rehearsal_reads_is_what_the_machine_then_holds(
    live: Scratch, rehearsal: Rehearsal
) -> None:
    text = table(
        "-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        "-A INPUT -p tcp --dport 80 -s 10.0.0.7 -j zone",
        '-A INPUT -m set --match-set guests src -m comment --comment "/a" -j Area',
        "-A zone -p icmp --icmp-type 8 -j ACCEPT",
        "-A Area -m conntrack --ctorigdst 192.0.2.1 --ctorigdstport 80:90 -j REJECT",
        chains=("zone", "Area"),
    )
    canonical = rehearsed(rehearsal, text, GUESTS)
    assert canonical != text

    def observed() -> Mapping[TableKey, str]:
        addresssets.put([GUESTS])
        xtables.load(Family.V4, canonical)
        return xtables.observe(Family.V4)

    assert live.do(observed)[FILTER] == canonical
    assert rehearsed(rehearsal, canonical, GUESTS) == canonical


def test_rehearsal_touches_nothing(live: Scratch, rehearsal: Rehearsal) -> None:
    before = live.do(lambda: (run(["nft", "list", "ruleset"], timeout=5).text, legacy.tables()))
    rehearsed(rehearsal, table(web(80)), GUESTS)
    after = live.do(lambda: (run(["nft", "list", "ruleset"], timeout=5).text, legacy.tables()))
    assert after == before
    assert not live.do(addresssets.observe)


def test_empty_table_is_an_absent_one(live: Scratch, rehearsal: Rehearsal) -> None:
    empty = xtables.empty(Table.FILTER)
    assert rehearsed(rehearsal, empty) == empty
    assert live.do(lambda: xtables.observe(Family.V4))[FILTER] == empty
    live.do(lambda: xtables.load(Family.V4, table(web(80))))
    assert live.do(lambda: xtables.observe(Family.V4))[FILTER] != empty
    live.do(lambda: xtables.load(Family.V4, empty))
    assert live.do(lambda: xtables.observe(Family.V4))[FILTER] == empty
    assert live.do(lambda: run(["nft", "list", "tables"], timeout=5).text) == ""


def test_rules_that_come_and_go_read_as_if_all_were_loaded(rehearsal: Rehearsal) -> None:
    steps = [
        table(web(80), web(81)),
        table(web(80), web(81), web(82)),  # one more
        table(web(82), web(80), web(80)),  # another order, and one twice
        table(web(80)),
        table("-A INPUT -j zone", web(80), chains=("zone",)),  # chains and jumps change
        table("-A INPUT -j zone", web(80), "-A zone -s 10.0.0.7 -j DROP", chains=("zone",)),
        table(),
        table(web(83)),
    ]
    for text in steps:
        alone = Rehearsal()
        assert rehearsed(rehearsal, text) == rehearsed(alone, text)
        alone.close()


@pytest.mark.parametrize(
    ("rule", "words", "path"),
    [
        ('-A INPUT -m comment --comment "/x" -j missing', "missing", "/x"),
        ("-A INPUT -p tcp --dport 80000 -m comment --comment /x/y -j ACCEPT", "80000", "/x/y"),
        ("-A INPUT -m set --match-set guests src -m comment --comment /s -j DROP", "guests", "/s"),
        ('-A INPUT -m comment --comment "/d n" -j DNAT --to-destination 10.0.0.1', "DNAT", "/d n"),
        ("-A zone -m comment --comment /loop -j zone", "loop|[Ll]inks", ""),
    ],
    ids=["chain", "port", "set", "target", "loop"],
)
@pytest.mark.parametrize("known", [False, True], ids=["fresh", "known"])
def test_refusal_names_the_rule(
    rehearsal: Rehearsal, rule: str, words: str, path: str, known: bool
) -> None:
    good = table("-A INPUT -j zone", web(80), chains=("zone",))
    if known:
        rehearsed(rehearsal, good)
    with pytest.raises(CheckFailed, match=words) as refused:
        rehearsed(rehearsal, good.replace("COMMIT", f"{rule}\nCOMMIT"))
    if path:
        assert refused.value.path == path
    assert rehearsed(rehearsal, good)


def test_set_that_goes_while_a_rule_matches_it_is_refused(rehearsal: Rehearsal) -> None:
    text = table("-A INPUT -m set --match-set guests src -m comment --comment /s -j ACCEPT")
    rehearsed(rehearsal, text, GUESTS)
    with pytest.raises(CheckFailed) as refused:
        rehearsed(rehearsal, text)
    assert refused.value.path == "/s"


def test_set_may_change_members_and_type_between_rehearsals(rehearsal: Rehearsal) -> None:
    text = table("-A INPUT -m set --match-set guests src -j ACCEPT")
    more = AddressSet("guests", Family.V4, SetType.NET, frozenset({"10.2.0.0/16"}))
    other = AddressSet("guests", Family.V4, SetType.IP, frozenset({"10.2.0.1"}))
    for one in (GUESTS, more, other, GUESTS):
        assert "--match-set guests src" in rehearsed(rehearsal, text, one)
    rehearsed(rehearsal, table())
    rehearsed(rehearsal, text, GUESTS)


def test_member_that_is_no_address_is_refused(rehearsal: Rehearsal) -> None:
    bad = AddressSet("guests", Family.V4, SetType.NET, frozenset({"2001:db8::/32"}))
    with pytest.raises(CheckFailed, match="address sets"):
        rehearsed(rehearsal, table(), bad)


def test_set_is_replaced_at_once_while_rules_match_it(live: Scratch) -> None:
    many = AddressSet(
        "guests",
        Family.V4,
        SetType.IP,
        frozenset(f"10.0.{n // 256}.{n % 256}" for n in range(5000)),
    )
    few = AddressSet("guests", Family.V4, SetType.IP, frozenset({"10.9.9.9"}))

    def check() -> None:
        addresssets.put([few])
        xtables.load(Family.V4, table("-A INPUT -m set --match-set guests src -j ACCEPT"))
        for one in (many, few, few):
            addresssets.put([one])
            assert addresssets.observe() == {"guests": one}

    live.do(check)


def test_set_goes_as_soon_as_no_rule_matches_it(live: Scratch) -> None:
    def check() -> None:
        addresssets.put([GUESTS])
        xtables.load(Family.V4, table("-A INPUT -m set --match-set guests src -j ACCEPT"))
        with pytest.raises(CommandFailed, match="in use"):
            addresssets.remove("guests", patience=0.1)
        xtables.load(Family.V4, table())
        addresssets.remove("guests")
        addresssets.remove("guests")
        assert not addresssets.observe()

    live.do(check)


def test_what_a_crash_left_of_a_set_is_cleared(live: Scratch) -> None:
    def check() -> None:
        run(["ipset", "create", "guests.new", "hash:ip,port"], timeout=5)
        addresssets.put([GUESTS])
        assert addresssets.observe() == {"guests": GUESTS}
        assert "guests.new" not in run(["ipset", "save"], timeout=5).text

    live.do(check)


def test_counters_count_what_passes(live: Scratch) -> None:
    key = CounterKey(Family.V4, Table.FILTER, "INPUT", "/ping")

    def check() -> None:
        rule = '-A INPUT -p icmp -m comment --comment "/ping" -j ACCEPT'
        xtables.load(Family.V4, table(rule).replace("INPUT DROP", "INPUT ACCEPT"))
        assert xtables.counters()[key].packets == 0
        run(["ping", "-c", "3", "-i", "0.2", "127.0.0.1"], timeout=10)
        assert xtables.counters()[key].packets == 6
        assert "[0:0]" in xtables.observe(Family.V4)[FILTER]
        assert "[6:" not in xtables.observe(Family.V4)[FILTER]

    live.do(check)


def test_rule_of_another_hand_is_drift_and_gone_it_is_none(live: Scratch) -> None:
    def check() -> None:
        xtables.load(Family.V4, table(web(80)))
        before = xtables.observe(Family.V4)
        run(["iptables-nft", "-t", "raw", "-A", "OUTPUT", "-j", "ACCEPT"], timeout=5)
        assert xtables.observe(Family.V4) != before
        run(["iptables-nft", "-t", "raw", "-D", "OUTPUT", "-j", "ACCEPT"], timeout=5)
        assert xtables.observe(Family.V4) == before

    live.do(check)


# -- the legacy guard --------------------------------------------------------------------------


def test_machine_without_legacy_tables_has_no_legacy_rules(live: Scratch) -> None:
    assert live.do(legacy.tables) == []
    assert live.do(legacy.observe) == ()
    live.do(legacy.remove)
    assert live.do(legacy.tables) == []


def test_legacy_rules_are_found_named_and_removed(live: Scratch) -> None:
    def check() -> None:
        xtables.load(Family.V4, table(web(80)))
        ours = xtables.observe(Family.V4)
        argv = "iptables-legacy -A INPUT ! -s 10.0.0.0/8 -p tcp -m tcp --dport 22 -j DROP"
        run(argv.split(), timeout=5)
        run(["ip6tables-legacy", "-P", "FORWARD", "DROP"], timeout=5)
        run(["iptables-legacy", "-t", "nat", "-N", "mine"], timeout=5)
        found = {(rule.family, rule.table, rule.text) for rule in legacy.observe()}
        assert (Family.V6, "filter", "-P FORWARD DROP") in found
        (text,) = (text for family, name, text in found if (family, name) == (4, "filter"))
        assert text.startswith("-A INPUT ! -s 10.0.0.0/")
        assert "--dport 22" in text
        assert text.endswith("-j DROP")
        legacy.remove()
        assert legacy.observe() == ()
        assert "mine" not in run(["iptables-legacy-save"], timeout=5).text
        assert xtables.observe(Family.V4) == ours

    live.do(check)
