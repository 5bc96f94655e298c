"""HTTP and Signature Version 4 with every byte in the attacker's hand.

A request is signed as a whole and may be changed afterwards; an answer is read to its last byte, and
what comes behind it is an error. Standard library only.
"""

import datetime
import hashlib
import hmac
import re
import select
import socket
import ssl
import urllib.parse

EMPTY = hashlib.sha256(b"").hexdigest()
UNSIGNED = "UNSIGNED-PAYLOAD"
ALGORITHM = "AWS4-HMAC-SHA256"
REGION = "us-east-1"


def quote(text, keep="/"):
    return urllib.parse.quote(text, safe=keep + "-._~")


class User:
    def __init__(self, name, access_key, secret_key):
        self.name, self.access_key, self.secret_key = name, access_key, secret_key


def now():
    return datetime.datetime.now(datetime.timezone.utc)


def signing_key(secret, day, region=REGION, service="s3", terminator="aws4_request"):
    key = b"AWS4" + secret.encode()
    for part in (day, region, service, terminator):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


class Request:
    """`path` and `query` are as on the wire; `query` is a list of raw pairs. Names of headers are
    lower case and may come twice."""

    def __init__(self, method, path, query=(), headers=(), body=b""):
        self.method, self.path = method, path
        self.query = list(query)
        self.headers = [(name, value) for name, value in headers]
        self.body = body
        # Filled by signing.
        self.stamp = self.scope = self.signature = self.key = None

    def copy(self):
        other = Request(self.method, self.path, self.query, self.headers, self.body)
        other.stamp, other.scope = self.stamp, self.scope
        other.signature, other.key = self.signature, self.key
        return other

    def header(self, name):
        return next((value for found, value in self.headers if found == name), None)

    def set(self, name, value):
        """The header `name` once, with this value; `None` removes it."""
        at = next((i for i, (found, _) in enumerate(self.headers) if found == name), len(self.headers))
        self.headers = [pair for pair in self.headers if pair[0] != name]
        if value is not None:
            self.headers.insert(min(at, len(self.headers)), (name, value))
        return self

    def add(self, name, value):
        self.headers.append((name, value))
        return self

    def target(self):
        query = "&".join(name if value is None else f"{name}={value}" for name, value in self.query)
        return self.path + ("?" + query if query else "")

    def wire(self, framing=True):
        lines = [f"{self.method} {self.target()} HTTP/1.1"]
        names = [name for name, _ in self.headers]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if framing and "content-length" not in names and "transfer-encoding" not in names:
            if self.body or self.method in ("PUT", "POST"):
                lines.append(f"content-length: {len(self.body)}")
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + self.body

    def canonical(self, names, payload, method=None):
        def encoded(raw, plus=True):
            text = urllib.parse.unquote_to_bytes((raw or "").replace("+", " "))
            return quote(text, "")

        pairs = sorted(
            (encoded(name), encoded(value))
            for name, value in self.query
            if name != "X-Amz-Signature"
        )
        lines = [method or self.method, self.path, "&".join(f"{n}={v}" for n, v in pairs)]
        for name in names:
            values = [" ".join(value.split(" ")) for found, value in self.headers if found == name]
            lines.append(f"{name}:{','.join(re.sub(' +', ' ', value.strip()) for value in values)}")
        return "\n".join(lines + ["", ";".join(names), payload])

    def _seal(self, user, names, payload, stamp, region, service, terminator, method, day):
        self.stamp = stamp
        self.scope = f"{day}/{region}/{service}/{terminator}"
        digest = hashlib.sha256(self.canonical(names, payload, method).encode("latin-1")).hexdigest()
        self.key = signing_key(user.secret_key, day, region, service, terminator)
        text = f"{ALGORITHM}\n{stamp}\n{self.scope}\n{digest}"
        self.signature = hmac.digest(self.key, text.encode(), "sha256").hex()
        return self.signature

    def sign(
        self,
        user,
        host,
        at=None,
        region=REGION,
        service="s3",
        terminator="aws4_request",
        payload=None,
        leave=(),
        method=None,
        day=None,
    ):
        """By header. `leave`: headers that are sent and not signed. `method`: signed in place of
        the one that is sent."""
        stamp = (at or now()).strftime("%Y%m%dT%H%M%SZ")
        payload = payload or hashlib.sha256(self.body).hexdigest()
        self.set("host", host).set("x-amz-date", stamp).set("x-amz-content-sha256", payload)
        names = sorted(
            {n for n, _ in self.headers if n == "host" or n.startswith("x-amz-")} - set(leave)
        )
        signature = self._seal(
            user, names, payload, stamp, region, service, terminator, method, day or stamp[:8]
        )
        return self.set(
            "authorization",
            f"{ALGORITHM} Credential={user.access_key}/{self.scope}, "
            f"SignedHeaders={';'.join(names)}, Signature={signature}",
        )

    def presign(
        self,
        user,
        host,
        at=None,
        expires=3600,
        region=REGION,
        service="s3",
        leave=(),
        method=None,
    ):
        """By query."""
        stamp = (at or now()).strftime("%Y%m%dT%H%M%SZ")
        self.set("host", host)
        names = sorted(
            {n for n, _ in self.headers if n == "host" or n.startswith("x-amz-")} - set(leave)
        )
        scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
        self.query += [
            ("X-Amz-Algorithm", ALGORITHM),
            ("X-Amz-Credential", quote(f"{user.access_key}/{scope}", "")),
            ("X-Amz-Date", stamp),
            ("X-Amz-Expires", str(expires)),
            ("X-Amz-SignedHeaders", quote(";".join(names), "")),
        ]
        payload = self.header("x-amz-content-sha256") or UNSIGNED
        signature = self._seal(
            user, names, payload, stamp, region, service, "aws4_request", method, stamp[:8]
        )
        self.query.append(("X-Amz-Signature", signature))
        return self


class Answer:
    def __init__(self, status, fields, body, closing):
        self.status, self.fields, self.body, self.closing = status, fields, body, closing

    def header(self, name):
        return next((value for found, value in self.fields if found == name), None)

    @property
    def code(self):
        match = re.search(rb"<Code>([^<]*)</Code>", self.body)
        return match[1].decode() if match else ""

    def __repr__(self):
        return f"{self.status} {self.code} {self.body[:400]!r}"


class Broken(Exception):
    """The answer is not one, or is not alone."""


class Connection:
    """Reads answers strictly. `secrets` must not be in any of them."""

    def __init__(self, host, port, secrets=(), timeout=60, tls=None):
        self.place = (host, port)
        self.secrets = [secret.encode() for secret in secrets]
        self.timeout = timeout
        self.tls = tls
        self.socket = None
        self.buffer = b""

    def open(self):
        if self.socket is None:
            self.socket = socket.create_connection(self.place, timeout=self.timeout)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.tls:
                self.socket = self.tls.wrap_socket(self.socket, server_hostname="localhost")
            self.buffer = b""
        return self.socket

    def close(self):
        if self.socket is not None:
            self.socket.close()
            self.socket = None
        self.buffer = b""

    def send(self, data):
        self.open().sendall(data)

    def _more(self):
        piece = self.socket.recv(65536)
        self.buffer += piece
        return bool(piece)

    def answer(self, method="GET"):
        """The next answer that is not an interim one."""
        while True:
            while b"\r\n\r\n" not in self.buffer:
                if not self._more():
                    raise ConnectionError(f"closed in the head: {self.buffer[:200]!r}")
            head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
            first, *lines = head.decode("latin-1").split("\r\n")
            match = re.fullmatch(r"HTTP/1\.1 (\d{3}) [^\r\n]*", first)
            if not match:
                raise Broken(f"not an answer: {first!r}")
            status = int(match[1])
            if status != 100:
                break
        fields = []
        for line in lines:
            name, separator, value = line.partition(":")
            if not separator or not re.fullmatch(r"[A-Za-z0-9-]+", name):
                raise Broken(f"not a field: {line!r}")
            fields.append((name.lower(), value.strip()))
        names = [name for name, _ in fields]
        for name in ("content-length", "x-amz-request-id", "etag", "content-type"):
            if names.count(name) > 1:
                raise Broken(f"{name} comes twice: {head!r}")
        values = dict(fields)
        closing = values.get("connection", "").lower() == "close"
        length = int(values.get("content-length", 0))
        if method == "HEAD" or status in (204, 304):
            length = 0
        elif "content-length" not in values and "transfer-encoding" not in values and not closing:
            raise Broken(f"no length: {head!r}")
        if values.get("transfer-encoding") == "chunked" and method != "HEAD":
            body = self._chunked()
        else:
            while len(self.buffer) < length:
                if not self._more():
                    raise ConnectionError(f"closed in the body, {len(self.buffer)} of {length}")
            body, self.buffer = self.buffer[:length], self.buffer[length:]
        for secret in self.secrets:
            if secret in head or secret in body:
                raise Broken(f"a secret is in the answer: {head!r} {body[:2000]!r}")
        return Answer(status, fields, body, closing)

    def _line(self):
        while b"\r\n" not in self.buffer:
            if not self._more():
                raise ConnectionError("closed in a chunk")
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line

    def _chunked(self):
        """Proxies may answer so."""
        body = b""
        while True:
            size = int(self._line().split(b";")[0], 16)
            while len(self.buffer) < size + 2:
                if not self._more():
                    raise ConnectionError("closed in a chunk")
            body, self.buffer = body + self.buffer[:size], self.buffer[size + 2 :]
            if size == 0:
                return body

    def alone(self):
        """Nothing may be behind an answer."""
        if self.buffer or select.select([self.socket], [], [], 0)[0] and self._more():
            raise Broken(f"behind the answer: {self.buffer[:300]!r}")

    def exchange(self, data, method):
        """One request's bytes, one answer. A connection that the server has closed while it was
        idle is opened anew once, before anything of an answer came."""
        fresh = self.socket is None
        try:
            self.open()
            try:
                self.send(data)
            except (BrokenPipeError, ConnectionResetError):
                # An answer may be there although not all was taken.
                pass
            answer = self.answer(method)
        except (ConnectionError, ssl.SSLError, BrokenPipeError) as error:
            received = self.buffer
            self.close()
            if fresh or received:
                raise ConnectionError(f"no answer: {error}") from error
            return self.exchange(data, method)
        except BaseException:
            self.close()
            raise
        if answer.closing:
            self._end()
        else:
            self.alone()
        return answer

    def _end(self):
        try:
            while self._more():
                pass
        except (OSError, ssl.SSLError):
            pass
        rest = self.buffer
        self.close()
        if rest:
            raise Broken(f"behind the last answer: {rest[:300]!r}")

    def ask(self, request):
        return self.exchange(request.wire(), request.method)
