"""boto3 as it comes, against a running server."""

import base64
import concurrent.futures
import datetime
import hashlib
import io
import os
import pathlib
import random
import socket
import threading
import zlib

import boto3
import botocore.config
import botocore.credentials
import botocore.exceptions
import botocore.handlers
import botocore.session
import s3transfer.crt
from checks import Checks, equal

checks = Checks("boto3")

KIB, MIB = 1024, 1024 * 1024
# Around the limits of the design: inline body, segment, chunk; and the largest this suite sends.
SIZES = [
    0, 1, 2, 511, 4095, 4096, 8191, 8192, 8193,
    32 * KIB - 1, 32 * KIB, 32 * KIB + 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1,
    MIB - 1, MIB, MIB + 1, 5 * MIB + 3, 32 * MIB - 1, 32 * MIB, 32 * MIB + 1, 64 * MIB,
]  # fmt: skip

ODD_KEYS = [
    "plain", "with space", " leading and trailing ", "a+b", "a%2Fb", "100%", "%", "a&b=c", "a?b#c",
    "semi;colon,comma", "quote\"apostrophe'", "<tag>&amp;", "back\\slash", "curly{}[]|^~`", "tab\there",
    "new\nline", "return\rkey", "\x01\x1f\x7f", "/", "//", "/leading", "trailing/", "double//slash",
    ".", "..", "./dot", "../up", "a/./b", "a/../b", "a/..", "ünïcödé", "日本語/キー", "emoji-😀",
    "e\u0301 decomposed", "\u00e9 composed", "\ufffd\uffff", "\U0010ffff", "*", "$@!()", "x" * 1024,
    "é" * 512, "0", "-", "_", "~", "CamelCase", "camelcase",
]  # fmt: skip


class Context:
    def __init__(self, server, other):
        """`other`: credentials of a second user."""
        self.other = other
        self.endpoint = server.endpoint
        self.access_key, self.secret_key = server.credentials()
        self.s3 = self.client()
        self.made = 0

    def client(self, **more):
        config = {
            "retries": {"total_max_attempts": 1},
            "s3": {"addressing_style": "path"},
            "max_pool_connections": 32,
            "inject_host_prefix": False,
        } | more.pop("config", {})
        given = {
            "endpoint_url": self.endpoint,
            "aws_access_key_id": self.access_key,
            "aws_secret_access_key": self.secret_key,
            "region_name": "us-east-1",
        } | more
        client = boto3.client("s3", config=botocore.config.Config(**config), **given)
        # What the server says to a wrong bucket name is the question here.
        client.meta.events.unregister(
            "before-parameter-build.s3", botocore.handlers.validate_bucket_name
        )
        return client

    def bucket(self):
        self.made += 1
        name = f"boto3-{self.made}"
        self.s3.create_bucket(Bucket=name)
        return name


def content(size, seed=0):
    return random.Random(f"{size} {seed}").randbytes(size)


def refused(call, code, status=None, **arguments):
    """The call must fail with this error code (one of them, if a tuple)."""
    codes = code if isinstance(code, tuple) else (code,)
    try:
        answer = call(**arguments)
    except botocore.exceptions.ClientError as error:
        found = error.response["Error"]["Code"]
        if found not in codes:
            raise AssertionError(f"refused with {found}, wanted {codes}: {error}") from error
        if status is not None:
            equal(error.response["ResponseMetadata"]["HTTPStatusCode"], status, "status")
        return error.response
    raise AssertionError(f"not refused: {answer}")


def read(client, bucket, key, **more):
    answer = client.get_object(Bucket=bucket, Key=key, **more)
    return answer["Body"].read(), answer


def keys_of(client, bucket, **more):
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, **more)
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


# ---- buckets --------------------------------------------------------------------------------------


@checks
def buckets_are_made_listed_found_and_removed(c):
    s3 = c.s3
    before = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    start = datetime.datetime.now(datetime.timezone.utc)
    s3.create_bucket(Bucket="first.bucket-1")
    s3.head_bucket(Bucket="first.bucket-1")
    listed = s3.list_buckets()
    found = {bucket["Name"]: bucket["CreationDate"] for bucket in listed["Buckets"]}
    equal(set(found), before | {"first.bucket-1"}, "buckets")
    if abs(found["first.bucket-1"] - start) > datetime.timedelta(minutes=1):
        raise AssertionError(f"made at {found['first.bucket-1']}, it is {start}")
    equal(listed["Owner"]["ID"] != "", True, "owner")
    names = [bucket["Name"] for bucket in listed["Buckets"]]
    equal(names, sorted(names), "order")
    s3.delete_bucket(Bucket="first.bucket-1")
    refused(s3.head_bucket, "404", Bucket="first.bucket-1")
    refused(s3.delete_bucket, "NoSuchBucket", 404, Bucket="first.bucket-1")
    equal({bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}, before, "buckets")


@checks
def a_bucket_made_again_is_a_new_one(c):
    s3 = c.s3
    bucket = c.bucket()
    s3.put_object(Bucket=bucket, Key="k", Body=b"old")
    refused(s3.delete_bucket, "BucketNotEmpty", 409, Bucket=bucket)
    equal(read(s3, bucket, "k")[0], b"old")
    s3.delete_object(Bucket=bucket, Key="k")
    s3.delete_bucket(Bucket=bucket)
    refused(s3.get_object, "NoSuchBucket", 404, Bucket=bucket, Key="k")
    refused(s3.put_object, "NoSuchBucket", 404, Bucket=bucket, Key="k", Body=b"x")
    refused(s3.list_objects_v2, "NoSuchBucket", 404, Bucket=bucket)
    s3.create_bucket(Bucket=bucket)
    equal(keys_of(s3, bucket), [])
    refused(s3.get_object, "NoSuchKey", 404, Bucket=bucket, Key="k")


@checks
def a_bucket_of_ones_own_is_not_made_twice(c):
    bucket = c.bucket()
    c.s3.put_object(Bucket=bucket, Key="k", Body=b"kept")
    try:
        c.s3.create_bucket(Bucket=bucket)  # 200 in us-east-1, as AWS has it
    except botocore.exceptions.ClientError as error:
        equal(error.response["Error"]["Code"], "BucketAlreadyOwnedByYou")
    equal(read(c.s3, bucket, "k")[0], b"kept")


@checks
def wrong_bucket_names_are_refused(c):
    for name in [
        "ab", "a" * 64, "Upper", "under_score", "-dash", "dash-", ".dot", "dot.", "two..dots",
        "192.168.1.1", "xn--punycode", "sp ace", "ü", "minio", "_ostrakon",
    ]:  # fmt: skip
        refused(
            c.s3.create_bucket,
            ("InvalidBucketName", "InvalidRequest", "AccessDenied", "InvalidURI"),
            Bucket=name,
        )
    names = {bucket["Name"] for bucket in c.s3.list_buckets()["Buckets"]}
    equal(names & {"minio", "_ostrakon", "ab", "Upper"}, set())


# ---- objects --------------------------------------------------------------------------------------


@checks
def every_size_comes_back_byte_for_byte(c):
    bucket = c.bucket()
    for size in SIZES:
        body = content(size)
        etag = f'"{hashlib.md5(body).hexdigest()}"'
        put = c.s3.put_object(Bucket=bucket, Key=f"size-{size}", Body=body)
        equal(put["ETag"], etag, f"ETag of {size}")
        found, answer = read(c.s3, bucket, f"size-{size}")
        equal(found == body, True, f"bytes of {size}")
        equal((answer["ContentLength"], answer["ETag"]), (size, etag), f"headers of {size}")
        head = c.s3.head_object(Bucket=bucket, Key=f"size-{size}")
        equal((head["ContentLength"], head["ETag"]), (size, etag), f"head of {size}")
    pages = c.s3.list_objects_v2(Bucket=bucket)
    listed = {item["Key"]: item["Size"] for item in pages["Contents"]}
    equal(listed, {f"size-{size}": size for size in SIZES}, "listing")
    for size in SIZES:
        c.s3.delete_object(Bucket=bucket, Key=f"size-{size}")
    equal(keys_of(c.s3, bucket), [])


@checks
def empty_bodies_and_others_share_a_connection(c):
    bucket = c.bucket()
    client = c.client(config={"max_pool_connections": 1, "read_timeout": 10})
    for size in (0, 100, 0, 0, 100_000, 0, 2 * MIB):
        body = content(size)
        client.put_object(Bucket=bucket, Key="k", Body=body)
        refused(client.put_object, "NoSuchBucket", Bucket="no-such-bucket", Key="k", Body=body)
        equal(read(client, bucket, "k")[0] == body, True, f"{size}")


@checks
def ranges(c):
    bucket = c.bucket()
    for size in [1, 10, 8192, 32 * KIB + 5, 200_000, 33 * MIB]:
        body = content(size)
        c.s3.put_object(Bucket=bucket, Key="r", Body=body)
        edges = {0, 1, size - 1, size // 2, 8191, 8192, 65535, 65536, MIB, 32 * MIB - 1, 32 * MIB}
        edges = sorted(edge for edge in edges if 0 <= edge < size)
        wanted = [(a, b) for a in edges for b in edges if a <= b]
        if len(wanted) > 30:
            wanted = random.Random(size).sample(wanted, 30)
        for first, last in wanted:
            found, answer = read(c.s3, bucket, "r", Range=f"bytes={first}-{last}")
            equal(found == body[first : last + 1], True, f"{first}-{last} of {size}")
            equal(answer["ContentRange"], f"bytes {first}-{last}/{size}")
            equal(answer["ResponseMetadata"]["HTTPStatusCode"], 206)
        for edge in edges:
            found, answer = read(c.s3, bucket, "r", Range=f"bytes={edge}-")
            equal(found == body[edge:], True, f"{edge}- of {size}")
            found, answer = read(c.s3, bucket, "r", Range=f"bytes=-{edge + 1}")
            equal(found == body[-(edge + 1) :], True, f"-{edge + 1} of {size}")
        found, answer = read(c.s3, bucket, "r", Range=f"bytes=0-{size + 100}")
        equal((found == body, answer["ContentRange"]), (True, f"bytes 0-{size - 1}/{size}"))
        found, answer = read(c.s3, bucket, "r", Range=f"bytes=-{size + 100}")
        equal(found == body, True, "longer suffix")
        for unsatisfiable in [f"bytes={size}-", f"bytes={size + 5}-{size + 9}", "bytes=-0"]:
            refused(
                c.s3.get_object, "InvalidRange", 416, Bucket=bucket, Key="r", Range=unsatisfiable
            )
        for malformed in ["bytes=5-2", "bytes=a-b", "items=0-1", "bytes=", "0-1"]:
            found, answer = read(c.s3, bucket, "r", Range=malformed)
            equal(found == body, True, f"{malformed!r} means the whole object")
        equal(answer["ResponseMetadata"]["HTTPStatusCode"], 200)
    c.s3.put_object(Bucket=bucket, Key="empty", Body=b"")
    refused(c.s3.get_object, "InvalidRange", 416, Bucket=bucket, Key="empty", Range="bytes=0-0")
    head = c.s3.head_object(Bucket=bucket, Key="r", Range="bytes=10-19")
    equal((head["ContentLength"], head["ETag"]), (10, answer["ETag"]), "head of a range")


@checks
def odd_keys_are_kept_apart_and_listed_as_they_are(c):
    bucket = c.bucket()
    for key in ODD_KEYS:
        c.s3.put_object(Bucket=bucket, Key=key, Body=key.encode(), Metadata={"n": "1"})
    for key in ODD_KEYS:
        equal(read(c.s3, bucket, key)[0], key.encode(), repr(key))
        equal(c.s3.head_object(Bucket=bucket, Key=key)["Metadata"], {"n": "1"}, repr(key))
    by_bytes = sorted(ODD_KEYS, key=str.encode)
    equal(keys_of(c.s3, bucket), by_bytes, "listing")
    equal(keys_of(c.s3, bucket, PaginationConfig={"PageSize": 3}), by_bytes, "by threes")
    for key in ODD_KEYS:
        found = keys_of(c.s3, bucket, Prefix=key)
        equal(found, [k for k in by_bytes if k.startswith(key)], f"prefix {key!r}")
    for key in ODD_KEYS[::2]:
        c.s3.delete_object(Bucket=bucket, Key=key)
    equal(keys_of(c.s3, bucket), sorted(ODD_KEYS[1::2], key=str.encode), "after deletes")
    for key in ODD_KEYS[1::2]:
        equal(read(c.s3, bucket, key)[0], key.encode(), repr(key))


@checks
def keys_that_cannot_be_are_refused(c):
    bucket = c.bucket()
    refused(c.s3.put_object, "KeyTooLongError", 400, Bucket=bucket, Key="x" * 1025, Body=b"")
    refused(c.s3.put_object, "KeyTooLongError", 400, Bucket=bucket, Key="é" * 513, Body=b"")
    for key in ["nul\x00", "\x00"]:
        refused(c.s3.put_object, ("InvalidArgument", "InvalidURI"), 400, Bucket=bucket, Key=key)
    equal(keys_of(c.s3, bucket), [])


@checks
def metadata_and_content_headers_are_kept(c):
    bucket = c.bucket()
    expires = datetime.datetime(2031, 2, 3, 4, 5, 6, tzinfo=datetime.timezone.utc)
    given = {
        "ContentType": "text/x-test; charset=utf-8",
        "ContentEncoding": "gzip",
        "ContentLanguage": "de-CH",
        "ContentDisposition": 'attachment; filename="a b.txt"',
        "CacheControl": "max-age=17, private",
        "Metadata": {"one": "1", "with-dash": "a value  with spaces", "x" * 60: "y" * 500},
    }
    c.s3.put_object(Bucket=bucket, Key="m", Body=b"abc", Expires=expires, **given)
    for call in (c.s3.head_object, c.s3.get_object):
        answer = call(Bucket=bucket, Key="m")
        found = {name: answer.get(name) for name in given}
        # Runs of spaces inside a header are one for a signature; either form may come back.
        found["Metadata"] = {k: " ".join(v.split()) for k, v in found["Metadata"].items()}
        wanted = dict(given)
        wanted["Metadata"] = {k: " ".join(v.split()) for k, v in given["Metadata"].items()}
        equal(found, wanted, call.__name__)
        equal(answer["ResponseMetadata"]["HTTPHeaders"]["expires"], "Mon, 03 Feb 2031 04:05:06 GMT")
        age = datetime.datetime.now(datetime.timezone.utc) - answer["LastModified"]
        equal(abs(age) < datetime.timedelta(minutes=1), True, f"age {age}")
    answer = c.s3.get_object(
        Bucket=bucket, Key="m", ResponseContentType="x/y", ResponseCacheControl="no-store"
    )
    equal((answer["ContentType"], answer["CacheControl"]), ("x/y", "no-store"), "response-…")
    # An overwrite replaces all of it.
    c.s3.put_object(Bucket=bucket, Key="m", Body=b"abcd")
    answer = c.s3.head_object(Bucket=bucket, Key="m")
    equal((answer["Metadata"], answer["ContentType"]), ({}, "binary/octet-stream"), "defaults")
    equal("CacheControl" in answer, False)
    # 2 KB is S3's own bound on user metadata.
    refused(
        c.s3.put_object, "MetadataTooLarge", 400, Bucket=bucket, Key="m", Metadata={"a": "b" * 2048}
    )
    equal(read(c.s3, bucket, "m")[0], b"abcd")


@checks
def overwrites_take_effect_at_once_whatever_the_sizes(c):
    bucket = c.bucket()
    for n, size in enumerate([10, 3 * MIB, 0, 40_000, 100, 33 * MIB, 1]):
        body = content(size, n)
        c.s3.put_object(Bucket=bucket, Key="k", Body=body)
        equal(read(c.s3, bucket, "k")[0] == body, True, f"bytes of {size}")
        listed = c.s3.list_objects_v2(Bucket=bucket)["Contents"]
        found = [(item["Key"], item["Size"], item["ETag"]) for item in listed]
        equal(found, [("k", size, f'"{hashlib.md5(body).hexdigest()}"')], "listing")


@checks
def deleted_is_gone_and_deleting_again_is_fine(c):
    bucket = c.bucket()
    for size in (10, MIB):
        c.s3.put_object(Bucket=bucket, Key="k", Body=content(size))
        for _ in range(2):
            answer = c.s3.delete_object(Bucket=bucket, Key="k")
            equal(answer["ResponseMetadata"]["HTTPStatusCode"], 204)
            refused(c.s3.get_object, "NoSuchKey", 404, Bucket=bucket, Key="k")
            refused(c.s3.head_object, "404", 404, Bucket=bucket, Key="k")
            equal(keys_of(c.s3, bucket), [])
    refused(c.s3.delete_object, "NoSuchBucket", 404, Bucket="no-such-bucket", Key="k")


@checks
def streaming_bodies(c):
    bucket = c.bucket()

    class Stream:
        """Cannot seek; hands out a few bytes at a time."""

        def __init__(self, body):
            self.inner = io.BytesIO(body)

        def read(self, size=-1):
            return self.inner.read(min(size, 70_001) if size > 0 else size)

    class SlowFile(io.BytesIO):
        def read(self, size=-1):
            return super().read(min(size, 70_001) if size > 0 else size)

    for size in (0, 5, 100_000, 7 * MIB):
        body = content(size)
        c.s3.upload_fileobj(Stream(body), bucket, f"stream-{size}")
        equal(read(c.s3, bucket, f"stream-{size}")[0] == body, True, f"upload_fileobj {size}")
        c.s3.put_object(Bucket=bucket, Key="file", Body=SlowFile(body))
        equal(read(c.s3, bucket, "file")[0] == body, True, f"file {size}")
        sink = io.BytesIO()
        c.s3.download_fileobj(bucket, f"stream-{size}", sink)
        equal(sink.getvalue() == body, True, f"download_fileobj {size}")
    # Above its threshold a download is ranges in parallel.
    body = content(50 * MIB)
    c.s3.put_object(Bucket=bucket, Key="large", Body=body)
    sink = io.BytesIO()
    c.s3.download_fileobj(bucket, "large", sink)
    equal(sink.getvalue() == body, True, "download_fileobj in ranges")
    # A reader that leaves in the middle hurts nobody.
    for _ in range(5):
        answer = c.s3.get_object(Bucket=bucket, Key="large")
        answer["Body"].read(100)
        answer["Body"].close()
    equal(read(c.s3, bucket, "large")[0] == body, True, "after readers left")


@checks
def checksums_of_the_request_are_held_against_the_body(c):
    bucket = c.bucket()
    for algorithm in ("CRC32", "SHA1", "SHA256"):
        body = content(100_000, algorithm)
        c.s3.put_object(Bucket=bucket, Key=algorithm, Body=body, ChecksumAlgorithm=algorithm)
        equal(read(c.s3, bucket, algorithm)[0] == body, True, algorithm)
    wrong = {
        "ContentMD5": "AAAAAAAAAAAAAAAAAAAAAA==",
        "ChecksumCRC32": "AAAAAA==",
        "ChecksumCRC32C": "AAAAAA==",
        "ChecksumSHA1": "AAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "ChecksumSHA256": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "ChecksumCRC64NVME": "AAAAAAAAAAA=",
    }
    for size in (100, 100_000):
        for name, value in wrong.items():
            refused(
                c.s3.put_object,
                ("BadDigest", "InvalidDigest", "InvalidRequest"),
                400,
                Bucket=bucket,
                Key="bad",
                Body=content(size),
                **{name: value},
            )
            refused(c.s3.get_object, "NoSuchKey", Bucket=bucket, Key="bad")


# ---- conditions -----------------------------------------------------------------------------------


@checks
def conditions_on_reads_are_met(c):
    bucket = c.bucket()
    etag = c.s3.put_object(Bucket=bucket, Key="k", Body=b"abc")["ETag"]
    modified = c.s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    hour = datetime.timedelta(hours=1)
    same = {"Bucket": bucket, "Key": "k"}
    for call in (c.s3.get_object, c.s3.head_object):
        refused(call, ("304", "NotModified"), 304, IfNoneMatch=etag, **same)
        refused(call, ("412", "PreconditionFailed"), 412, IfMatch='"other"', **same)
        refused(call, ("304", "NotModified"), 304, IfModifiedSince=modified + hour, **same)
        refused(
            call, ("412", "PreconditionFailed"), 412, IfUnmodifiedSince=modified - hour, **same
        )
        call(IfMatch=etag, **same)
        call(IfNoneMatch='"other"', **same)
        call(IfModifiedSince=modified - hour, **same)
        call(IfUnmodifiedSince=modified + hour, **same)


@checks
def demands_on_writes_that_are_not_met_are_refused(c):
    bucket = c.bucket()
    c.s3.put_object(Bucket=bucket, Key="k", Body=b"before")
    tomorrow = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)
    demands = [
        {"IfNoneMatch": "*"},
        {"IfMatch": '"other"'},
        {"Tagging": "a=b"},
        {"ServerSideEncryption": "AES256"},
        {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "k"},
        {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "k" * 32},
        {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": tomorrow},
        {"ObjectLockLegalHoldStatus": "ON"},
        {"WebsiteRedirectLocation": "/x"},
        {"StorageClass": "GLACIER"},
        {"ACL": "public-read"},
        {"GrantRead": 'id="x"'},
        {"WriteOffsetBytes": 6},
    ]
    for demand in demands:
        for key in ("k", "new"):
            try:
                c.s3.put_object(Bucket=bucket, Key=key, Body=b"after", **demand)
            except botocore.exceptions.ClientError as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                equal(status in (400, 404, 409, 412, 501), True, f"{demand}: {error}")
            else:
                # The only demand that a missing key meets.
                equal((key, list(demand)), ("new", ["IfNoneMatch"]), "accepted")
                c.s3.delete_object(Bucket=bucket, Key=key)
    equal(read(c.s3, bucket, "k")[0], b"before")
    equal(keys_of(c.s3, bucket), ["k"])


# ---- conditions and checksums -----------------------------------------------------------------------


@checks
def conditional_writes_and_deletes(c):
    bucket = c.bucket()
    place = {"Bucket": bucket, "Key": "k"}
    for size in (10, 100_000):
        first, second = content(size, 1), content(size, 2)
        etag = c.s3.put_object(Body=first, IfNoneMatch="*", **place)["ETag"]
        refused(c.s3.put_object, "PreconditionFailed", 412, Body=second, IfNoneMatch="*", **place)
        refused(c.s3.put_object, "PreconditionFailed", 412, Body=second, IfMatch='"x"', **place)
        refused(c.s3.put_object, "NotImplemented", 501, Body=second, IfNoneMatch=etag, **place)
        equal(read(c.s3, bucket, "k")[0] == first, True, "kept")
        newer = c.s3.put_object(Body=second, IfMatch=etag, **place)["ETag"]
        refused(c.s3.put_object, "PreconditionFailed", 412, Body=first, IfMatch=etag, **place)
        refused(c.s3.delete_object, "PreconditionFailed", 412, IfMatch=etag, **place)
        equal(read(c.s3, bucket, "k")[0] == second, True, "replaced")
        c.s3.delete_object(IfMatch=newer, **place)
        refused(c.s3.put_object, "NoSuchKey", 404, Body=first, IfMatch=newer, **place)
        refused(c.s3.delete_object, "NoSuchKey", 404, IfMatch=newer, **place)
        c.s3.delete_object(**place)
    equal(keys_of(c.s3, bucket), [])


@checks
def of_many_conditional_writers_one_wins(c):
    bucket = c.bucket()
    client = c.client()
    for size in (10, 100_000):
        place = {"Bucket": bucket, "Key": f"{size}", "IfNoneMatch": "*"}

        def put(number):
            try:
                client.put_object(Body=bytes([number]) * size, **place)
            except botocore.exceptions.ClientError as error:
                equal(error.response["Error"]["Code"], "PreconditionFailed")
                return None
            return number

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            won = [number for number in pool.map(put, range(16)) if number is not None]
        equal(len(won), 1, f"winners {won}")
        equal(read(client, bucket, f"{size}")[0], bytes(won) * size)


def crc(polynomial, bits, data):
    """A reflected CRC, bit by bit: for short data."""
    mask = (1 << bits) - 1
    value = mask
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (polynomial if value & 1 else 0)
    return (value ^ mask).to_bytes(bits // 8, "big")


SUMS = {
    "CRC32": lambda data: crc(0xEDB88320, 32, data),
    "CRC32C": lambda data: crc(0x82F63B78, 32, data),
    "CRC64NVME": lambda data: crc(0x9A6C9329AC4BC9B5, 64, data),
    "SHA1": lambda data: hashlib.sha1(data).digest(),
    "SHA256": lambda data: hashlib.sha256(data).digest(),
}


def checksum(algorithm, data):
    return base64.b64encode(SUMS[algorithm](data)).decode()


@checks
def checksums_are_verified_stored_and_returned(c):
    bucket = c.bucket()
    quiet = c.client(config={"request_checksum_calculation": "when_required"})
    for size in (0, 10, 40_000):
        body = content(size)
        for algorithm in SUMS:
            name, value = f"Checksum{algorithm}", checksum(algorithm, body)
            place = {"Bucket": bucket, "Key": f"{algorithm}-{size}"}
            equal(c.s3.put_object(Body=body, **{name: value}, **place)[name], value, "put")
            for call in (c.s3.head_object, c.s3.get_object):
                found = call(ChecksumMode="ENABLED", **place)
                equal((found[name], found["ChecksumType"]), (value, "FULL_OBJECT"), call.__name__)
                equal(name in quiet.head_object(**place), False, "unasked")
            attributes = c.s3.get_object_attributes(
                ObjectAttributes=["Checksum", "ETag", "ObjectSize", "StorageClass", "ObjectParts"],
                **place,
            )
            equal(attributes["Checksum"], {name: value, "ChecksumType": "FULL_OBJECT"})
            equal((attributes["ObjectSize"], attributes["StorageClass"]), (size, "STANDARD"))
            equal(attributes["ETag"], hashlib.md5(body).hexdigest())
            wrong = {name: checksum(algorithm, body + b"x")}
            refused(c.s3.put_object, "BadDigest", 400, Body=body, **wrong, **place)
        # Nothing given: one is found all the same.
        place = {"Bucket": bucket, "Key": f"none-{size}"}
        quiet.put_object(Body=body, **place)
        found = c.s3.head_object(ChecksumMode="ENABLED", **place)
        equal(found["ChecksumCRC64NVME"], checksum("CRC64NVME", body), "by default")


# ---- uploads in parts -------------------------------------------------------------------------------


def complete(client, place, parts, **more):
    """`parts`: number -> the answer to its upload."""
    named = [
        {"PartNumber": number} | {k: v for k, v in parts[number].items() if k in NAMED}
        for number in sorted(parts)
    ]
    return client.complete_multipart_upload(MultipartUpload={"Parts": named}, **place, **more)


NAMED = {"ETag"} | {f"Checksum{algorithm}" for algorithm in SUMS}


@checks
def parts_out_of_order_become_an_object(c):
    bucket = c.bucket()
    place = {"Bucket": bucket, "Key": "dir/a b+ü"}
    begun = c.s3.create_multipart_upload(
        ContentType="text/x", Metadata={"n": "1"}, CacheControl="no-store", **place
    )
    upload = place | {"UploadId": begun["UploadId"]}
    bodies = {1: content(5 * MIB, 1), 2: content(5 * MIB + 1, 2), 7: content(6 * MIB, 7), 10_000: b"end"}
    c.s3.upload_part(PartNumber=2, Body=b"an earlier try", **upload)
    parts = {
        number: c.s3.upload_part(PartNumber=number, Body=bodies[number], **upload)
        for number in (10_000, 2, 7, 1)
    }
    refused(c.s3.head_object, "404", **place)
    equal(keys_of(c.s3, bucket), [])
    pages = c.s3.get_paginator("list_parts").paginate(PaginationConfig={"PageSize": 3}, **upload)
    listed = {p["PartNumber"]: (p["Size"], p["ETag"]) for page in pages for p in page["Parts"]}
    wanted = {n: (len(b), f'"{hashlib.md5(b).hexdigest()}"') for n, b in bodies.items()}
    equal(listed, wanted, "listed parts")
    answer = complete(c.s3, upload, parts)
    tags = b"".join(hashlib.md5(bodies[number]).digest() for number in sorted(bodies))
    etag = f'"{hashlib.md5(tags).hexdigest()}-4"'
    equal(answer["ETag"], etag)
    equal((answer["Bucket"], answer["Key"]), (bucket, place["Key"]))
    # Whoever did not hear the answer asks again.
    equal(complete(c.s3, upload, parts)["ETag"], etag, "again")
    whole = b"".join(bodies[number] for number in sorted(bodies))
    found, answer = read(c.s3, bucket, place["Key"])
    equal(found == whole, True, "bytes")
    equal((answer["ContentType"], answer["Metadata"]), ("text/x", {"n": "1"}))
    equal((answer["ETag"], answer["CacheControl"]), (etag, "no-store"))
    start = 0
    for number in sorted(bodies):
        body = bodies[number]
        found, answer = read(c.s3, bucket, place["Key"], PartNumber=number)
        equal(found == body, True, f"part {number}")
        equal(answer["PartsCount"], 4)
        end = start + len(body) - 1
        equal(answer["ContentRange"], f"bytes {start}-{end}/{len(whole)}")
        head = c.s3.head_object(PartNumber=number, **place)
        equal((head["ContentLength"], head["PartsCount"]), (len(body), 4))
        start = end + 1
    for number in (3, 9999):
        refused(c.s3.get_object, "InvalidPartNumber", 416, PartNumber=number, **place)
    for first, last in [(5 * MIB - 1, 5 * MIB), (0, 11 * MIB), (len(whole) - 4, len(whole) - 1)]:
        found, _ = read(c.s3, bucket, place["Key"], Range=f"bytes={first}-{last}")
        equal(found == whole[first : last + 1], True, f"{first}-{last}")
    attributes = c.s3.get_object_attributes(
        ObjectAttributes=["ObjectParts", "ETag"], MaxParts=2, PartNumberMarker=1, **place
    )
    equal(attributes["ETag"], etag.strip('"'))
    equal(attributes["ObjectParts"]["TotalPartsCount"], 4)
    equal([p["PartNumber"] for p in attributes["ObjectParts"]["Parts"]], [2, 7])
    listed = c.s3.list_objects_v2(Bucket=bucket)["Contents"]
    equal([(o["ETag"], o["Size"]) for o in listed], [(etag, len(whole))])
    # Every part came with a CRC32, although nobody spoke of it in the beginning.
    head = c.s3.head_object(ChecksumMode="ENABLED", **place)
    wanted = base64.b64encode(zlib.crc32(whole).to_bytes(4, "big")).decode()
    equal((head["ChecksumCRC32"], head["ChecksumType"]), (wanted, "FULL_OBJECT"))


@checks
def uploads_have_every_checksum_that_aws_has(c):
    bucket = c.bucket()
    bodies = {1: bytes(5 * MIB), 2: b"the end"}
    # Of five million zeros, bit by bit is too slow; what SDKs compute themselves is enough.
    for algorithm, kind in [
        ("CRC32", "COMPOSITE"), ("CRC32", "FULL_OBJECT"), ("SHA1", "COMPOSITE"), ("SHA256", "COMPOSITE"),
    ]:  # fmt: skip
        place = {"Bucket": bucket, "Key": f"{algorithm}-{kind}"}
        begun = c.s3.create_multipart_upload(
            ChecksumAlgorithm=algorithm, ChecksumType=kind, **place
        )
        equal((begun["ChecksumAlgorithm"], begun["ChecksumType"]), (algorithm, kind))
        upload = place | {"UploadId": begun["UploadId"]}
        name = f"Checksum{algorithm}"
        parts = {
            number: c.s3.upload_part(PartNumber=number, Body=body, ChecksumAlgorithm=algorithm, **upload)
            for number, body in bodies.items()
        }
        if kind == "COMPOSITE":
            sums = b"".join(base64.b64decode(parts[number][name]) for number in (1, 2))
            wanted = f"{checksum(algorithm, sums)}-2"
        else:
            wanted = base64.b64encode(
                zlib.crc32(b"".join(bodies.values())).to_bytes(4, "big")
            ).decode()
        lied = {name: checksum(algorithm, b"x")}
        refused(complete, "BadDigest", 400, client=c.s3, place=upload, parts=parts, **lied)
        size = sum(map(len, bodies.values()))
        refused(
            complete, "InvalidRequest", 400, client=c.s3, place=upload, parts=parts,
            MpuObjectSize=size + 1,
        )  # fmt: skip
        answer = complete(
            c.s3, upload, parts, ChecksumType=kind, MpuObjectSize=size, **{name: wanted}
        )
        equal((answer[name], answer["ChecksumType"]), (wanted, kind), "completed")
        head = c.s3.head_object(ChecksumMode="ENABLED", **place)
        equal((head[name], head["ChecksumType"]), (wanted, kind), "head")
        # The SDK compares what it can.
        equal(read(c.s3, bucket, place["Key"], ChecksumMode="ENABLED")[0], b"".join(bodies.values()))
        part = c.s3.get_object(PartNumber=2, ChecksumMode="ENABLED", **place)
        equal(part["Body"].read(), bodies[2])
        equal(part[name], checksum(algorithm, bodies[2]), "of a part")
    for algorithm, kind in [("SHA256", "FULL_OBJECT"), ("CRC64NVME", "COMPOSITE")]:
        refused(
            c.s3.create_multipart_upload, "InvalidRequest", 400, Bucket=bucket, Key="k",
            ChecksumAlgorithm=algorithm, ChecksumType=kind,
        )  # fmt: skip


@checks
def wrong_uploads_are_refused(c):
    bucket, other = c.bucket(), c.bucket()
    place = {"Bucket": bucket, "Key": "k"}
    upload = place | {"UploadId": c.s3.create_multipart_upload(**place)["UploadId"]}
    large = c.s3.upload_part(PartNumber=1, Body=content(5 * MIB), **upload)
    small = c.s3.upload_part(PartNumber=2, Body=b"small", **upload)
    last = c.s3.upload_part(PartNumber=3, Body=b"last", **upload)

    def named(*parts):
        parts = [{"PartNumber": n} | {k: v for k, v in p.items() if k in NAMED} for n, p in parts]
        return {"MultipartUpload": {"Parts": parts}}

    finish = c.s3.complete_multipart_upload
    good = named((1, large), (3, last))
    for code, arguments in [
        ("EntityTooSmall", upload | named((1, large), (2, small), (3, last))),
        ("InvalidPartOrder", upload | named((3, last), (1, large))),
        ("InvalidPartOrder", upload | named((1, large), (1, large))),
        ("InvalidPart", upload | named((1, last))),
        ("InvalidPart", upload | named((4, last))),
        ("MalformedXML", upload | named()),
        ("NoSuchUpload", upload | good | {"Key": "other"}),
        ("NoSuchUpload", upload | good | {"Bucket": other}),
        ("NoSuchUpload", upload | good | {"UploadId": "0" * 32}),
        ("NoSuchUpload", upload | good | {"UploadId": "x"}),
        ("NoSuchKey", upload | good | {"IfMatch": "*"}),
    ]:
        refused(finish, code, **arguments)
    for code, arguments in [
        ("InvalidArgument", upload | {"PartNumber": 0}),
        ("InvalidArgument", upload | {"PartNumber": 10_001}),
        ("NoSuchUpload", upload | {"PartNumber": 1, "Key": "other"}),
        ("NoSuchUpload", upload | {"PartNumber": 1, "Bucket": other}),
    ]:
        refused(c.s3.upload_part, code, Body=b"x", **arguments)
    c.s3.put_object(Body=b"before", **place)
    refused(finish, "PreconditionFailed", 412, IfNoneMatch="*", **upload, **good)
    equal(read(c.s3, bucket, "k")[0], b"before")
    c.s3.abort_multipart_upload(**upload)
    refused(c.s3.abort_multipart_upload, "NoSuchUpload", 404, **upload)
    refused(c.s3.list_parts, "NoSuchUpload", 404, **upload)
    refused(c.s3.upload_part, "NoSuchUpload", 404, PartNumber=1, Body=b"x", **upload)
    refused(finish, "NoSuchUpload", 404, **upload, **good)
    equal(read(c.s3, bucket, "k")[0], b"before")


@checks
def managed_transfers_go_in_parts(c):
    from boto3.s3.transfer import TransferConfig

    bucket = c.bucket()
    config = TransferConfig(multipart_threshold=8 * MIB, multipart_chunksize=8 * MIB)
    for size in (8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 50 * MIB):
        body = content(size)
        key = f"managed-{size}"
        c.s3.upload_fileobj(io.BytesIO(body), bucket, key, Config=config)
        out = io.BytesIO()
        c.s3.download_fileobj(bucket, key, out, Config=config)
        equal(out.getvalue() == body, True, f"bytes of {size}")
        # The same within the store: copied in parts.
        source = {"Bucket": bucket, "Key": key}
        c.s3.copy(source, bucket, f"{key}-copy", Config=config)
        equal(read(c.s3, bucket, f"{key}-copy")[0] == body, True, f"copy of {size}")


# ---- copies -----------------------------------------------------------------------------------------


@checks
def objects_are_copied(c):
    bucket, other = c.bucket(), c.bucket()
    for size in (0, 10, 40_000, 3 * MIB):
        for key in ("plain", "a b+c/ü%2F?x", " odd", "a//b/../c"):
            body = content(size, key)
            place = {"Bucket": bucket, "Key": key}
            c.s3.put_object(Body=body, ContentType="text/x", Metadata={"n": "1"}, **place)
            for source in (place, f"{bucket}/{key}", place | {"VersionId": "null"}):
                target = {"Bucket": other, "Key": f"copy of {key}"}
                answer = c.s3.copy_object(CopySource=source, **target)["CopyObjectResult"]
                equal(answer["ETag"], f'"{hashlib.md5(body).hexdigest()}"')
                found, head = read(c.s3, other, target["Key"])
                equal(found == body, True, f"{size} bytes of {key}")
                equal((head["ContentType"], head["Metadata"]), ("text/x", {"n": "1"}))
            c.s3.copy_object(
                CopySource=place, MetadataDirective="REPLACE", Metadata={"m": "2"},
                ChecksumAlgorithm="SHA256", StorageClass="REDUCED_REDUNDANCY", **target,
            )  # fmt: skip
            head = c.s3.head_object(ChecksumMode="ENABLED", **target)
            equal((head["ContentType"], head["Metadata"]), ("binary/octet-stream", {"m": "2"}))
            equal(head["ChecksumSHA256"], checksum("SHA256", body))
            equal(head["StorageClass"], "REDUCED_REDUNDANCY")
    place = {"Bucket": bucket, "Key": "plain"}
    etag = c.s3.head_object(**place)["ETag"]
    target = {"Bucket": other, "Key": "target"}
    copy = c.s3.copy_object
    c.s3.put_object(Body=b"before", **target)
    hour = datetime.timedelta(hours=1)
    now = datetime.datetime.now(datetime.timezone.utc)
    for code, arguments in [
        ("InvalidRequest", place | {"CopySource": place}),
        ("NoSuchKey", target | {"CopySource": place | {"Key": "no"}}),
        ("NoSuchBucket", target | {"CopySource": place | {"Bucket": "no-such-bucket"}}),
        ("NoSuchVersion", target | {"CopySource": place | {"VersionId": "x"}}),
        ("PreconditionFailed", target | {"CopySource": place, "CopySourceIfMatch": '"x"'}),
        ("PreconditionFailed", target | {"CopySource": place, "CopySourceIfNoneMatch": etag}),
        ("PreconditionFailed", target | {"CopySource": place, "CopySourceIfModifiedSince": now + hour}),
        ("PreconditionFailed", target | {"CopySource": place, "CopySourceIfUnmodifiedSince": now - hour}),
        ("PreconditionFailed", target | {"CopySource": place, "IfNoneMatch": "*"}),
        ("NotImplemented", target | {"CopySource": place, "Tagging": "a=b"}),
        ("AccessDenied", target | {"CopySource": place, "ExpectedSourceBucketOwner": "x"}),
    ]:
        refused(copy, code, **arguments)
    equal(read(c.s3, other, "target")[0], b"before")
    copy(CopySource=place, MetadataDirective="REPLACE", Metadata={"new": "1"}, **place)
    equal(c.s3.head_object(**place)["Metadata"], {"new": "1"})


@checks
def parts_are_copied(c):
    bucket = c.bucket()
    source = {"Bucket": bucket, "Key": "source"}
    body = content(12 * MIB)
    c.s3.put_object(Body=body, **source)
    place = {"Bucket": bucket, "Key": "target"}
    upload = place | {"UploadId": c.s3.create_multipart_upload(**place)["UploadId"]}
    copy = c.s3.upload_part_copy
    parts = {}
    for number, (first, last) in enumerate([(0, 5 * MIB - 1), (7 * MIB + 13, 12 * MIB + 12 - 13)], 1):
        last = min(last, len(body) - 1)
        answer = copy(
            CopySource=source, CopySourceRange=f"bytes={first}-{last}", PartNumber=number, **upload
        )["CopyPartResult"]
        equal(answer["ETag"], f'"{hashlib.md5(body[first : last + 1]).hexdigest()}"')
        parts[number] = answer
    for wrong in ("bytes=0-", "bytes=-5", f"bytes=0-{len(body)}", "bytes=5-4", "0-1"):
        refused(
            copy, "InvalidArgument", 400, CopySource=source, CopySourceRange=wrong, PartNumber=3, **upload
        )
    parts[2] = copy(CopySource=source, PartNumber=2, **upload)["CopyPartResult"]
    complete(c.s3, upload, parts)
    equal(read(c.s3, bucket, "target")[0] == body[: 5 * MIB] + body, True, "bytes")


# ---- listings -------------------------------------------------------------------------------------


def model_page(keys, prefix, delimiter, after):
    """Entries a listing must have, in order: ("key", k) or ("prefix", p)."""
    entries = []
    for key in keys:
        if not key.startswith(prefix):
            continue
        entry = ("key", key)
        if delimiter:
            end = key.find(delimiter, len(prefix))
            if end >= 0:
                entry = ("prefix", key[: end + len(delimiter)])
        if entry[1].encode() > after.encode() and (not entries or entries[-1] != entry):
            entries.append(entry)
    return entries


@checks
def listings_agree_with_a_model(c):
    bucket = c.bucket()
    draw = random.Random(7)
    keys = set()
    while len(keys) < 300:
        parts = [draw.choice(["a", "b", "ab", "x-", "ü", "0"]) for _ in range(draw.randint(1, 5))]
        keys.add(draw.choice(["/", "", "//", "-"]).join(parts))
    keys |= {f"deep/{i:03}/{j}" for i in range(40) for j in range(3)}
    keys = sorted(keys, key=str.encode)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: c.s3.put_object(Bucket=bucket, Key=key, Body=b"1"), keys))
    compared = 0
    for prefix in ["", "a", "a/", "deep/", "deep/0", "deep/000/", "zzz", "ü", "deep"]:
        for delimiter in [None, "/", "//", "-", "ab"]:
            for after in ["", "a/", "deep/010/", "deep/0101", "b", "zzzz"]:
                wanted = model_page(keys, prefix, delimiter, after)
                for page_size in draw.sample([1, 2, 3, 7, 100, 1000], 2):
                    if page_size == 1 and len(wanted) > 60:
                        page_size = 50
                    more = {"Delimiter": delimiter} if delimiter else {}
                    if after:
                        more["StartAfter"] = after
                    pages = c.s3.get_paginator("list_objects_v2").paginate(
                        Bucket=bucket,
                        Prefix=prefix,
                        PaginationConfig={"PageSize": page_size},
                        **more,
                    )
                    found = []
                    pages = list(pages)
                    for index, page in enumerate(pages):
                        entries = [("key", i["Key"]) for i in page.get("Contents", [])]
                        entries += [("prefix", i["Prefix"]) for i in page.get("CommonPrefixes", [])]
                        equal(page["KeyCount"], len(entries), "KeyCount")
                        if index + 1 < len(pages):
                            equal(len(entries), page_size, "a page that is not the last is full")
                        found += sorted(entries, key=lambda entry: entry[1].encode())
                    equal(found, wanted, f"{prefix!r} {delimiter!r} {after!r} {page_size}")
                    compared += 1
    equal(compared, 9 * 5 * 6 * 2)


@checks
def pages_hold_a_thousand_and_tokens_go_on(c):
    bucket = c.bucket()
    keys = [f"{n:05}" for n in range(2500)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: c.s3.put_object(Bucket=bucket, Key=key, Body=b""), keys))
    page = c.s3.list_objects_v2(Bucket=bucket)
    equal((page["KeyCount"], page["MaxKeys"], page["IsTruncated"]), (1000, 1000, True))
    equal(page["Contents"][-1]["Key"], "00999")
    page = c.s3.list_objects_v2(Bucket=bucket, MaxKeys=5000)
    equal((page["KeyCount"], page["IsTruncated"]), (1000, True))
    page = c.s3.list_objects_v2(Bucket=bucket, MaxKeys=0)
    equal((page["KeyCount"], page["IsTruncated"], "Contents" in page), (0, False, False))
    equal(keys_of(c.s3, bucket), keys)
    # A token stays good while the bucket changes, and start-after then has no say.
    page = c.s3.list_objects_v2(Bucket=bucket, MaxKeys=10)
    token = page["NextContinuationToken"]
    for key in ("00009", "00010"):
        c.s3.delete_object(Bucket=bucket, Key=key)
    c.s3.put_object(Bucket=bucket, Key="000095", Body=b"")
    page = c.s3.list_objects_v2(
        Bucket=bucket, MaxKeys=3, ContinuationToken=token, StartAfter="02000"
    )
    equal([item["Key"] for item in page["Contents"]], ["000095", "00011", "00012"])
    owned = c.s3.list_objects_v2(Bucket=bucket, MaxKeys=1, FetchOwner=True)
    equal(owned["Contents"][0]["Owner"]["ID"] != "", True)
    equal("Owner" in page["Contents"][0], False)
    refused(
        c.s3.list_objects_v2, "InvalidArgument", 400, Bucket=bucket, ContinuationToken="forged"
    )
    refused(c.s3.list_objects_v2, "InvalidArgument", 400, Bucket=bucket, MaxKeys=-1)


# ---- who may --------------------------------------------------------------------------------------


@checks
def only_the_right_signature_gets_in(c):
    bucket = c.bucket()
    c.s3.put_object(Bucket=bucket, Key="k", Body=b"mine")
    strangers = [
        (c.client(aws_secret_access_key="wrong" * 8), "SignatureDoesNotMatch"),
        (c.client(aws_access_key_id="NOSUCHKEY"), "InvalidAccessKeyId"),
        (c.client(config={"signature_version": botocore.UNSIGNED}), "AccessDenied"),
    ]
    for stranger, code in strangers:
        for call, arguments in [
            (stranger.get_object, {"Bucket": bucket, "Key": "k"}),
            (stranger.put_object, {"Bucket": bucket, "Key": "k", "Body": b"theirs"}),
            (stranger.delete_object, {"Bucket": bucket, "Key": "k"}),
            (stranger.list_objects_v2, {"Bucket": bucket}),
            (stranger.list_buckets, {}),
            (stranger.create_bucket, {"Bucket": "theirs"}),
        ]:
            refused(call, code, **arguments)
    equal(read(c.s3, bucket, "k")[0], b"mine")


@checks
def presigned_addresses_work_without_credentials_and_not_for_more(c):
    import urllib.error
    import urllib.request

    bucket = c.bucket()
    signed = c.client(config={"signature_version": "s3v4"})
    key = "pre signed/ü"
    place = {"Bucket": bucket, "Key": key}
    url = signed.generate_presigned_url("put_object", Params=place, ExpiresIn=60)
    body = content(50_000)
    request = urllib.request.Request(url, data=body, method="PUT", headers={"Content-Type": ""})
    equal(urllib.request.urlopen(request).status, 200)
    url = signed.generate_presigned_url("get_object", Params=place, ExpiresIn=60)
    equal(urllib.request.urlopen(url).read() == body, True, "presigned get")
    for wrong in (url.replace("pre%20signed", "other"), url[:-1] + ("0" if url[-1] != "0" else "1")):
        try:
            urllib.request.urlopen(wrong)
        except urllib.error.HTTPError as error:
            equal(error.code, 403)
        else:
            raise AssertionError(f"not refused: {wrong}")


@checks
def every_listing_has_every_odd_key(c):
    bucket = c.bucket()
    for key in ODD_KEYS:
        c.s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    by_bytes = sorted(ODD_KEYS, key=str.encode)
    kinds = [("list_objects", "Contents"), ("list_objects_v2", "Contents"), ("list_object_versions", "Versions")]
    for operation, element in kinds:
        for size in (1, 3, len(ODD_KEYS) - 1, len(ODD_KEYS), 1000):
            for delimiter in (None, "/"):
                more = {"Delimiter": delimiter} if delimiter else {}
                pages = c.s3.get_paginator(operation).paginate(
                    Bucket=bucket, PaginationConfig={"PageSize": size}, **more
                )
                found, prefixes = [], []
                for page in pages:
                    found += [item["Key"] for item in page.get(element, [])]
                    prefixes += [item["Prefix"] for item in page.get("CommonPrefixes", [])]
                wanted = [key for key in by_bytes if not delimiter or delimiter not in key]
                equal(found, wanted, f"{operation} by {size} {delimiter}")
                folded = {key[: key.index("/") + 1] for key in by_bytes if delimiter and "/" in key}
                equal(prefixes, sorted(folded, key=str.encode), f"{operation} by {size} {delimiter}")
    versions = c.s3.list_object_versions(Bucket=bucket, Prefix="plain")["Versions"]
    equal([(v["VersionId"], v["IsLatest"], v["Size"]) for v in versions], [("null", True, 5)])
    owners = {v["Owner"]["ID"] for v in versions}
    equal(owners, {c.s3.list_buckets()["Owner"]["ID"]}, "owner")
    equal(c.s3.list_multipart_uploads(Bucket=bucket).get("Uploads"), None, "uploads")


@checks
def objects_are_deleted_together(c):
    bucket = c.bucket()
    keys = [f"{n:04}" for n in range(1001)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: c.s3.put_object(Bucket=bucket, Key=key, Body=b""), keys))
    named = [{"Key": key} for key in keys]
    refused(c.s3.delete_objects, "MalformedXML", 400, Bucket=bucket, Delete={"Objects": named})
    equal(len(keys_of(c.s3, bucket)), 1001, "keys")
    done = c.s3.delete_objects(Bucket=bucket, Delete={"Objects": named[:1000]})
    equal(sorted(item["Key"] for item in done["Deleted"]), keys[:1000], "deleted")
    equal("Errors" in done, False, "errors")
    equal(keys_of(c.s3, bucket), keys[1000:])

    for key in ODD_KEYS:
        c.s3.put_object(Bucket=bucket, Key=key, Body=b"")
    odd = [{"Key": key} for key in ODD_KEYS]
    done = c.s3.delete_objects(Bucket=bucket, Delete={"Objects": odd, "Quiet": True})
    equal((done.get("Deleted"), done.get("Errors")), (None, None), "quiet")
    equal(keys_of(c.s3, bucket), keys[1000:])

    etag = c.s3.put_object(Bucket=bucket, Key="k", Body=b"abc")["ETag"]
    c.s3.put_object(Bucket=bucket, Key="other", Body=b"abc")
    wanted = [
        {"Key": "k", "ETag": etag, "VersionId": "null"},
        {"Key": "other", "ETag": '"00000000000000000000000000000000"'},
        {"Key": "other", "VersionId": "L4kqtJlcpXroDTDmpUMLUo"},
        {"Key": "absent"},
    ]
    done = c.s3.delete_objects(Bucket=bucket, Delete={"Objects": wanted})
    deleted = sorted((item["Key"], item.get("VersionId")) for item in done["Deleted"])
    equal(deleted, [("absent", None), ("k", "null")], "deleted")
    errors = sorted((item["Key"], item["Code"]) for item in done["Errors"])
    equal(errors, [("other", "NoSuchVersion"), ("other", "PreconditionFailed")], "errors")
    equal(keys_of(c.s3, bucket), ["1000", "other"])
    refused(
        c.s3.delete_objects, "NoSuchBucket", Bucket="no-such-bucket", Delete={"Objects": wanted}
    )
    # The way in which boto3's resources empty a bucket.
    resource = boto3.resource(
        "s3",
        endpoint_url=c.endpoint,
        aws_access_key_id=c.access_key,
        aws_secret_access_key=c.secret_key,
        region_name="us-east-1",
    )
    resource.Bucket(bucket).object_versions.all().delete()
    equal(keys_of(c.s3, bucket), [])
    c.s3.delete_bucket(Bucket=bucket)


@checks
def configuration_that_was_never_set_reads_as_on_aws(c):
    s3, bucket = c.s3, c.bucket()
    s3.put_object(Bucket=bucket, Key="k", Body=b"abc")
    owner = s3.list_buckets()["Owner"]["ID"]
    place = {"Bucket": bucket}
    item = place | {"Key": "k"}

    def said(answer):
        return {name: value for name, value in answer.items() if name != "ResponseMetadata"}

    for call in (s3.get_bucket_versioning, s3.get_bucket_accelerate_configuration, s3.get_bucket_logging,
                 s3.get_bucket_notification_configuration):  # fmt: skip
        equal(said(call(**place)), {}, call.__name__)
    for call in (s3.list_bucket_analytics_configurations, s3.list_bucket_inventory_configurations,
                 s3.list_bucket_metrics_configurations,
                 s3.list_bucket_intelligent_tiering_configurations):  # fmt: skip
        equal(said(call(**place)), {"IsTruncated": False}, call.__name__)
    equal(s3.get_bucket_request_payment(**place)["Payer"], "BucketOwner")
    rules = s3.get_bucket_ownership_controls(**place)["OwnershipControls"]["Rules"]
    equal(rules, [{"ObjectOwnership": "BucketOwnerEnforced"}])
    equal(s3.get_object_tagging(**item)["TagSet"], [])
    for answer in (s3.get_bucket_acl(**place), s3.get_object_acl(**item)):
        equal(answer["Owner"]["ID"], owner)
        grants = [(g["Grantee"]["Type"], g["Grantee"]["ID"], g["Permission"]) for g in answer["Grants"]]
        equal(grants, [("CanonicalUser", owner, "FULL_CONTROL")])
    for call, code in [
        (s3.get_bucket_policy, "NoSuchBucketPolicy"),
        (s3.get_bucket_policy_status, "NoSuchBucketPolicy"),
        (s3.get_bucket_lifecycle_configuration, "NoSuchLifecycleConfiguration"),
        (s3.get_bucket_cors, "NoSuchCORSConfiguration"),
        (s3.get_bucket_tagging, "NoSuchTagSet"),
        (s3.get_bucket_website, "NoSuchWebsiteConfiguration"),
        (s3.get_bucket_encryption, "ServerSideEncryptionConfigurationNotFoundError"),
        (s3.get_bucket_replication, "ReplicationConfigurationNotFoundError"),
        (s3.get_object_lock_configuration, "ObjectLockConfigurationNotFoundError"),
        (s3.get_public_access_block, "NoSuchPublicAccessBlockConfiguration"),
    ]:
        refused(call, code, 404, **place)
        refused(call, "NoSuchBucket", 404, Bucket="no-such-bucket")
    for call in (s3.get_object_retention, s3.get_object_legal_hold):
        refused(call, "InvalidRequest", 400, **item)
        refused(call, "NoSuchKey", 404, Bucket=bucket, Key="absent")
    for call in (s3.delete_bucket_policy, s3.delete_bucket_cors, s3.delete_bucket_tagging,
                 s3.delete_bucket_lifecycle, s3.delete_bucket_encryption, s3.delete_bucket_website,
                 s3.delete_bucket_replication, s3.delete_public_access_block):  # fmt: skip
        equal(call(**place)["ResponseMetadata"]["HTTPStatusCode"], 204, call.__name__)
    s3.delete_object_tagging(**item)
    s3.put_bucket_acl(ACL="private", **place)
    s3.put_object_acl(ACL="private", **item)
    refused(s3.put_bucket_acl, "NotImplemented", 501, ACL="public-read", **place)
    refused(s3.put_object_acl, "NotImplemented", 501, ACL="public-read", **item)
    refused(
        s3.put_bucket_versioning,
        "NotImplemented",
        501,
        VersioningConfiguration={"Status": "Suspended"},
        **place,
    )
    equal(read(s3, bucket, "k")[0], b"abc")


@checks
def users_have_their_own_buckets(c):
    mine, other = c.bucket(), c.client(**c.other)
    c.s3.put_object(Bucket=mine, Key="k", Body=b"mine")
    theirs = f"{mine}-theirs"
    other.create_bucket(Bucket=theirs)
    equal([b["Name"] for b in other.list_buckets()["Buckets"]], [theirs])
    refused(other.create_bucket, "BucketAlreadyExists", 409, Bucket=mine)
    for call, arguments in [
        (other.get_object, {"Key": "k"}),
        (other.get_object, {"Key": "absent"}),
        (other.put_object, {"Key": "k", "Body": b"theirs"}),
        (other.delete_object, {"Key": "k"}),
        (other.delete_objects, {"Delete": {"Objects": [{"Key": "k"}]}}),
        (other.list_objects, {}),
        (other.list_objects_v2, {}),
        (other.list_object_versions, {}),
        (other.list_multipart_uploads, {}),
        (other.get_bucket_acl, {}),
        (other.get_bucket_location, {}),
        (other.get_object_acl, {"Key": "k"}),
        (other.delete_bucket, {}),
    ]:
        refused(call, "AccessDenied", 403, Bucket=mine, **arguments)
    response = refused(other.head_bucket, "403", 403, Bucket=mine)
    equal(response["ResponseMetadata"]["HTTPHeaders"]["x-amz-bucket-region"], "us-east-1")
    refused(other.get_object, "NoSuchBucket", 404, Bucket="no-such-bucket", Key="k")
    equal(read(c.s3, mine, "k")[0], b"mine")
    # Root passes, and sees whose it is.
    equal(c.s3.get_bucket_acl(Bucket=theirs)["Owner"], {"ID": "other-id", "DisplayName": "other"})
    owner = {"ExpectedBucketOwner": "other-id"}
    c.s3.list_objects_v2(Bucket=theirs, **owner)
    refused(c.s3.list_objects_v2, "AccessDenied", 403, Bucket=mine, **owner)
    refused(c.s3.delete_bucket, "AccessDenied", 403, Bucket=mine, **owner)
    other.delete_bucket(Bucket=theirs)


@checks
def a_region_that_is_wrong_is_corrected(c):
    bucket = c.bucket()
    c.s3.put_object(Bucket=bucket, Key="k", Body=b"abc")
    # boto3 reads the right region out of the refusal, and signs again.
    elsewhere = c.client(region_name="eu-west-1")
    equal(read(elsewhere, bucket, "k")[0], b"abc")


@checks
def buckets_have_hosts_of_their_own(c):
    bucket = c.bucket()
    scheme, _, port = c.endpoint.split(":")
    real = socket.getaddrinfo

    def resolve(host, *more, **named):
        return real("127.0.0.1" if str(host).endswith("s3.test") else host, *more, **named)

    socket.getaddrinfo = resolve
    try:
        hosted = c.client(
            endpoint_url=f"{scheme}://s3.test:{port}", config={"s3": {"addressing_style": "virtual"}}
        )
        seen = []
        hosted.meta.events.register("before-send.s3", lambda request, **_: seen.append(request.url))
        for key in ODD_KEYS:
            hosted.put_object(Bucket=bucket, Key=key, Body=key.encode())
        equal(seen[0].startswith(f"{scheme}://{bucket}.s3.test:{port}/"), True, seen[0])
        for key in ODD_KEYS:
            equal(read(c.s3, bucket, key)[0], key.encode(), repr(key))
        equal(keys_of(hosted, bucket), sorted(ODD_KEYS, key=str.encode))
        hosted.create_bucket(Bucket=f"{bucket}.dots")
        c.s3.head_bucket(Bucket=f"{bucket}.dots")
    finally:
        socket.getaddrinfo = real


# ---- the Common Runtime ---------------------------------------------------------------------------


@checks
def the_common_runtime_transfers(c):
    """What boto3 and awscli use where the CRT is installed; made by hand, since boto3 itself takes
    neither an endpoint nor an authority for it."""
    bucket = c.bucket()
    session = botocore.session.Session()
    keys = botocore.credentials.Credentials(c.access_key, c.secret_key)
    client = s3transfer.crt.create_s3_crt_client(
        region="us-east-1",
        crt_credentials_provider=s3transfer.crt.BotocoreCRTCredentialsWrapper(
            keys
        ).to_crt_credentials_provider(),
        num_threads=2,
        target_throughput=100_000_000,
        part_size=5 * MIB,
        use_ssl=c.endpoint.startswith("https"),
        verify=os.environ.get("AWS_CA_BUNDLE"),
    )
    serializer = s3transfer.crt.BotocoreCRTRequestSerializer(
        session, {"region_name": "us-east-1", "endpoint_url": c.endpoint}
    )
    with s3transfer.crt.CRTTransferManager(client, serializer) as manager:
        for size in (0, 1, 100 * KIB, 5 * MIB, 31 * MIB + 7):
            body, key = content(size), f"crt/ü +%/{size}"
            headers = {"ContentType": "text/x-test", "Metadata": {"n": "1"}}
            manager.upload(io.BytesIO(body), bucket, key, extra_args=headers).result()
            head = c.s3.head_object(Bucket=bucket, Key=key)
            equal((head["ContentLength"], head["Metadata"]), (size, {"n": "1"}), f"{size}")
            in_parts = size > 5 * MIB
            equal(head["ETag"].endswith('-7"'), in_parts, head["ETag"])
            equal(read(c.s3, bucket, key)[0] == body, True, f"{size}")
            # Large ones come in ranges.
            down = io.BytesIO()
            manager.download(bucket, key, down).result()
            equal(down.getvalue() == body, True, f"{size} by the CRT")
        for key in ODD_KEYS:
            manager.upload(io.BytesIO(key.encode()), bucket, key).result()
            equal(read(c.s3, bucket, key)[0], key.encode(), repr(key))
            manager.delete(bucket, key).result()
        equal(keys_of(c.s3, bucket, Prefix="a"), [])
        try:
            manager.download(bucket, "no such key", io.BytesIO()).result()
        except botocore.exceptions.ClientError as error:
            # It begins with a HEAD, whose answer has no code.
            equal(error.response["Error"]["Code"], "404")
        else:
            raise AssertionError("found what is not there")


# ---- everything else ------------------------------------------------------------------------------

MODEL = pathlib.Path(__file__).resolve().parent.parent / "s3-model"
NOT_IMPLEMENTED = {
    line
    for line in (MODEL / "not_implemented.txt").read_text().splitlines()
    if not line.startswith("#")
}
# Sent to other servers than the endpoint, by the nature of directory buckets and Object Lambda.
ELSEWHERE = {"CreateSession", "ListDirectoryBuckets", "WriteGetObjectResponse"}


def smallest(shape, name, bucket, key):
    """The least that the service model accepts for a parameter."""
    if name == "Bucket":
        return bucket
    if name == "Key":
        return key
    if name == "CopySource":
        return f"{bucket}/{key}"
    kind = shape.type_name
    if kind == "structure":
        if getattr(shape, "is_tagged_union", False):
            member, inner = next(iter(shape.members.items()))
            return {member: smallest(inner, member, bucket, key)}
        return {
            member: smallest(shape.members[member], member, bucket, key)
            for member in shape.required_members
        }
    if kind == "list":
        return [smallest(shape.member, name, bucket, key)]
    if kind == "map":
        return {}
    if kind == "string":
        return shape.enum[0] if shape.enum else "x" * shape.metadata.get("min", 1)
    if kind in ("integer", "long"):
        return 1
    if kind == "boolean":
        return True
    if kind == "timestamp":
        return datetime.datetime(2030, 1, 1)
    if kind == "blob":
        return b"x"
    raise AssertionError(f"no smallest {kind}")


@checks
def every_other_operation_answers_not_implemented(c):
    bucket = c.bucket()
    c.s3.put_object(Bucket=bucket, Key="k", Body=b"untouched")
    model = c.s3.meta.service_model
    asked = 0
    listed = NOT_IMPLEMENTED & set(model.operation_names)
    equal(len(listed) > 30, True, "listed and known to this SDK")
    for name in sorted(listed - ELSEWHERE):
        operation = model.operation_model(name)
        arguments = smallest(operation.input_shape, None, bucket, "k")
        # Where the body is a document that the model does not demand, send one all the same.
        payload = operation.input_shape.serialization.get("payload")
        if payload and payload not in arguments:
            arguments[payload] = smallest(operation.input_shape.members[payload], payload, bucket, "k")
        method = next(
            method for method, known in c.s3.meta.method_to_api_mapping.items() if known == name
        )
        # HEAD answers have no body to carry a code.
        refused(getattr(c.s3, method), ("NotImplemented", "501"), 501, **arguments)
        asked += 1
    equal(asked, len(listed - ELSEWHERE), "operations")
    equal(read(c.s3, bucket, "k")[0], b"untouched")
    equal(keys_of(c.s3, bucket), ["k"])


@checks
def versions_other_than_null_are_never_served(c):
    bucket = c.bucket()
    c.s3.put_object(Bucket=bucket, Key="k", Body=b"now")
    for call in (c.s3.get_object, c.s3.head_object, c.s3.delete_object):
        try:
            call(Bucket=bucket, Key="k", VersionId="L4kqtJlcpXroDTDmpUMLUo")
        except botocore.exceptions.ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            equal(status in (400, 404, 501), True, f"{error}")
        else:
            raise AssertionError(f"{call.__name__} answered for a version that never was")
    equal(read(c.s3, bucket, "k")[0], b"now")


# ---- many at once ---------------------------------------------------------------------------------


@checks
def many_clients_at_once(c):
    bucket = c.bucket()
    failures = []

    def work(number):
        client = c.client()
        draw = random.Random(number)
        held = {}
        try:
            for step in range(60):
                key = f"{number}/{draw.randrange(8)}"
                if draw.random() < 0.6:
                    size = draw.choice([0, 100, 5000, 40_000, 300_000, 2 * MIB])
                    held[key] = content(size, f"{number} {step}")
                    client.put_object(Bucket=bucket, Key=key, Body=held[key])
                elif draw.random() < 0.5:
                    client.delete_object(Bucket=bucket, Key=key)
                    held.pop(key, None)
                elif key in held:
                    equal(read(client, bucket, key)[0] == held[key], True, key)
                else:
                    refused(client.get_object, "NoSuchKey", Bucket=bucket, Key=key)
            equal(keys_of(client, bucket, Prefix=f"{number}/"), sorted(held), "listing")
            for key, body in held.items():
                equal(read(client, bucket, key)[0] == body, True, key)
        except Exception as error:
            failures.append(f"client {number}: {error!r}")

    threads = [threading.Thread(target=work, args=[number]) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    equal(failures, [])


@checks
def one_key_under_many_writers_is_always_whole(c):
    bucket = c.bucket()
    bodies = {
        hashlib.md5(body).hexdigest(): body
        for body in (bytes([n]) * size for n, size in enumerate([10, 40_000, 200_000, 2 * MIB] * 2))
    }
    c.s3.put_object(Bucket=bucket, Key="k", Body=next(iter(bodies.values())))
    stop = threading.Event()
    failures = []

    def guarded(work, *arguments):
        try:
            work(*arguments)
        except Exception as error:
            failures.append(f"{work.__name__}: {error!r}")
            stop.set()

    def write(body):
        client = c.client()
        while not stop.is_set():
            client.put_object(Bucket=bucket, Key="k", Body=body)

    def check():
        client = c.client()
        for _ in range(40):
            found, answer = read(client, bucket, "k")
            if bodies.get(answer["ETag"].strip('"')) != found:
                raise AssertionError(f"{answer['ETag']}: {len(found)} bytes of something else")

    writers = [threading.Thread(target=guarded, args=[write, body]) for body in bodies.values()]
    readers = [threading.Thread(target=guarded, args=[check]) for _ in range(4)]
    for thread in writers + readers:
        thread.start()
    for thread in readers:
        thread.join()
    stop.set()
    for thread in writers:
        thread.join()
    equal(failures, [])
