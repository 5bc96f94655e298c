"""Slow clients time out, and nobody waits for them.

    python3 tests/bounds/slow_clients.py

Three connections stand still at once: in the middle of a head, in the middle of a body, and in the
middle of a small body that would be kept in one record. Meanwhile another client is served. Each is
answered with a refusal or simply closed within TIME_MAX, and nothing of it is stored. Standard
library only.
"""

import argparse
import pathlib
import selectors
import socket
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import s3_wire  # noqa: E402
import server_process  # noqa: E402

# The server waits 30 s for the rest of a head and for the next bytes of a body.
TIME_MIN, TIME_MAX = 25, 45


class Wrong(Exception):
    pass


def stalled_put(client, key, size, sent):
    """The head of a put of `size` bytes, signed, and the first of them."""
    headers = {"content-length": str(size)}
    client.sign("PUT", f"/slow/{key}", "", headers, "UNSIGNED-PAYLOAD")
    head = f"PUT /slow/{key} HTTP/1.1\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return head.encode() + b"\r\n" + b"x" * sent


def run(server):
    client = s3_wire.Client.of(server)
    if client.request("PUT", "slow").status != 200:
        raise Wrong("no bucket")
    stalled = {
        "head": b"PUT /slow/head HTTP/1.1\r\nhost: some",
        "body": stalled_put(client, "body", 8 << 20, 100_000),
        "small": stalled_put(client, "small", 4096, 1000),
    }
    selector = selectors.DefaultSelector()
    for name, data in stalled.items():
        connection = socket.create_connection((server.host, server.port))
        connection.sendall(data)
        selector.register(connection, selectors.EVENT_READ, name)
    begun, answers = time.monotonic(), {}
    while len(answers) < len(stalled):
        waited = time.monotonic() - begun
        if waited > TIME_MAX:
            raise Wrong(f"after {TIME_MAX} s only {sorted(answers)} were given up")
        for key, _ in selector.select(0.5):
            try:
                answer = key.fileobj.recv(65536)
            except ConnectionResetError:
                answer = b""
            if answer.startswith(b"HTTP/1.1 2"):
                raise Wrong(f"{key.data}: {answer[:200]!r}")
            if waited < TIME_MIN:
                raise Wrong(f"{key.data} was given up after {waited:.0f} s: {answer[:200]!r}")
            answers[key.data] = answer.split(b"\r\n", 1)[0].decode() or "closed"
            selector.unregister(key.fileobj)
            key.fileobj.close()
        begins = time.monotonic()
        for response in (client.put("slow", "quick", b"served"), client.get("slow", "quick")):
            if response.status != 200:
                raise Wrong(f"the other client: {response.status}")
        if time.monotonic() - begins > 5:
            raise Wrong("the other client had to wait")
    for name in stalled:
        status = client.head("slow", name).status
        if status != 404:
            raise Wrong(f"{name}: HEAD says {status}")
    print(f"given up after {waited:.0f} s: {answers}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary")
    arguments = parser.parse_args()
    binary = server_process.find_binary(arguments.binary)
    with server_process.Workplace("slow") as workplace:
        server = server_process.Server(
            binary, workplace.path / "data", workplace.path / "log", ["--cores", "1"]
        ).start()
        workplace.on_exit(server.kill)
        run(server)
        server.stop()
    print("slow clients: 3 passed, 0 failed")


main()
