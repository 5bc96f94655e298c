"""S3 over one kept-alive connection: signed by hand, so that every byte on the wire is ours.

Standard library only. One client per thread.
"""

import base64
import binascii
import datetime
import hashlib
import hmac
import http.client
import re
import urllib.parse
import xml.etree.ElementTree

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
UNSIGNED = "UNSIGNED-PAYLOAD"
XML_NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


class Answer:
    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers  # lower-case names
        self.body = body

    @property
    def code(self):
        """S3's error code, '' where the body has none."""
        match = re.search(rb"<Code>([^<]*)</Code>", self.body)
        return match[1].decode() if match else ""

    def __repr__(self):
        return f"{self.status} {self.code} {self.body[:300]!r}"


class Listed:
    """One page, or all pages, of ListObjectsV2."""

    def __init__(self):
        self.objects = {}  # key -> (etag, size, last modified)
        self.keys = []  # in the order of the answer
        self.prefixes = []
        self.truncated = False
        self.token = None


def quote(text, keep="/"):
    if isinstance(text, str):
        text = text.encode()
    return urllib.parse.quote(text, safe=keep + "-._~")


class Client:
    def __init__(self, host, port, access_key, secret_key, region="us-east-1", timeout=60):
        self.host, self.port = host, port
        self.access_key, self.secret_key = access_key, secret_key
        self.region = region
        self.timeout = timeout
        self.connection = None
        self.signing_keys = {}

    @classmethod
    def of(cls, server, **more):
        return cls(server.host, server.port, *server.credentials(), **more)

    def close(self):
        if self.connection:
            self.connection.close()
            self.connection = None

    def signing_key(self, day):
        if day not in self.signing_keys:
            key = f"AWS4{self.secret_key}".encode()
            for part in (day, self.region, "s3", "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self.signing_keys = {day: key}
        return self.signing_keys[day]

    def sign(self, method, path, query, headers, payload, now=None):
        """Adds date, payload hash and Authorization to `headers`. Returns (seed signature, stamp,
        scope, signing key), from which chunk signatures follow."""
        now = now or datetime.datetime.now(datetime.timezone.utc)
        stamp = now.strftime("%Y%m%dT%H%M%SZ")
        day = stamp[:8]
        scope = f"{day}/{self.region}/s3/aws4_request"
        headers["host"] = f"{self.host}:{self.port}"
        headers["x-amz-date"] = stamp
        headers["x-amz-content-sha256"] = payload
        names = sorted(headers)
        signed = ";".join(names)
        canonical = "\n".join(
            [method, path, query]
            + [f"{name}:{' '.join(str(headers[name]).split())}" for name in names]
            + ["", signed, payload]
        )
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
        key = self.signing_key(day)
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.access_key}/{scope}, "
            f"SignedHeaders={signed}, Signature={signature}"
        )
        return signature, stamp, scope, key

    def send(self, method, target, headers, body):
        """One exchange. A connection that the server closed while it was idle is opened anew;
        any other failure is the caller's to judge: the request may have been carried out."""
        reused = self.connection is not None
        if not reused:
            self.connection = http.client.HTTPConnection(self.host, self.port, timeout=self.timeout)
        try:
            self.connection.request(method, target, body=body, headers=headers)
            response = self.connection.getresponse()
            content = response.read()
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            self.close()
            if reused and method in ("GET", "HEAD"):
                return self.send(method, target, headers, body)
            raise
        except BaseException:
            self.close()
            raise
        if response.will_close:
            self.close()
        return Answer(
            response.status, {k.lower(): v for k, v in response.getheaders()}, content
        )

    def request(
        self, method, bucket="", key=None, query=None, headers=None, body=b"", payload=None, now=None
    ):
        path = "/" + bucket
        if key is not None:
            path += "/" + quote(key)
        pairs = sorted((quote(k, ""), quote(v, "")) for k, v in (query or {}).items())
        query = "&".join(f"{k}={v}" for k, v in pairs)
        headers = {name.lower(): value for name, value in (headers or {}).items()}
        if payload is None:
            payload = hashlib.sha256(body).hexdigest() if body else EMPTY_SHA256
        self.sign(method, path, query, headers, payload, now)
        if method in ("PUT", "POST"):
            headers.setdefault("content-length", str(len(body)))
        return self.send(method, path + ("?" + query if query else ""), headers, body or None)

    def put(self, bucket, key, body, headers=None, **more):
        return self.request("PUT", bucket, key, headers=headers, body=body, **more)

    def get(self, bucket, key, **more):
        return self.request("GET", bucket, key, **more)

    def head(self, bucket, key=None):
        return self.request("HEAD", bucket, key)

    def delete(self, bucket, key=None):
        return self.request("DELETE", bucket, key)

    def put_chunked(
        self,
        bucket,
        key,
        body,
        chunk=65536,
        signed=True,
        trailer=None,
        spoil=None,
        length=None,
    ):
        """PUT in the aws-chunked coding. `trailer`: name of a checksum sent behind the body
        (x-amz-checksum-crc32). `spoil`: what to send wrong: "chunk", "trailer" or "signature"."""
        path = f"/{bucket}/{quote(key)}"
        payload = {
            (True, False): "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
            (True, True): "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
            (False, True): "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        }[signed, trailer is not None]
        headers = {
            "content-encoding": "aws-chunked",
            "x-amz-decoded-content-length": str(len(body) if length is None else length),
        }
        if trailer:
            headers["x-amz-trailer"] = trailer
        previous, stamp, scope, signing_key = self.sign("PUT", path, "", headers, payload)

        def chain(kind, *digests):
            nonlocal previous
            text = "\n".join([kind, stamp, scope, previous, *digests])
            previous = hmac.digest(signing_key, text.encode(), "sha256").hex()
            return previous

        pieces = [body[at : at + chunk] for at in range(0, len(body), chunk)] + [b""]
        wire = b""
        for index, piece in enumerate(pieces):
            sent = piece
            head = f"{len(piece):x}"
            if signed:
                signature = chain(
                    "AWS4-HMAC-SHA256-PAYLOAD", EMPTY_SHA256, hashlib.sha256(piece).hexdigest()
                )
                if spoil == "signature" and index == len(pieces) // 2:
                    signature = signature[::-1]
                head += f";chunk-signature={signature}"
            if spoil == "chunk" and index == 0:
                sent = bytes([piece[0] ^ 1]) + piece[1:]
            wire += head.encode() + b"\r\n" + sent + (b"\r\n" if piece else b"")
        if trailer:
            value = checksum(trailer.removeprefix("x-amz-checksum-"), body)
            if spoil == "trailer":
                value = checksum(trailer.removeprefix("x-amz-checksum-"), body + b"x")
            line = f"{trailer}:{value}"
            wire += line.encode() + b"\r\n"
            if signed:
                digest = hashlib.sha256(f"{line}\n".encode()).hexdigest()
                signature = chain("AWS4-HMAC-SHA256-TRAILER", digest)
                wire += f"x-amz-trailer-signature:{signature}\r\n".encode()
        wire += b"\r\n"
        headers["content-length"] = str(len(wire))
        return self.send("PUT", path, headers, wire)

    def list_page(self, bucket, prefix="", delimiter=None, token=None, page=1000, after=None):
        query = {"list-type": "2", "prefix": prefix, "max-keys": str(page), "encoding-type": "url"}
        if delimiter is not None:
            query["delimiter"] = delimiter
        if token is not None:
            query["continuation-token"] = token
        if after is not None:
            query["start-after"] = after
        answer = self.request("GET", bucket, query=query)
        if answer.status != 200:
            raise ListingFailed(answer)
        root = xml.etree.ElementTree.fromstring(answer.body)
        listed = Listed()

        def text(node, name):
            found = node.find(XML_NAMESPACE + name)
            return None if found is None else (found.text or "")

        for node in root.findall(XML_NAMESPACE + "Contents"):
            key = urllib.parse.unquote_plus(text(node, "Key"))
            etag = text(node, "ETag").strip('"')
            listed.keys.append(key)
            listed.objects[key] = (etag, int(text(node, "Size")), text(node, "LastModified"))
        for node in root.findall(XML_NAMESPACE + "CommonPrefixes"):
            listed.prefixes.append(urllib.parse.unquote_plus(text(node, "Prefix")))
        listed.truncated = text(root, "IsTruncated") == "true"
        listed.token = text(root, "NextContinuationToken")
        if listed.truncated and not listed.token:
            raise ListingFailed("truncated without a token")
        count = int(text(root, "KeyCount"))
        if count != len(listed.keys) + len(listed.prefixes):
            raise ListingFailed(f"KeyCount {count}, {len(listed.keys)} keys")
        return listed

    def list_all(self, bucket, prefix="", delimiter=None, page=1000):
        """Every page; keys that come twice or out of order are an error."""
        whole = Listed()
        token = None
        while True:
            part = self.list_page(bucket, prefix, delimiter, token, page)
            if len(part.keys) + len(part.prefixes) > page:
                raise ListingFailed("a page longer than asked for")
            whole.keys += part.keys
            whole.prefixes += part.prefixes
            whole.objects |= part.objects
            if not part.truncated:
                break
            token = part.token
        for names in (whole.keys, whole.prefixes):
            if any(a.encode() >= b.encode() for a, b in zip(names, names[1:])):
                raise ListingFailed(f"not in order, or twice: {names[:20]}…")
        return whole


class ListingFailed(Exception):
    pass


def checksum(algorithm, body):
    if algorithm == "crc32":
        digest = binascii.crc32(body).to_bytes(4, "big")
    else:
        digest = hashlib.new(algorithm, body).digest()
    return base64.b64encode(digest).decode()
