"""Two users' bytes under disconnects, ranges and short objects: none ever in the other's hands.

Every 16 bytes of a body carry their user, the object's number and the place in it, so that a byte out
of place is seen wherever it comes up: in an answer, in an error, behind an answer, or in what is
stored. Each round is one of: a whole upload or read, one that is cut off somewhere, a range, an
upload whose length or hash is wrong.
"""

import hashlib
import random
import re
import socket
import threading
import time
import urllib.request

import wire
from wire import UNSIGNED, Connection, Request
from world import ALICE, BOB, SECRETS

SIZES = (0, 1, 15, 16, 17, 100, 1000, 4095, 4096, 4097, 16384, 32768, 40_000, 65_536, 100_000, 300_000, 1_100_000)
# Small ones are the many.
WEIGHTS = (1, 2, 2, 2, 2, 6, 6, 4, 4, 4, 4, 4, 3, 3, 2, 1, 1)
KEYS = 12
# Of the pool, where buffers are to run out: less is free than one piece of an upload takes.
BUFFERS_USED_MIN = 0.95
MARK = re.compile(rb"<([AB])(\d{6})\.(\d{6})>")


def pattern(user, number, size):
    """16 bytes: <, A or B, number of the object, place in it, >."""
    tag = user.name[0].upper()
    count = size // 16 + 1
    return "".join(f"<{tag}{number:06}.{at:06}>" for at in range(count)).encode()[:size]


def foreign(user, data):
    """Where the other's tag is in it."""
    tag = b"B" if user is ALICE else b"A"
    match = re.search(rb"<" + tag + rb"\d{1,6}", data)
    return match and data[max(0, match.start() - 40) : match.start() + 60]


class Client(threading.Thread):
    def __init__(self, world, user, bucket, rounds, seed, until, tls=None):
        super().__init__(daemon=True)
        self.world, self.user, self.bucket, self.rounds = world, user, bucket, rounds
        self.random = random.Random(seed)
        self.until, self.tls = until, tls
        self.connection = self.fresh()
        # Keys are of one thread; what may be under each of them now.
        self.prefix = f"{seed}-"
        self.stored = {}
        self.numbers = seed * 20_000
        self.done = self.cut = self.busy = 0
        self.error = None

    def fresh(self):
        return Connection(self.world.server.host, self.world.server.port, SECRETS.values(), timeout=60, tls=self.tls)

    def run(self):
        try:
            for _ in range(self.rounds):
                if time.monotonic() > self.until:
                    break
                self.round()
                self.done += 1
        except Exception as error:  # told by the main thread
            self.error = error

    def round(self):
        key = f"{self.prefix}{self.random.randrange(KEYS)}"
        kind = self.random.choice(("put", "put", "get", "get", "range", "range", "cut put", "cut put", "cut get", "cut get", "wrong put", "peek"))
        getattr(self, kind.replace(" ", "_"))(key)

    def fail(self, what, answer=None):
        raise AssertionError(f"{self.user.name}: {what}: {str(answer)[:600]}")

    def body(self):
        self.numbers += 1
        return pattern(self.user, self.numbers, self.random.choices(SIZES, WEIGHTS)[0])

    def request(self, method, key, headers=(), body=b"", payload=None, bucket=None):
        request = Request(method, f"/{bucket or self.bucket}/{key}", (), headers, body)
        return request.sign(self.user, self.world.host, payload=payload)

    def put(self, key):
        body = self.body()
        request = self.request("PUT", key, (), body, UNSIGNED if self.random.random() < 0.5 else None)
        answer = self.connection.ask(request)
        if answer.status == 503:
            # Buffers have run out; nothing is stored.
            self.busy += 1
            return
        if answer.status != 200:
            self.fail("put", answer)
        self.stored[key] = {body}

    def judge(self, key, answer, first=0, last=None):
        if foreign(self.user, answer.body) or foreign(self.user, str(answer.fields).encode()):
            self.fail(f"bytes of the other in an answer about {key}", foreign(self.user, answer.body))
        if answer.status == 503:
            self.busy += 1
            return
        possible = self.stored.get(key)
        if not possible:
            if answer.status != 404:
                self.fail(f"{key} is not there", answer)
            return
        if answer.status == 404 and None in possible:
            return
        if answer.status not in (200, 206):
            self.fail(f"{key}", answer)
        bodies = [body for body in possible if body is not None]
        parts = [body if answer.status == 200 else body[first : None if last is None else last + 1] for body in bodies]
        if answer.body not in parts:
            self.fail(f"{key} is something else", answer)

    def get(self, key):
        self.judge(key, self.connection.ask(self.request("GET", key)))

    def range(self, key):
        possible = [body for body in self.stored.get(key, ()) if body is not None]
        size = min(map(len, possible)) if possible else 0
        if size == 0:
            return self.get(key)
        first = self.random.randrange(size)
        last = min(size - 1, first + self.random.choice((0, 1, 15, 100, 5000, 70_000)))
        request = self.request("GET", key, [("range", f"bytes={first}-{last}")])
        self.judge(key, self.connection.ask(request), first, last)

    def peek(self, key):
        """At what the other has."""
        other = "bob" if self.user is ALICE else "alice"
        bucket = next(name for name in self.world.pair if name.startswith(other))
        answer = self.connection.ask(self.request("GET", f"{self.random.randrange(9)}-{self.random.randrange(KEYS)}", bucket=bucket))
        if answer.status not in (403, 503) or foreign(self.user, answer.body):
            self.fail("a look at the other's", answer)

    def end(self, connection):
        """Without, or with, a word to the other side."""
        raw = connection.socket
        if raw is not None and self.random.random() < 0.5:
            try:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            except OSError:
                pass
        connection.close()
        self.cut += 1

    def cut_put(self, key):
        body = self.body()
        data = self.request("PUT", key, (), body, UNSIGNED).wire()
        at = self.random.choice((self.random.randrange(len(data)), len(data) - 1, len(data) - len(body) // 2 - 1))
        connection = self.fresh()
        try:
            connection.send(data[:at])
            if self.random.random() < 0.2:
                time.sleep(0.002)
        except OSError:
            pass
        self.end(connection)
        # It was never whole: nothing changes.

    def cut_get(self, key):
        connection = self.fresh()
        data = self.request("GET", key).wire()
        received = b""
        try:
            connection.send(data if self.random.random() < 0.8 else data[: self.random.randrange(len(data))])
            if self.random.random() < 0.7:
                connection.socket.settimeout(0.05)
                received = connection.socket.recv(self.random.choice((1, 100, 5000, 200_000)))
        except OSError:
            pass
        if foreign(self.user, received):
            self.fail("bytes of the other before a cut", foreign(self.user, received))
        self.end(connection)

    def wrong_put(self, key):
        """Refused when all of it has come."""
        body = self.body()
        wrong = hashlib.sha256(body + b"x").hexdigest()
        answer = self.connection.ask(self.request("PUT", key, (), body, wrong))
        if answer.status == 503:
            self.busy += 1
        elif answer.code != "XAmzContentSHA256Mismatch":
            self.fail("wrong hash", answer)
        elif foreign(self.user, answer.body):
            self.fail("bytes of the other in an error", answer)


def buffers_used(world):
    """The part of the buffers that is handed out, over all cores."""
    with urllib.request.urlopen(f"http://127.0.0.1:{world.admin_port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    sums = [
        sum(float(value) for value in re.findall(rf"^{name}{{.*}} (\S+)$", text, re.M))
        for name in ("ostrakon_buffer_used_bytes", "ostrakon_buffer_bytes")
    ]
    return sums[0] / sums[1]


def hold(world, count, stop, used):
    """In waves, connections that begin an upload of some MiB, say little, and go: while they last
    they hold all the buffers that a core has."""
    wave = 0
    while not stop.is_set():
        wave += 1
        held = []
        for index in range(count):
            user = (ALICE, BOB)[index % 2]
            connection = Connection(world.server.host, world.server.port, (), timeout=5)
            headers = [("content-length", str(8 << 20))]
            request = Request("PUT", f"/{world.pair[index % 2]}/held-{index}", (), headers)
            request.sign(user, world.host, payload=UNSIGNED)
            try:
                connection.open().setblocking(False)
                connection.socket.send(request.wire() + pattern(user, 900_000 + index, 70_000))
            except OSError:
                pass
            held.append((connection, user, index))
        for _ in range(5):
            if stop.wait(0.2):
                break
            used.append(buffers_used(world))
            for connection, user, index in held:
                try:
                    connection.socket.send(pattern(user, 900_000 + index, 64))
                except OSError:
                    pass
        for connection, _, _ in held:
            connection.close()
        stop.wait(0.1)


def run(world, tally, name, rounds, seconds, held=0, tls=None):
    """`rounds` rounds by four clients, in at most `seconds`."""
    world.pair = (world.bucket(ALICE), world.bucket(BOB))
    until = time.monotonic() + seconds
    stop = threading.Event()
    used = []
    holder = threading.Thread(target=hold, args=(world, held, stop, used), daemon=True)
    if held:
        holder.start()
        time.sleep(1)
    clients = []
    for seed in range(4):
        user = (ALICE, BOB)[seed % 2]
        clients.append(Client(world, user, world.pair[seed % 2], rounds // 4, seed + 1, until, tls))
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    stop.set()
    if held:
        holder.join()
    error = next((repr(client.error) for client in clients if client.error), None)
    done = sum(client.done for client in clients)
    cut = sum(client.cut for client in clients)
    busy = sum(client.busy for client in clients)
    tally.check(f"mixing, {name}: every answer is its user's", error)
    # What is stored is of its user, whole, and what was last put.
    wrong = None
    for client in clients:
        for key, bodies in client.stored.items():
            answer = world.get(client.user, client.bucket, key, want=None)
            if answer.status != 200 or answer.body not in bodies:
                wrong = wrong or f"{client.bucket}/{key}: {str(answer)[:300]}"
    for user, bucket in zip((ALICE, BOB), world.pair):
        for key, _ in world.listed(bucket):
            data = world.get(user, bucket, key).body
            if foreign(user, data):
                wrong = wrong or f"{bucket}/{key} has bytes of the other"
            if key.startswith("held-"):
                wrong = wrong or f"{bucket}/{key} was never whole"
    tally.check(f"mixing, {name}: every object is its user's", wrong)
    if held:
        most = max(used, default=0)
        few = None if most >= BUFFERS_USED_MIN else f"{most:.0%} at most"
        tally.check(f"mixing, {name}: buffers run out", few)
        print(f"mixing, {name}: {most:.0%} of the buffers were used at most", flush=True)
    print(f"mixing, {name}: {done} rounds, {cut} cut off, {busy} refused for want of buffers", flush=True)
    return done, cut
