import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.document.boot import InvalidBootConfig, NoSuchNic
from agent.document.boot_source import (
    LARGEST,
    NOTHING,
    Form,
    Found,
    Settled,
    Source,
    of_kernel,
    of_kvp,
    understand,
)
from agent.engine.model import Link, Problem
from tests.unit.document.test_boot import MAC, SMALL, WHOLE
from tests.unit.document.test_cloudstack_boot import ROUTER, links

JSON = json.dumps(SMALL).encode()
LINKS = (Link("eth0", MAC, 1500, up=False),)


def found(data: bytes, form: Form = Form.JSON) -> Found:
    return Found(Source.DRIVE, form, data)


def refusal(data: bytes, form: Form) -> list[str]:
    with pytest.raises(InvalidBootConfig) as caught:
        understand(found(data, form), LINKS)
    return [problem.message for problem in caught.value.problems]


@pytest.mark.parametrize(
    "data",
    [
        JSON,
        b" " + JSON,
        base64.b64encode(JSON),
        base64.urlsafe_b64encode(JSON).rstrip(b"="),
        base64.encodebytes(JSON),
    ],
)
def test_json_may_be_in_base64_where_a_channel_needs_it(data: bytes) -> None:
    assert understand(found(data, Form.ENCODED), LINKS) == understand(found(JSON), LINKS)


@pytest.mark.parametrize(
    ("data", "form", "message"),
    [
        (b"\xff\xfe\x00", Form.JSON, "is not UTF-8: byte 0"),
        (b"", Form.JSON, "is not JSON: Expecting value, line 1 column 1"),
        (b"*", Form.ENCODED, "is neither JSON nor base64 of it"),
        (b"\xff\xff", Form.CLOUDSTACK, "is not text: byte 0"),
        (b"type=router\x00", Form.CLOUDSTACK, "has control characters"),
        (b"\x1b[2J", Form.CLOUDSTACK, "has control characters"),
        (b"{" + b" " * LARGEST, Form.JSON, f"is larger than {LARGEST} bytes"),
    ],
)
def test_junk_is_refused_with_its_reason(data: bytes, form: Form, message: str) -> None:
    assert refusal(data, form) == [message]


def test_what_could_not_be_read_is_refused_for_that() -> None:
    problem = Problem("", "boot.json is a symbolic link")
    with pytest.raises(InvalidBootConfig) as caught:
        understand(Found(Source.DRIVE, Form.JSON, JSON, problem), LINKS)
    assert caught.value.problems == (problem,)


def test_a_control_nic_that_is_not_there_may_still_come() -> None:
    with pytest.raises(NoSuchNic) as caught:
        understand(found(JSON), links(2))
    assert [problem.path for problem in caught.value.problems] == [f"/nics/{MAC}"]
    understand(found(JSON), links(3))


def test_other_nics_may_be_plugged_in_later() -> None:
    more = {**SMALL["nics"], "02:00:00:00:00:99": {"role": "public"}}
    understand(found(json.dumps({**SMALL, "nics": more}).encode()), LINKS)


def test_the_kernels_command_line() -> None:
    encoded = base64.urlsafe_b64encode(JSON)
    kernel = of_kernel(b"root=LABEL=root ro sysvm.boot=" + encoded + b" quiet\n")
    assert kernel == Found(Source.KERNEL, Form.ENCODED, encoded)
    assert of_kernel(b"root=LABEL=root ro console=ttyS0 name=x type=router\n") is None
    words = of_kernel(b"ro quiet%" + ROUTER.strip().replace(" ", "%").encode() + b"\n")
    assert words is not None
    assert understand(words, links(3)).hostname == "r-42-VM"
    twice = of_kernel(b"sysvm.boot=a sysvm.boot=b")
    assert twice is not None
    assert twice.problem is not None


def kvp(*pairs: tuple[bytes, bytes]) -> bytes:
    return b"".join(key.ljust(512, b"\0") + value.ljust(2048, b"\0") for key, value in pairs)


def test_hyper_vs_pool_of_pairs() -> None:
    pool = kvp((b"sysvm.boots", b"no"), (b"sysvm.boot", b"yes"), (b"other", b"x"))
    assert of_kvp(pool, "sysvm.boot") == b"yes"
    assert of_kvp(pool, "sysvm") is None
    assert of_kvp(b"", "sysvm.boot") is None
    assert of_kvp(kvp((b"sysvm.boot", b"yes"))[:-1], "sysvm.boot") is None


@given(st.binary(max_size=6000))
def test_no_pool_breaks_the_reader(pool: bytes) -> None:
    assert of_kvp(pool, "sysvm.boot") is None


@given(st.binary(max_size=300), st.sampled_from(Form))
def test_no_bytes_in_any_form_break_it(data: bytes, form: Form) -> None:
    assert refusal(data, form)


def test_the_status_names_what_it_is_and_no_secret() -> None:
    config = understand(found(json.dumps(WHOLE).encode()), LINKS)
    status = Settled(Source.DRIVE, config).status()
    assert status == {
        "source": "drive",
        "ok": True,
        "problems": [],
        "role": "router",
        "hostname": "r-1",
        "control": ["169.254.10.2"],
    }
    assert NOTHING.status()["ok"] is False
    assert NOTHING.status()["problems"]


@pytest.mark.parametrize(
    ("source", "broken"), [(Source.NONE, False), (Source.KEPT, False), (Source.DRIVE, True)]
)
def test_only_what_somebody_handed_in_can_be_broken(source: Source, broken: bool) -> None:
    assert Settled(source, problems=(Problem("", "bad"),)).broken is broken
