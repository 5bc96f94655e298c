"""Bounded memory: many parts, many uploads at once, many idle connections.

    python3 tests/bounds/memory.py [--uploads 64] [--upload-mib 1024] [--parts 10000] [--idle 1000]

While the load runs the kernel is asked what the server holds of anonymous, shared and huge pages;
MEMORY_MAX is the bound. The uploads go on at the same time, a piece of each in turn, so that all of
them are under way until the last ends. Every object is read back and its bytes compared. With the
sizes above the uploads need 66 GiB of disk; smaller ones hold the same memory. Standard library only.
"""

import argparse
import contextlib
import hashlib
import pathlib
import selectors
import socket
import sys
import threading
import time
import xml.etree.ElementTree

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import s3_wire  # noqa: E402
import server_process  # noqa: E402

MEMORY_MAX = 256 << 20
CORES = 2
PIECE = 256 << 10


class Wrong(Exception):
    pass


class Watch:
    """The most that the process ever held, looked at every 20 ms."""

    def __init__(self, pid):
        self.pid, self.most, self.ended = pid, 0, threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)

    def held(self):
        sizes = {}
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in ("RssAnon", "RssShmem", "HugetlbPages"):
                sizes[name] = int(value.split()[0]) << 10
        return sum(sizes.values())

    def look(self):
        while not self.ended.wait(0.02):
            with contextlib.suppress(OSError):
                self.most = max(self.most, self.held())

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()

    def check(self, what):
        print(f"{what}: at most {self.most >> 20} MiB (bound {MEMORY_MAX >> 20} MiB)", flush=True)
        if self.most > MEMORY_MAX:
            raise Wrong(f"{what}: {self.most} bytes of memory")
        if self.most == 0:
            raise Wrong(f"{what}: nothing was measured")
        self.most = 0


def must(answer, status, what):
    if answer.status != status:
        raise Wrong(f"{what}: {answer}")
    return answer


def pattern(number):
    """PIECE bytes that tell whose they are."""
    seed = hashlib.sha256(f"upload {number}".encode()).digest()
    return (seed * (PIECE // len(seed)))[:PIECE]


def idle_connections(server, count, watch):
    connections = [
        socket.create_connection((server.host, server.port), timeout=30) for _ in range(count)
    ]
    # Half of them have been used before.
    for connection in connections[::2]:
        connection.sendall(b"GET /minio/health/live HTTP/1.1\r\nHost: h\r\n\r\n")
    for connection in connections[::2]:
        if not connection.recv(1000).startswith(b"HTTP/1.1 200"):
            raise Wrong("an idle connection was not served")
    time.sleep(1)
    watch.check(f"{count} idle connections")
    for connection in connections:
        connection.sendall(b"GET /minio/health/live HTTP/1.1\r\nHost: h\r\n\r\n")
        if not connection.recv(1000).startswith(b"HTTP/1.1 200"):
            raise Wrong("a connection was not served after it was idle")
        connection.close()


def uploads_at_once(server, count, size, watch):
    client = s3_wire.Client.of(server)
    must(client.request("PUT", "uploads"), 200, "create")
    selector = selectors.DefaultSelector()
    for number in range(count):
        headers = {"content-length": str(size)}
        client.sign("PUT", f"/uploads/{number}", "", headers, "UNSIGNED-PAYLOAD")
        head = f"PUT /uploads/{number} HTTP/1.1\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        connection = socket.create_connection((server.host, server.port), timeout=300)
        connection.sendall(head.encode() + b"\r\n")
        connection.setblocking(False)
        state = {"number": number, "left": size, "bytes": pattern(number), "at": 0}
        selector.register(connection, selectors.EVENT_WRITE, state)
    begun = time.monotonic()
    underway = count
    while underway:
        for key, _ in selector.select(300) or [(None, None)]:
            if key is None:
                raise Wrong(f"{underway} uploads stand still")
            state, connection = key.data, key.fileobj
            if state["left"]:
                piece = memoryview(state["bytes"])[state["at"] : state["at"] + state["left"]]
                sent = connection.send(piece)
                state["left"] -= sent
                state["at"] = (state["at"] + sent) % PIECE
                if not state["left"]:
                    selector.modify(connection, selectors.EVENT_READ, state)
            else:
                answer = connection.recv(4096)
                if not answer.startswith(b"HTTP/1.1 200"):
                    raise Wrong(f"upload {state['number']}: {answer!r}")
                selector.unregister(connection)
                connection.close()
                underway -= 1
    seconds = time.monotonic() - begun
    rate = count * size / seconds / 1e6
    print(f"{count} uploads of {size >> 20} MiB in {seconds:.0f} s, {rate:.0f} MB/s", flush=True)
    watch.check(f"{count} uploads at once")
    for number in range(count):
        compare(client, server, number, size)
    watch.check(f"{count} downloads")
    # Long idle by now; the server may have closed it, and a delete is not tried twice.
    client.close()
    for number in range(count):
        must(client.delete("uploads", str(number)), 204, "delete")


def compare(client, server, number, size):
    headers = {}
    client.sign("GET", f"/uploads/{number}", "", headers, s3_wire.EMPTY_SHA256)
    head = f"GET /uploads/{number} HTTP/1.1\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection((server.host, server.port), timeout=300) as connection:
        connection.sendall(head.encode() + b"connection: close\r\n\r\n")
        with connection.makefile("rb") as stream:
            if b" 200 " not in stream.readline():
                raise Wrong(f"get of upload {number}")
            while stream.readline() not in (b"\r\n", b""):
                pass
            expected, seen = pattern(number), 0
            while piece := stream.read(PIECE):
                if piece != expected[: len(piece)]:
                    raise Wrong(f"upload {number} has other bytes at {seen}")
                seen += len(piece)
            if seen != size:
                raise Wrong(f"upload {number} has {seen} bytes")


def many_parts(server, count, watch):
    """Only completing asks parts for their size, so small ones fill the list of an upload without filling the drive."""
    client = s3_wire.Client.of(server, timeout=300)
    must(client.request("PUT", "parts"), 200, "create")
    answer = must(client.request("POST", "parts", "k", {"uploads": ""}), 200, "begin")
    upload = xml.etree.ElementTree.fromstring(answer.body).findtext("{*}UploadId")
    etags = []
    for number in range(1, count + 1):
        body = b"%05d" % number if number > 1 else pattern(0) * (5 << 20 >> 18)
        query = {"partNumber": str(number), "uploadId": upload}
        answer = must(client.request("PUT", "parts", "k", query, body=body), 200, f"part {number}")
        etags.append(answer.headers["etag"])
    seen, marker = 0, "0"
    while True:
        query = {"uploadId": upload, "part-number-marker": marker}
        page = xml.etree.ElementTree.fromstring(
            must(client.request("GET", "parts", "k", query), 200, "list parts").body
        )
        seen += len(page.findall("{*}Part"))
        if page.findtext("{*}IsTruncated") != "true":
            break
        marker = page.findtext("{*}NextPartNumberMarker")
    if seen != count:
        raise Wrong(f"{seen} of {count} parts are listed")

    def complete(numbers):
        rows = "".join(
            f"<Part><PartNumber>{n}</PartNumber><ETag>{etags[n - 1]}</ETag></Part>" for n in numbers
        )
        body = f"<CompleteMultipartUpload>{rows}</CompleteMultipartUpload>".encode()
        return client.request("POST", "parts", "k", {"uploadId": upload}, body=body)

    # All of them: understood in full, and refused for their size.
    answer = complete(range(1, count + 1))
    if answer.status != 400 or answer.code != "EntityTooSmall":
        raise Wrong(f"complete of {count} small parts: {answer}")
    must(complete([1, count]), 200, "complete")
    body = must(client.get("parts", "k"), 200, "get").body
    if body != pattern(0) * (5 << 20 >> 18) + b"%05d" % count:
        raise Wrong("the completed object has other bytes")
    watch.check(f"{count} parts")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary")
    parser.add_argument("--directory", help="of the scratch data")
    parser.add_argument("--uploads", type=int, default=64)
    parser.add_argument("--upload-mib", type=int, default=32)
    parser.add_argument("--parts", type=int, default=10_000)
    parser.add_argument("--idle", type=int, default=1000)
    arguments = parser.parse_args()
    binary = server_process.find_binary(arguments.binary)
    with server_process.Workplace("memory", arguments.directory) as workplace:
        server = server_process.Server(
            binary, workplace.path / "data", workplace.path / "log", ["--cores", str(CORES)]
        ).start()
        workplace.on_exit(server.kill)
        with Watch(server.process.pid) as watch:
            idle_connections(server, arguments.idle, watch)
            many_parts(server, arguments.parts, watch)
            uploads_at_once(server, arguments.uploads, arguments.upload_mib << 20, watch)
        server.stop()
    print("memory: 3 passed, 0 failed")


main()
