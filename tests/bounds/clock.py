"""A restart with the clock a day back or a year ahead: the newest version stays the newest.

    python3 tests/bounds/clock.py

The server runs under libfaketime (Debian: faketime), the client signs with the same time. After each
start keys are overwritten, deleted and made again; every key must read as last written, also after
the index was deleted and rebuilt. Standard library only.
"""

import argparse
import datetime
import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import s3_wire  # noqa: E402
import server_process  # noqa: E402

LIBRARIES = sorted(pathlib.Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
DAY = 24 * 3600


class Wrong(Exception):
    pass


def start(binary, workplace, offset):
    environment = {}
    if offset:
        environment = {
            "LD_PRELOAD": str(LIBRARIES[0]),
            "FAKETIME": f"{offset:+d}s",
            "DONT_FAKE_MONOTONIC": "1",
        }
    server = server_process.Server(
        binary, workplace.path / "data", workplace.path / "log", ["--cores", "2"], environment
    ).start()
    workplace.on_exit(server.kill)
    return server


def round_of(server, offset, name, expected):
    """Looks at every key, changes each, looks again."""
    now = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=offset)
    client = s3_wire.Client.of(server)

    def look():
        for key, body in expected.items():
            answer = client.get("bucket", key, now=now)
            seen = answer.body if answer.status == 200 else None
            if seen != body:
                raise Wrong(f"{name}: {key} is {answer}, not {body!r}")
        answer = client.request("GET", "bucket", query={"list-type": "2"}, now=now)
        for key, body in expected.items():
            if (f"<Key>{key}</Key>".encode() in answer.body) != (body is not None):
                raise Wrong(f"{name}: the listing is wrong about {key}")

    look()
    for key in list(expected):
        body = f"{name} {key} ".encode() * (1 if key.startswith("small") else 10_000)
        steps = {
            "overwritten": [body],
            "deleted": [body, None],
            "again": [None, body],
        }[key.split("-")[1]]
        for step in steps:
            answer = (
                client.request("DELETE", "bucket", key, now=now)
                if step is None
                else client.put("bucket", key, step, now=now)
            )
            if answer.status not in (200, 204):
                raise Wrong(f"{name}: {key}: {answer}")
            expected[key] = step
    look()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary")
    arguments = parser.parse_args()
    binary = server_process.find_binary(arguments.binary)
    if not LIBRARIES:
        raise SystemExit("libfaketime is missing (Debian: faketime)")
    expected = {
        f"{size}-{what}": None
        for size in ("small", "large")
        for what in ("overwritten", "deleted", "again")
    }
    rounds = [
        ("today", 0),
        ("a day back", -DAY),
        ("a year ahead", 365 * DAY),
        ("today again", 0),
        ("a day back again", -DAY),
    ]
    passed = 0
    with server_process.Workplace("clock") as workplace:
        for number, (name, offset) in enumerate(rounds):
            server = start(binary, workplace, offset)
            if number == 0:
                s3_wire.Client.of(server).request("PUT", "bucket")
            round_of(server, offset, name, expected)
            if number % 2:
                server.kill()
            else:
                server.stop()
            passed += 1
        for index in (workplace.path / "data").glob("*/index"):
            shutil.rmtree(index)
        server = start(binary, workplace, 0)
        round_of(server, 0, "rebuilt", expected)
        server.stop()
        passed += 1
    print(f"clock: {passed} passed, 0 failed")


main()
