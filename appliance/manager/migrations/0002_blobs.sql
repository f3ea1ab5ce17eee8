-- What documents name by its SHA-256, so that a VM that is made anew can have it again.
CREATE TABLE blobs (
    sha256 TEXT NOT NULL PRIMARY KEY,
    sealed TEXT NOT NULL,
    kept {float} NOT NULL
);

-- What is old is found by its time.
CREATE INDEX events_by_time ON events (received);
CREATE INDEX audit_by_time ON audit (at);

-- How many sessions a user has is counted at each opening.
CREATE INDEX sessions_by_user ON sessions ("user") WHERE ended IS NULL;
