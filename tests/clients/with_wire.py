"""Requests that awscli and boto3 do not send, and other SDKs do: signed by hand."""

import datetime
import hashlib
import http.client
import random
import socket

import s3_wire
from checks import Checks, equal

checks = Checks("wire")

KIB, MIB = 1024, 1024 * 1024
CODINGS = [
    {"signed": True},
    {"signed": True, "trailer": "x-amz-checksum-crc32"},
    {"signed": True, "trailer": "x-amz-checksum-sha256"},
    {"signed": False, "trailer": "x-amz-checksum-crc32"},
    {"signed": False, "trailer": "x-amz-checksum-sha1"},
]


class Context:
    def __init__(self, server):
        self.server = server
        self.s3 = s3_wire.Client.of(server)
        self.made = 0

    def bucket(self):
        self.made += 1
        name = f"wire-{self.made}"
        equal(self.s3.request("PUT", name).status, 200, "bucket")
        return name


@checks
def chunked_coding(c):
    bucket = c.bucket()
    for coding in CODINGS:
        for size in (0, 1, 65536, 65537, 300_000, 9 * MIB):
            body = random.Random(size).randbytes(size)
            answer = c.s3.put_chunked(bucket, "k", body, **coding)
            equal(answer.status, 200, f"{coding} {size}: {answer}")
            answer = c.s3.get(bucket, "k")
            equal(answer.body == body, True, f"{coding} {size}")
            # The coding is of the transfer and not of the object.
            equal("content-encoding" in answer.headers, False, "content-encoding")
    body = random.Random(1).randbytes(100_000)
    for chunk in (8192, 100_000, 33_333):
        equal(c.s3.put_chunked(bucket, "k", body, chunk=chunk).status, 200, f"chunks of {chunk}")
        equal(c.s3.get(bucket, "k").body == body, True, f"chunks of {chunk}")


@checks
def spoiled_chunked_bodies_leave_nothing(c):
    bucket = c.bucket()
    for size in (1000, 300_000):
        body = random.Random(size).randbytes(size)
        for coding in CODINGS:
            spoils = ["chunk"]
            if coding["signed"]:
                spoils.append("signature")
            if "trailer" in coding:
                spoils.append("trailer")
            for spoil in spoils:
                try:
                    answer = c.s3.put_chunked(bucket, "k", body, spoil=spoil, **coding)
                except (OSError, http.client.HTTPException):
                    c.s3.close()
                else:
                    equal(answer.status in (400, 403), True, f"{coding} {spoil}: {answer}")
                equal(c.s3.get(bucket, "k").code, "NoSuchKey", f"{coding} {spoil}")
        for wrong in (size - 1, size + 1):
            try:
                answer = c.s3.put_chunked(bucket, "k", body, length=wrong)
            except (OSError, http.client.HTTPException):
                c.s3.close()
            else:
                equal(answer.status, 400, f"declared {wrong} of {size}: {answer}")
            c.s3.close()
            equal(c.s3.get(bucket, "k").code, "NoSuchKey", f"declared {wrong} of {size}")


@checks
def a_body_that_is_not_the_signed_one_leaves_nothing(c):
    bucket = c.bucket()
    for size in (10, 300_000):
        body = random.Random(size).randbytes(size)
        other = hashlib.sha256(body + b"x").hexdigest()
        answer = c.s3.put(bucket, "k", body, payload=other)
        equal((answer.status, answer.code), (400, "XAmzContentSHA256Mismatch"), f"{size}")
        equal(c.s3.get(bucket, "k").code, "NoSuchKey")
        equal(c.s3.put(bucket, "k", body, payload=s3_wire.UNSIGNED).status, 200)
        equal(c.s3.get(bucket, "k").body == body, True)
        c.s3.delete(bucket, "k")


@checks
def an_upload_cut_off_leaves_what_was_there(c):
    bucket = c.bucket()
    for size in (100, 200_000, 3 * MIB):
        before = random.Random(size).randbytes(size)
        equal(c.s3.put(bucket, "k", before).status, 200)
        for sent in (0, size // 2, size - 1):
            headers = {"content-length": str(size)}
            c.s3.sign("PUT", f"/{bucket}/k", "", headers, s3_wire.UNSIGNED)
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            with socket.create_connection((c.server.host, c.server.port)) as cut:
                cut.sendall(f"PUT /{bucket}/k HTTP/1.1\r\n{lines}\r\n".encode() + b"y" * sent)
        equal(c.s3.get(bucket, "k").body == before, True, f"{size}")


@checks
def a_client_that_expects_to_be_told_is_told(c):
    bucket = c.bucket()

    def begin(raw, key, size):
        headers = {"content-length": str(size), "expect": "100-continue"}
        c.s3.sign("PUT", f"/{key}", "", headers, s3_wire.UNSIGNED)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        raw.sendall(f"PUT /{key} HTTP/1.1\r\n{lines}\r\n".encode())

    def head(raw):
        text = b""
        while not text.endswith(b"\r\n\r\n"):
            piece = raw.recv(1)
            if not piece:
                raise AssertionError(f"closed after {text!r}")
            text += piece
        return text.lower()

    with socket.create_connection((c.server.host, c.server.port), timeout=30) as raw:
        for size in (10, 0, 100_000, 0, 0, 5):
            begin(raw, f"{bucket}/k", size)
            equal(head(raw), b"http/1.1 100 continue\r\n\r\n", f"before {size}")
            raw.sendall(b"z" * size)
            equal(head(raw).split()[1], b"200", f"after {size}")
    for size in (10, 0):
        with socket.create_connection((c.server.host, c.server.port), timeout=30) as raw:
            begin(raw, "no-such-bucket/k", size)
            answer = head(raw)
            equal((answer.split()[1], b"connection: close" in answer), (b"404", True), f"{answer}")


@checks
def old_and_future_requests_are_refused(c):
    bucket = c.bucket()
    now = datetime.datetime.now(datetime.timezone.utc)
    for minutes in (-20, 20):
        answer = c.s3.get(bucket, "k", now=now + datetime.timedelta(minutes=minutes))
        equal((answer.status, answer.code), (403, "RequestTimeTooSkewed"))
    answer = c.s3.get(bucket, "k", now=now - datetime.timedelta(minutes=5))
    equal(answer.code, "NoSuchKey")


@checks
def a_signature_for_another_region_is_refused(c):
    elsewhere = s3_wire.Client.of(c.server, region="eu-west-1")
    answer = elsewhere.request("GET")
    # boto3 reads the right region out of this and tries again.
    equal((answer.status, answer.code), (400, "AuthorizationHeaderMalformed"))
    equal(b"<Region>us-east-1</Region>" in answer.body, True, f"{answer}")


@checks
def a_put_without_a_length_is_refused(c):
    bucket = c.bucket()
    headers = {}
    c.s3.sign("PUT", f"/{bucket}/k", "", headers, s3_wire.UNSIGNED)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection((c.server.host, c.server.port), timeout=30) as raw:
        raw.sendall(f"PUT /{bucket}/k HTTP/1.1\r\n{lines}\r\n".encode())
        equal(raw.recv(100).split()[1], b"411")


@checks
def health_needs_no_credentials(c):
    for path in ("/minio/health/live", "/minio/health/ready"):
        connection = http.client.HTTPConnection(c.server.host, c.server.port, timeout=30)
        connection.request("GET", path)
        equal(connection.getresponse().status, 200, path)
        connection.close()
