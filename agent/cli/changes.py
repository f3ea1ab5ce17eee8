"""Changes: plan, apply, patch, confirm, roll back; blobs, and the schema of what is pushed."""

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from agent.cli.commands import Commands, revision_number
from agent.cli.text import duration, plain, say
from agent.cli.wire import Client, Unusable


def read(name: str) -> bytes:
    """A file's content, or standard input's for `-`."""
    try:
        if name == "-":
            return sys.stdin.buffer.read()
        with open(name, "rb") as file:  # noqa: PTH123 - pathlib would double the time to start
            return file.read()
    except OSError as error:
        reason = error.strerror or str(error)
        raise Unusable(reason, name, "name a file that can be read, or - for input") from error


def print_plan(answer: Mapping[str, Any], none: str) -> None:
    say(plain(line) for line in answer["plan"])
    if not answer["plan"]:
        print(none)


def print_changed(answer: Mapping[str, Any]) -> None:
    """What a change did, and what is still to be done for it."""
    say(plain(line) for line in answer["plan"])
    say(f"warning: {plain(line)}" for line in answer["warnings"])
    print(
        "{result}: revision {revision}, generation {generation}, digest {digest:.12}, "
        "{duration_ms} ms".format(**answer)
    )
    if answer["confirm"]:
        print(
            f"it is undone in {duration(answer['seconds_left'])}, unless you confirm it:\n"
            f"  sysvmctl confirm {answer['revision']}"
        )


def plan(client: Client, options: argparse.Namespace) -> Any:
    answer = client.send("PUT", "/v1/document?dry_run=1", read(options.file))[0]
    return json.loads(answer), lambda a: print_plan(a, "nothing to do")


def apply(client: Client, options: argparse.Namespace) -> Any:
    path = "/v1/document" + (f"?confirm_within={options.confirm:g}" if options.confirm else "")
    return json.loads(client.send("PUT", path, read(options.file))[0]), print_changed


def patch(client: Client, options: argparse.Namespace) -> Any:
    data = read(options.file)
    etag = options.if_match or client.send("HEAD", "/v1/document")[1].get("ETag", "")
    headers = {"If-Match": etag, "Content-Type": "application/merge-patch+json"}
    path = "/v1/document" + (f"?confirm_within={options.confirm:g}" if options.confirm else "")
    return json.loads(client.send("PATCH", path, data, headers)[0]), print_changed


def confirm(client: Client, options: argparse.Namespace) -> Any:
    revision = options.revision
    if revision is None:
        revision = client.get("/v1/revisions")["current"] or 0
    answer = client.send("POST", f"/v1/revisions/{revision}/confirm", b"")[0]
    return json.loads(answer), print_changed


def rollback(client: Client, options: argparse.Namespace) -> Any:
    body = {} if options.revision is None else {"revision": options.revision}
    answer = client.send("POST", "/v1/rollback", json.dumps(body).encode())[0]
    return json.loads(answer), print_changed


def blob_put(client: Client, options: argparse.Namespace) -> Any:
    import hashlib

    data = read(options.file)
    name = hashlib.sha256(data).hexdigest()
    answer = client.send("PUT", f"/v1/blobs/{name}", data)[0]
    return json.loads(answer), lambda a: print(a["sha256"])


def schema(client: Client, _: argparse.Namespace) -> Any:
    return client.get("/v1/schema"), lambda a: print(json.dumps(a, indent=2))


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 1 to 3600")
    return value


def add_to(commands: Commands) -> None:
    def file(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("file", metavar="FILE", help="- for standard input")

    def wait(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--confirm",
            type=_seconds,
            metavar="S",
            help="undo it after S seconds (1 to 3600), unless sysvmctl confirm comes first",
        )

    add = commands.add
    file(add("plan", plan, "what applying a document would do; nothing is done", "plan vm.json"))
    parser = add(
        "apply", apply, "become what a document says, or stay what it was", "apply vm.json"
    )
    file(parser)
    wait(parser)
    parser = add(
        "patch", patch, "change some of the document: a merge patch (RFC 7396)", "patch change.json"
    )
    file(parser)
    wait(parser)
    parser.add_argument("--if-match", metavar="ETAG", help="default: the document that runs now")
    parser = add("confirm", confirm, "keep a provisional revision", "confirm")
    parser.add_argument(
        "revision", nargs="?", type=revision_number, help="default: the one that runs"
    )
    parser = add("rollback", rollback, "go back to an earlier revision", "rollback 4")
    parser.add_argument("revision", nargs="?", type=revision_number, help="default: the one before")
    add("schema", schema, "the JSON Schema of a document", "schema > document.schema.json")
    blob = commands.group("blob", "upload what documents name by SHA-256")
    file(blob.add("put", blob_put, "upload a file and print its SHA-256", "blob put user-data"))
