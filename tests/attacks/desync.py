"""Requests hidden inside requests, through nginx and HAProxy that keep connections to the server.

    python3 tests/attacks/desync.py [--binary PATH] [--only TEXT]

Each attack goes over a connection of its own and hides a signed PUT that would be carried out, were
it taken for a request. Afterwards reads go through the same proxy, over the connection to the server
that the attack used, each of an object of its own: an answer that is another's is a desynchronised
connection. A hidden PUT that was carried out although the proxy gave no answer for it was smuggled.

Both proxies run twice: as they come, and in the way that looks least (bodies passed on as they come;
invalid requests let through). Prints "desync: N passed, N failed".
"""

import argparse
import itertools
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import server_process  # noqa: E402
import world  # noqa: E402
from classes import FRAMINGS  # noqa: E402
from matrix import flip  # noqa: E402
from wire import UNSIGNED, Broken, Connection, Request  # noqa: E402
from world import ALICE, SECRETS  # noqa: E402

# Attacks through all proxies. Fewer means that something was not tried.
FLOOR = 2200
OBJECTS = 32
# How long an attacker waits for an answer that may never come.
SILENCE = 0.15

NGINX = """
daemon off; master_process off; worker_processes 1; pid {place}/nginx.pid;
error_log {place}/nginx.log info;
events {{ worker_connections 256; }}
http {{
  access_log off; client_max_body_size 0; underscores_in_headers on; ignore_invalid_headers {strict};
  client_body_temp_path {place}/body; proxy_temp_path {place}/proxy;
  fastcgi_temp_path {place}/f; uwsgi_temp_path {place}/u; scgi_temp_path {place}/s;
  upstream store {{ server {server}; keepalive 1; keepalive_requests 100000; }}
  server {{
    listen {listen}; keepalive_requests 100000; merge_slashes off;
    location / {{
      proxy_pass http://store; proxy_http_version 1.1; proxy_request_buffering {buffering};
      proxy_set_header Host $http_host; proxy_set_header Connection "";
    }}
  }}
}}
"""

HAPROXY = """
global
  maxconn 256
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 20s
  timeout server 20s
  timeout http-request 5s
  option http-keep-alive
{lax_client}
frontend in
  bind {listen}
  default_backend store
backend store
{lax_server}
  http-reuse always
  server store {server} pool-max-conn 4 maxconn 4
"""


class Proxy:
    def __init__(self, name, place, server):
        self.name, self.port = name, server_process.free_port()
        self.place = place / name.replace(" ", "-")
        self.place.mkdir()
        listen, target = f"127.0.0.1:{self.port}", f"{server.host}:{server.port}"
        lax = name.endswith("lax")
        if name.startswith("nginx"):
            text = NGINX.format(
                place=self.place,
                listen=listen,
                server=target,
                strict="off" if lax else "on",
                buffering="off" if lax else "on",
            )
            command = ["nginx", "-p", self.place, "-c", self.place / "conf", "-e", self.place / "nginx.log"]
        else:
            text = HAPROXY.format(
                listen=listen,
                server=target,
                lax_client="  option accept-invalid-http-request" if lax else "",
                lax_server="  option accept-invalid-http-response" if lax else "",
            )
            command = ["haproxy", "-db", "-f", self.place / "conf"]
        (self.place / "conf").write_text(text)
        program = shutil.which(command[0]) or f"/usr/sbin/{command[0]}"
        self.log = open(self.place / "log", "wb")
        self.process = subprocess.Popen([program, *command[1:]], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit(f"{name} has ended: {(self.place / 'log').read_text()}") from None
                time.sleep(0.05)
        raise SystemExit(f"{name} does not answer")

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
        self.log.close()


CHUNKS = {
    "an extension": b"0;a=b\r\n\r\n",
    "an extension with a line feed": b"0;a=b\n\r\n\r\n",
    "an extension in quotes": b'0;a="\r\n\r\n"\r\n\r\n',
    "a size that overflows": b"10000000000000000\r\n",
    "a size that wraps to 5": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "a size of many zeros": b"000000000000000000000000\r\n\r\n",
    "a hexadecimal prefix": b"0x0\r\n\r\n",
    "a sign": b"+0\r\n\r\n",
    "a minus": b"-0\r\n\r\n",
    "a space behind": b"0 \r\n\r\n",
    "a space before": b" 0\r\n\r\n",
    "bare line feeds": b"0\n\n",
    "a carriage return alone": b"0\r\r\n\r\n",
    "no end of the payload": b"5\r\nhello0\r\n\r\n",
    "another end of the payload": b"5\r\nhelloXX0\r\n\r\n",
    "a trailer": b"0\r\nA: b\r\n\r\n",
    "a length in the trailer": b"0\r\nContent-Length: 100\r\n\r\n",
    "no size": b"\r\n\r\n",
    "letters": b"g\r\n\r\n",
}

HOPS = {
    "Connection: content-length": "Connection: keep-alive, content-length\r\nContent-Length: {length}",
    "Connection: transfer-encoding": "Connection: transfer-encoding\r\nTransfer-Encoding: chunked",
    "Connection: host": "Connection: host\r\nContent-Length: {length}",
    "Connection: authorization": "Connection: authorization\r\nContent-Length: {length}",
    "Upgrade": "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: {length}",
    "Upgrade to websocket": "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 777\r\nContent-Length: {length}",
    "Keep-Alive": "Keep-Alive: timeout=1, max=1\r\nConnection: keep-alive\r\nContent-Length: {length}",
    "Proxy-Connection": "Proxy-Connection: keep-alive\r\nContent-Length: {length}",
    "TE: trailers": "TE: trailers\r\nTrailer: content-length\r\nTransfer-Encoding: chunked",
    "Expect": "Expect: 100-continue\r\nContent-Length: {length}",
    "Expect, obscured": "Expect: 100-continue, x\r\nContent-Length: {length}",
    "Expect with a coding": "Expect: 100-continue\r\nTransfer-Encoding: chunked",
    "Content-Length: 0 in words": "Content-Length: 0x0",
    "Content_Length": "Content_Length: 0\r\nContent-Length: {length}",
    "Transfer_Encoding": "Transfer_Encoding: chunked\r\nContent-Length: {length}",
}


class Attacks:
    """The bytes of each attack: (name, method, bytes, key of the hidden PUT)."""

    def __init__(self, bucket, host, prefix):
        self.bucket, self.host = bucket, host
        self.keys = (f"{prefix}-{number}" for number in itertools.count())

    def hidden(self):
        key = next(self.keys)
        request = Request("PUT", f"/{self.bucket}/{key}", (), (), b"smuggled")
        return key, request.sign(ALICE, self.host).wire()

    def outer(self, method, good, target=None, version="HTTP/1.1"):
        """The head of the visible request, up to its last field."""
        # A write that is carried out goes to one place; what is hidden, to another.
        path = f"/{self.bucket}/outer" if method in ("PUT", "POST", "DELETE") else f"/{self.bucket}/unique-0"
        request = Request(method, path).sign(ALICE, self.host, payload=UNSIGNED)
        if not good:
            flip(request)
        lines = "".join(f"{name}: {value}\r\n" for name, value in request.headers)
        return f"{method} {target or path} {version}\r\n{lines}"

    def all(self):
        layouts = {
            # Behind what a reader of chunks takes for the end.
            "behind the last chunk": lambda inner: b"0\r\n\r\n" + inner,
            # Inside of what a reader of chunks takes for a chunk.
            "in a chunk": lambda inner: b"%x\r\n%s\r\n0\r\n\r\n" % (len(inner), inner),
            "the whole body": lambda inner: inner,
        }
        for what, fields in {**FRAMINGS, **HOPS}.items():
            for layout, make in layouts.items():
                for method in ("PUT", "GET"):
                    for good in (True, False):
                        key, inner = self.hidden()
                        body = make(inner)
                        version, lines = "HTTP/1.1", fields
                        if lines.startswith("HTTP/1.0 "):
                            version, lines = lines.split(" ", 1)
                        lines = lines.format(length=len(body))
                        head = self.outer(method, good, version=version) + lines + "\r\n\r\n"
                        name = f"{what}, {layout}, {method}{'' if good else ', forged'}"
                        yield name, method, head.encode("latin-1") + body, key
        for what, coded in CHUNKS.items():
            for good in (True, False):
                key, inner = self.hidden()
                head = self.outer("PUT", good) + "Transfer-Encoding: chunked\r\n\r\n"
                yield f"chunks with {what}{'' if good else ', forged'}", "PUT", head.encode() + coded + inner, key
        for target in (f"http://{self.host}/{self.bucket}/unique-0", "http://other/k", f"//{self.bucket}/unique-0", "*", f"http://{self.host}@other/k", f"/{self.bucket}/unique-0 HTTP/1.1\r\nX: y"):
            for method in ("GET", "HEAD", "OPTIONS"):
                key, inner = self.hidden()
                head = self.outer(method, True, target) + f"Content-Length: {len(inner)}\r\n\r\n"
                yield f"target {target[:20]!r} {method}", method, head.encode() + inner, key
        for method in ("HEAD", "DELETE", "POST", "OPTIONS", "TRACE", "PATCH"):
            for good in (True, False):
                key, inner = self.hidden()
                head = self.outer(method, good) + f"Content-Length: {len(inner)}\r\n\r\n"
                yield f"body of {method}{'' if good else ', forged'}", method, head.encode() + inner, key


class Front:
    """One proxy and all attacks through it."""

    def __init__(self, proxy, place, bucket, tally, lock, only):
        self.proxy, self.place, self.bucket = proxy, place, bucket
        self.tally, self.lock, self.only = tally, lock, only
        self.host = f"127.0.0.1:{proxy.port}"
        self.next = itertools.count()
        self.other = self.connection(30)
        self.asked = 0
        self.failure = None

    def connection(self, timeout):
        return Connection("127.0.0.1", self.proxy.port, SECRETS.values(), timeout=timeout)

    def own_answer(self, connection, method="GET"):
        """Reads an object that nobody else reads now."""
        number = next(self.next) % OBJECTS
        request = Request(method, f"/{self.bucket}/unique-{number}").sign(ALICE, self.host)
        answer = connection.ask(request)
        self.asked += 1
        right = answer.status == 200 and answer.header("x-amz-meta-number") == str(number)
        if method == "GET":
            right &= answer.body == content(number)
        return None if right else f"wanted unique-{number}, got {answer}"

    def attack(self, method, data):
        """Statuses of the answers that the attacker gets."""
        connection = self.connection(SILENCE)
        found = []
        try:
            connection.send(data)
            while len(found) < 3:
                answer = connection.answer(method if not found else "PUT")
                found.append(answer.status)
                if answer.closing:
                    break
        except (OSError, ConnectionError, Broken, ValueError):
            pass
        connection.close()
        return found

    def run(self):
        try:
            for name, method, data, key in Attacks(self.bucket, self.host, self.proxy.name.replace(" ", "-")).all():
                if self.only and self.only not in name:
                    continue
                statuses = self.attack(method, data)
                error = None
                for kind in ("GET", "HEAD", "GET"):
                    try:
                        error = error or self.own_answer(self.other, kind)
                    except (Broken, OSError) as broken:
                        self.other.close()
                        error = error or f"{broken!r}"
                with self.lock:
                    there = self.place.get(world.ROOT, self.bucket, key, want=None).status == 200
                    # Where the proxy saw two requests there are two answers.
                    if there and statuses[1:] != [200]:
                        error = error or f"{key} was stored"
                    self.tally.check(f"{self.proxy.name}: {name}", error and f"{error}; answers {statuses}\n{data[:1500]!r}")
        except Exception as failure:
            self.failure = failure
            raise


def content(number):
    return f"<unique {number:06}>".encode() * 8


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary")
    parser.add_argument("--only", help="attacks with this in their name")
    arguments = parser.parse_args()
    binary = server_process.find_binary(arguments.binary)
    tally, lock, begun = world.Tally(), threading.Lock(), time.monotonic()
    with server_process.Workplace("desync") as workplace:
        config, log = workplace.path / "ostrakon.toml", workplace.path / "server-log"
        config.write_text(world.CONFIG)
        server = server_process.Server(
            binary,
            workplace.path / "data",
            log,
            ["--config", config, "--cores", "2", "--log", "debug"],
            world.ENVIRONMENT,
        ).start()
        workplace.on_exit(server.kill)
        place = world.World(server, False)
        bucket = place.bucket(ALICE)
        for number in range(OBJECTS):
            place.put(ALICE, bucket, f"unique-{number}", content(number), [("x-amz-meta-number", str(number))])
        fronts = []
        for name in ("nginx", "nginx lax", "haproxy", "haproxy lax"):
            proxy = Proxy(name, workplace.path, server)
            workplace.on_exit(proxy.stop)
            fronts.append(Front(proxy, place, bucket, tally, lock, arguments.only))
        threads = [threading.Thread(target=front.run) for front in fronts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for front in fronts:
            error = front.failure and repr(front.failure)
            running = front.proxy.process.poll() is None
            tally.check(f"{front.proxy.name}: all was tried", error or (None if running else "the proxy has ended"))
        # Nothing is desynchronised by a connection that is used once.
        peers = re.findall(r"peer=(\S+)", log.read_text(errors="replace"))
        asked = sum(front.asked for front in fronts)
        shared = len(peers) - len(set(peers))
        tally.check("connections to the server are shared", None if shared > asked // 2 else f"{shared} of {asked}")
        tally.check("the server runs", None if server.running() else server.log_tail())
        if server.running():
            server.stop()
        cases = tally.passed + len(tally.failed)
        if not arguments.only:
            tally.check("enough attacks", None if cases >= FLOOR else f"{cases}, {FLOOR} wanted")
        print(f"{asked} reads beside {cases} cases, {shared} over shared connections, {time.monotonic() - begun:.0f} s")
        print(f"desync: {tally.passed} passed, {len(tally.failed)} failed")
        if tally.failed or tally.passed == 0:
            raise SystemExit(1)


main()
