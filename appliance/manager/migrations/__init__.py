"""The database's schema, step by step: one file of SQL for each number, never changed once shipped.

Two words differ between the databases and are filled in: `{serial}`, a number that grows by
itself, and `{float}`, a number of eight bytes.
"""

from importlib import resources

STEPS = ("0001_begin", "0002_blobs")


def statements(step: str, dialect: str) -> tuple[str, ...]:
    """The statements of a step, for `sqlite` or `postgresql`."""
    postgresql = dialect == "postgresql"
    text = resources.files(__package__).joinpath(f"{step}.sql").read_text()
    text = text.replace(
        "{serial}", "SERIAL PRIMARY KEY" if postgresql else "INTEGER PRIMARY KEY AUTOINCREMENT"
    ).replace("{float}", "DOUBLE PRECISION" if postgresql else "FLOAT")
    lines = [line for line in text.splitlines() if not line.startswith("--")]
    return tuple(filter(None, (part.strip() for part in "\n".join(lines).split(";"))))
