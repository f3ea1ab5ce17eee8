"""Trying something from this VM, capturing what passes, and a bundle of all there is to say."""

from agent.api import problems as p
from agent.api.diagnostics import Diagnosis
from agent.api.routes.route import (
    FLAG,
    Body,
    Parameter,
    Reply,
    Route,
    closed,
    get,
    integer,
    post,
)
from agent.api.streams import GZIP
from agent.diagnostics import capture
from agent.diagnostics.capture import MEDIA_TYPE as PCAP
from agent.diagnostics.requests import DEFAULT_SECONDS, LONGEST_SECONDS, TOOLS

_LONGEST_REQUEST = 16 * 1024  # bytes
_LIVE = Parameter("live", FLAG, "1: answer with JSON lines (application/jsonl) as it goes on.")
_TOOL = Parameter(
    "tool", {"type": "string", "enum": list(TOOLS)}, "What to try it with.", required=True
)
_DIAGNOSTIC = closed(
    {
        "target": {"type": "string", "description": "An IP address, or a name."},
        "family": {"enum": [4, 6], "description": "By default what the target is."},
        "arguments": {
            "type": "string",
            "pattern": r"^[A-Za-z0-9. -]*$",
            "description": "As an administrator types them.",
            "examples": ["-c 10 -s 1472 -M do"],
        },
        "seconds": integer(
            1,
            LONGEST_SECONDS,
            default=DEFAULT_SECONDS,
            description="When it is ended at the latest.",
        ),
    },
    ("target",),
)
_CAPTURE = closed(
    {
        "nic": {"type": "string", "description": "Where; `any` for all NICs."},
        "hosts": {
            "type": "array",
            "items": {"type": "string"},
            "maxItems": 2,
            "description": "From or to this address; of two, between them.",
        },
        "network": {"type": "string", "description": "From or to it.", "examples": ["10.1.1.0/24"]},
        "protocol": {"enum": [str(kind) for kind in capture.Kind]},
        "ports": {
            "type": "array",
            "items": integer(1, 65535),
            "maxItems": 8,
            "description": "From or to one of them.",
        },
        "direction": {"enum": [str(way) for way in capture.Direction], "default": "inout"},
        "snaplen": integer(
            1, capture.LONGEST_SNAPLEN, default=256, description="Bytes of each packet."
        ),
        "packets": integer(1, capture.MOST_PACKETS, default=10_000, description="How many."),
        "seconds": integer(1, capture.LONGEST_SECONDS, default=30, description="How long."),
        "bytes": integer(1, capture.MOST_BYTES, default=8 * 2**20, description="How much in all."),
    },
    ("nic",),
)

ROUTES: tuple[Route, ...] = (
    get(
        "/v1/diagnostics/bundle",
        "get_bundle",
        "All that there is to say of this VM, without secrets: a tar.gz, as it is made.",
        Reply(200, "The archive.", bytes, GZIP),
        p.TOO_MANY_STREAMS,
    ),
    post(
        "/v1/diagnostics/capture",
        "capture",
        "Capture packets on a NIC, as they pass.",
        Reply(200, "A capture file (pcap), as it is made.", bytes, PCAP),
        p.NOT_JSON,
        p.TOO_LARGE,
        p.DIAGNOSTIC_REFUSED,
        p.TOO_MANY_STREAMS,
        p.MACHINE_FAILED,
        body=Body("application/json", _CAPTURE, "What to capture."),
        longest=_LONGEST_REQUEST,
        only_asks=True,
    ),
    post(
        "/v1/diagnostics/{tool}",
        "run_diagnostic",
        "Try something from this VM: ping, traceroute or arping.",
        Reply(
            200,
            "What it said, when it has ended. With `live`, lines as it says it: first `argv`, "
            "then `stream` and `text`, or `elapsed` while it is silent, and last `exit`.",
            Diagnosis,
        ),
        p.NOT_JSON,
        p.UNKNOWN_PATH,
        p.TOO_LARGE,
        p.DIAGNOSTIC_REFUSED,
        p.TOO_MANY_STREAMS,
        p.MACHINE_FAILED,
        path_parameters=(_TOOL,),
        query=(_LIVE,),
        body=Body("application/json", _DIAGNOSTIC, "What to try."),
        longest=_LONGEST_REQUEST,
        only_asks=True,
    ),
)
