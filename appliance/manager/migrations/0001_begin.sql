-- Everything that the first manager had.
CREATE TABLE meta (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE proxies (
    name TEXT NOT NULL PRIMARY KEY,
    zone TEXT NOT NULL,
    agent TEXT NOT NULL,
    server_name TEXT NOT NULL,
    link TEXT NOT NULL,
    soft INTEGER NOT NULL,
    hard INTEGER NOT NULL,
    position INTEGER NOT NULL,
    draining BOOLEAN NOT NULL,
    drained_there BOOLEAN NOT NULL,
    up BOOLEAN NOT NULL,
    reported {float},
    cap INTEGER,
    foreign_load INTEGER NOT NULL,
    watcher TEXT NOT NULL,
    watched_until {float} NOT NULL,
    fault TEXT NOT NULL
);

CREATE TABLE sessions (
    id TEXT NOT NULL PRIMARY KEY,
    vm TEXT NOT NULL,
    "user" TEXT NOT NULL,
    title TEXT NOT NULL,
    zone TEXT NOT NULL,
    proxy TEXT NOT NULL,
    state TEXT NOT NULL,
    creator TEXT NOT NULL,
    secret_sha256 TEXT NOT NULL,
    resume_sha256 TEXT NOT NULL,
    sealed TEXT NOT NULL,
    created {float} NOT NULL,
    placed {float} NOT NULL,
    opened {float},
    last_input {float},
    source TEXT NOT NULL,
    to_guest BIGINT NOT NULL,
    from_guest BIGINT NOT NULL,
    connections INTEGER NOT NULL,
    ended {float},
    why TEXT NOT NULL
);
CREATE INDEX sessions_by_proxy ON sessions (proxy) WHERE ended IS NULL;
CREATE INDEX sessions_by_vm ON sessions (vm) WHERE ended IS NULL;
CREATE INDEX sessions_by_end ON sessions (ended);

CREATE TABLE screens (
    vm TEXT NOT NULL PRIMARY KEY,
    owner TEXT NOT NULL,
    zone TEXT NOT NULL,
    title TEXT NOT NULL,
    sealed TEXT NOT NULL,
    changed {float} NOT NULL
);

CREATE TABLE vms (
    name TEXT NOT NULL PRIMARY KEY,
    role TEXT NOT NULL,
    zone TEXT NOT NULL,
    pod TEXT NOT NULL,
    cluster TEXT NOT NULL,
    account TEXT NOT NULL,
    domain TEXT NOT NULL,
    agent TEXT NOT NULL,
    server_name TEXT NOT NULL,
    template TEXT NOT NULL,
    agent_version TEXT NOT NULL,
    heartbeat_key TEXT NOT NULL,
    document TEXT NOT NULL,
    digest TEXT NOT NULL,
    generation BIGINT,
    pushed {float},
    result TEXT NOT NULL,
    running BIGINT,
    revision BIGINT,
    health TEXT NOT NULL,
    beat {float},
    boots TEXT NOT NULL
);

CREATE TABLE events (
    id {serial},
    vm TEXT NOT NULL,
    stream TEXT NOT NULL,
    seq BIGINT NOT NULL,
    time TEXT NOT NULL,
    kind TEXT NOT NULL,
    severity TEXT NOT NULL,
    subject TEXT NOT NULL,
    message TEXT NOT NULL,
    data TEXT NOT NULL,
    received {float} NOT NULL,
    UNIQUE (vm, stream, seq)
);
CREATE INDEX events_by_kind ON events (vm, kind, subject);

CREATE TABLE tokens (
    id TEXT NOT NULL PRIMARY KEY,
    sha256 TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    created {float} NOT NULL,
    expires {float},
    revoked {float}
);

CREATE TABLE audit (
    id {serial},
    at {float} NOT NULL,
    who TEXT NOT NULL,
    source TEXT NOT NULL,
    request TEXT NOT NULL,
    status INTEGER NOT NULL,
    subject TEXT NOT NULL
);
