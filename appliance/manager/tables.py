"""The database's tables, as queries name them. The migrations make them; a test compares both.

Times are seconds since the epoch. What is secret but has to be told again (a VNC password, a
document with keys) is sealed with the managers' key; what only has to be recognised is a hash.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

# What a manager must find as it left it: the schema's number, a proof of the sealing key.
meta = Table(
    "meta",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

proxies = Table(
    "proxies",
    metadata,
    Column("name", Text, primary_key=True),
    Column("zone", Text, nullable=False),
    Column("agent", Text, nullable=False),  # https://ADDRESS:PORT of its control endpoint
    Column("server_name", Text, nullable=False),  # in the endpoint's certificate, or empty
    Column("link", Text, nullable=False),  # how browsers call it
    Column("soft", Integer, nullable=False),
    Column("hard", Integer, nullable=False),
    Column("position", Integer, nullable=False),
    Column("draining", Boolean, nullable=False),  # somebody wants it drained
    Column("drained_there", Boolean, nullable=False),  # the proxy says that it drains
    Column("up", Boolean, nullable=False),
    Column("reported", Float(53)),  # the last report
    Column("cap", Integer),  # what the proxy itself enforces
    Column("foreign_load", Integer, nullable=False),  # sessions of others, such as a plug-in's
    Column("watcher", Text, nullable=False),  # the manager that follows its reports
    Column("watched_until", Float(53), nullable=False),
    Column("fault", Text, nullable=False),  # why it cannot be followed
)

sessions = Table(
    "sessions",
    metadata,
    Column("id", Text, primary_key=True),
    Column("vm", Text, nullable=False),
    Column("user", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("zone", Text, nullable=False),
    Column("proxy", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("creator", Text, nullable=False),
    Column("secret_sha256", Text, nullable=False),
    Column("resume_sha256", Text, nullable=False),
    Column("sealed", Text, nullable=False),  # target, credentials, policy
    Column("created", Float(53), nullable=False),
    Column("placed", Float(53), nullable=False),  # when it came to this proxy
    Column("opened", Float(53)),
    Column("last_input", Float(53)),
    Column("source", Text, nullable=False),
    Column("to_guest", BigInteger, nullable=False),
    Column("from_guest", BigInteger, nullable=False),
    Column("connections", Integer, nullable=False),
    Column("ended", Float(53)),
    Column("why", Text, nullable=False),
)

# Where guests' screens are, and whose they are.
screens = Table(
    "screens",
    metadata,
    Column("vm", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("zone", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("sealed", Text, nullable=False),
    Column("changed", Float(53), nullable=False),
)

vms = Table(
    "vms",
    metadata,
    Column("name", Text, primary_key=True),
    Column("role", Text, nullable=False),
    Column("zone", Text, nullable=False),
    Column("pod", Text, nullable=False),
    Column("cluster", Text, nullable=False),
    Column("account", Text, nullable=False),
    Column("domain", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("server_name", Text, nullable=False),
    Column("template", Text, nullable=False),  # the version of what it was made from
    Column("agent_version", Text, nullable=False),  # what it last said
    Column("heartbeat_key", Text, nullable=False),  # sealed
    Column("document", Text, nullable=False),  # sealed; empty where none was pushed
    Column("digest", Text, nullable=False),
    Column("generation", BigInteger),  # of the document that is kept
    Column("pushed", Float(53)),
    Column("result", Text, nullable=False),  # how the last push ended
    Column("running", BigInteger),  # the generation that it says it runs
    Column("revision", BigInteger),
    Column("health", Text, nullable=False),
    Column("beat", Float(53)),  # the last heartbeat
    Column("boots", Text, nullable=False),  # greatest heartbeat number by boot, JSON
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("vm", Text, nullable=False),
    Column("stream", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("time", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("severity", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("data", Text, nullable=False),
    Column("received", Float(53), nullable=False),
    UniqueConstraint("vm", "stream", "seq"),
)

blobs = Table(
    "blobs",
    metadata,
    Column("sha256", Text, primary_key=True),
    Column("sealed", Text, nullable=False),
    Column("kept", Float(53), nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("sha256", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("created", Float(53), nullable=False),
    Column("expires", Float(53)),
    Column("revoked", Float(53)),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Float(53), nullable=False),
    Column("who", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("request", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("subject", Text, nullable=False),
)
