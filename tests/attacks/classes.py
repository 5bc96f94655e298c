"""One test for each class of hole that S3 servers have had and that can be in this one.

    01 a signature that one branch does not check    02 unsigned headers that are honoured
    03 a sibling of an operation without its check   04 POST policies
    05 keys that are taken for paths                 07 rights that are taken
    10 secrets in answers                            11 enumeration
    12 exhaustion and panics                         13 injection into answers
    14 a source that is only claimed                 18 open by default
    19 injection into what is behind                 20 requests inside requests

Not here: between nodes (06), tokens (08), calls to others (09), policies (15), encryption (16),
locks (17), none of which exists yet; conditions that cannot be known (21) are in the simulation.
"""

import base64
import datetime
import hashlib
import hmac
import pathlib
import re
import traceback
import zlib

from matrix import flip
from wire import EMPTY, UNSIGNED, Broken, Connection, Request, now, quote
from world import ALICE, BOB, ROOT, SECRETS, canonical_id, difference, escaped

TESTS = []


def test(function):
    TESTS.append(function)
    return function


class Context:
    def __init__(self, world):
        self.world, self.host = world, world.host
        self.server = world.server
        self.alice, self.bob = world.place(ALICE), world.place(BOB)
        world.watch(self.alice, self.bob)
        self.scratch = world.bucket(ALICE)

    def send(self, request):
        return self.world.connection.ask(request)

    def ask(self, user, *arguments, **more):
        return self.send(Request(*arguments, **more).sign(user, self.host))

    def raw(self, data, answers=1, method="GET"):
        """Bytes on a connection of their own; what came back until it was closed or silent."""
        connection = Connection(self.server.host, self.server.port, SECRETS.values(), timeout=5)
        found = []
        try:
            connection.send(data)
            for _ in range(answers):
                found.append(connection.answer(method))
        except (ConnectionError, TimeoutError):
            pass
        finally:
            connection.close()
        return found

    def absent(self, bucket, key):
        answer = self.world.get(ROOT, bucket, key, want=None)
        assert answer.code in ("NoSuchKey", "KeyTooLongError"), f"{bucket}/{key} is there: {answer}"


def run(world, tally, only):
    context = Context(world)
    before = world.snapshot()
    for function in TESTS:
        if only and only not in function.__name__:
            continue
        error = None
        try:
            function(context)
            if not world.server.running():
                raise AssertionError("the server is gone")
            after = world.snapshot()
            # Tests make buckets of their own.
            before["/"] = after["/"]
            error = difference(before, after)
            before = after
        except Exception as failure:
            error = f"{failure!r}\n{traceback.format_exc(limit=-3)}"
        tally.check(function.__name__, error)


def expect(answer, *wanted, what=""):
    found = (answer.status, answer.code)
    assert found in wanted, f"{what}: {answer}, wanted {wanted}"


# --- 01


def chunks(request, pieces, trailers=(), signed=True, sign_trailers=True, final=True):
    """The aws-chunked body of a request that is signed: (pieces as sent, bytes)."""
    previous, found = request.signature, []

    def seal(kind, *lines):
        nonlocal previous
        text = "\n".join([kind, request.stamp, request.scope, previous, *lines])
        previous = hmac.digest(request.key, text.encode(), "sha256").hex()
        return previous

    for piece in list(pieces) + ([b""] if final else []):
        head = f"{len(piece):x}"
        if signed:
            digest = hashlib.sha256(piece).hexdigest()
            head += f";chunk-signature={seal('AWS4-HMAC-SHA256-PAYLOAD', EMPTY, digest)}"
        found.append(head.encode() + b"\r\n" + piece + (b"\r\n" if piece else b""))
    tail = b"".join(f"{name}:{value}\r\n".encode() for name, value in trailers)
    if trailers and signed and sign_trailers:
        text = "".join(f"{name}:{value}\n" for name, value in trailers)
        digest = hashlib.sha256(text.encode()).hexdigest()
        tail += f"x-amz-trailer-signature:{seal('AWS4-HMAC-SHA256-TRAILER', digest)}\r\n".encode()
    return found, tail + b"\r\n"


def streamed(c, key, kind, length, trailer="x-amz-checksum-crc32", user=ALICE):
    headers = [("content-encoding", "aws-chunked")]
    if length is not None:
        headers.append(("x-amz-decoded-content-length", str(length)))
    if kind.endswith("TRAILER") and trailer:
        headers.append(("x-amz-trailer", trailer))
    request = Request("PUT", f"/{c.scratch}/{key}", (), headers)
    return request.sign(user, c.host, payload=kind)


SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
FREE = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
PIECES = [b"a" * 9000, b"b" * 9000, b"c" * 100]
WHOLE = b"".join(PIECES)


def crc32(data):
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def sum_of(data):
    return [("x-amz-checksum-crc32", crc32(data))]


def finish(c, request, found, tail, good=False):
    request.body = b"".join(found) + tail
    key = request.path.split("/", 2)[2]
    try:
        answer = c.send(request)
    except ConnectionError:
        # A body that ends early is given up without an answer.
        c.world.connection.close()
        assert not good
        answer = None
    if good:
        expect(answer, (200, ""), what="what is right")
        c.world.ask(ALICE, "DELETE", request.path)
        return answer
    assert answer is None or 400 <= answer.status < 500 or answer.code == "NotImplemented", f"{answer}"
    c.absent(c.scratch, key)
    return answer


@test
def class_01_the_forms_of_bodies_that_are_right_are_taken(c):
    for kind in (SIGNED, TRAILER, FREE):
        request = streamed(c, "right", kind, len(WHOLE))
        trailers = sum_of(WHOLE) if kind.endswith("TRAILER") else ()
        finish(c, request, *chunks(request, PIECES, trailers, kind != FREE), good=True)


@test
def class_01_unsigned_trailers_need_a_signed_head(c):
    for what in ("forged", "anonymous", "presigned", "unknown"):
        request = streamed(c, "trailer", FREE, len(WHOLE))
        found, tail = chunks(request, PIECES, sum_of(WHOLE), False)
        if what == "forged":
            flip(request)
        elif what == "anonymous":
            request.set("authorization", None)
        elif what == "presigned":
            request.set("authorization", None).set("x-amz-date", None).presign(ALICE, c.host)
        else:
            request.set("authorization", request.header("authorization").replace("ALICE", "MALLO"))
        answer = finish(c, request, found, tail)
        assert answer.status in (403, 501, 400), f"{what}: {answer}"


@test
def class_01_trailers_are_those_that_were_declared(c):
    right = sum_of(WHOLE)
    wrong = sum_of(WHOLE + b"x")
    other = [("x-amz-checksum-sha1", base64.b64encode(hashlib.sha1(WHOLE).digest()).decode())]
    hostile = [("x-amz-meta-of", "an attacker"), ("x-amz-copy-source", "/a/b"), ("content-type", "text/html")]
    for kind in (TRAILER, FREE):
        signed = kind == TRAILER
        bad = [(), wrong, other, right + right, right + wrong, right + other, [("x-amz-checksum-crc32", "")], [("x-amz-checksum-crc32", "AAAA")]]
        bad += [right + [one] for one in hostile] + [[one] + right for one in hostile]
        for trailers in bad:
            request = streamed(c, "trailers", kind, len(WHOLE))
            found, tail = chunks(request, PIECES, trailers, signed)
            finish(c, request, found, tail)
        # Declared and sent, but in another algorithm; declared and not known; several.
        for declared in ("x-amz-checksum-sha1", "x-amz-meta-of", "x-amz-checksum-crc32,x-amz-checksum-sha1", "content-type", ""):
            request = streamed(c, "trailers", kind, len(WHOLE), declared)
            finish(c, request, *chunks(request, PIECES, right, signed))
    # A signed body whose trailers are not, and the other way round.
    request = streamed(c, "trailers", TRAILER, len(WHOLE))
    finish(c, request, *chunks(request, PIECES, right, True, sign_trailers=False))
    request = streamed(c, "trailers", SIGNED, len(WHOLE))
    finish(c, request, *chunks(request, PIECES, right, True))
    request = streamed(c, "trailers", TRAILER, len(WHOLE))
    found, tail = chunks(request, PIECES, right)
    finish(c, request, found, tail.replace(b"\r\nx-amz-trailer-signature:", b"\r\nx-amz-trailer-signature:0", 1))
    request = streamed(c, "trailers", TRAILER, len(WHOLE))
    found, tail = chunks(request, PIECES, right)
    finish(c, request, found, tail[:-2] + b"x-amz-checksum-crc32:" + right[0][1].encode() + b"\r\n\r\n")


@test
def class_01_the_decoded_length_is_the_one_that_was_said(c):
    for kind in (SIGNED, TRAILER, FREE):
        trailers = sum_of(WHOLE) if kind.endswith("TRAILER") else ()
        for length in (len(WHOLE) - 1, len(WHOLE) + 1, 0, 1, len(WHOLE) * 1000, 2**63, 2**64 - 1, 2**64, "-1", "+5", "0x10", "1e3", "", "5 5", None):
            request = streamed(c, "length", kind, length)
            finish(c, request, *chunks(request, PIECES, trailers, kind != FREE))


@test
def class_01_a_body_without_its_last_chunk_is_not_stored(c):
    for kind in (SIGNED, TRAILER, FREE):
        trailers = sum_of(WHOLE) if kind.endswith("TRAILER") else ()
        request = streamed(c, "short", kind, len(WHOLE))
        found, tail = chunks(request, PIECES, trailers, kind != FREE, final=False)
        finish(c, request, found, tail)
        request = streamed(c, "short", kind, len(WHOLE))
        found, _ = chunks(request, PIECES, trailers, kind != FREE)
        finish(c, request, found, b"")
        request = streamed(c, "short", kind, len(WHOLE))
        found, tail = chunks(request, PIECES, trailers, kind != FREE)
        finish(c, request, found, tail + b"0\r\n\r\n")


@test
def class_01_chunks_cannot_be_repeated_moved_dropped_or_borrowed(c):
    pieces = [b"1" * 8192, b"2" * 8192, b"3" * 8192]
    length = sum(map(len, pieces))
    for order in ([1, 0, 2], [0, 2, 1], [2, 1, 0], [0, 0, 2], [1, 1, 1], [0, 1, 1]):
        request = streamed(c, "order", SIGNED, length)
        found, tail = chunks(request, pieces)
        finish(c, request, [found[at] for at in order] + found[3:], tail)
    for dropped in range(3):
        request = streamed(c, "order", SIGNED, length - 8192)
        found, tail = chunks(request, pieces)
        finish(c, request, found[:dropped] + found[dropped + 1 :], tail)
    # Of another request of the same user, and of another key.
    other = streamed(c, "other", SIGNED, length)
    borrowed, tail = chunks(other, pieces)
    request = streamed(c, "order", SIGNED, length)
    finish(c, request, borrowed, tail)
    request = streamed(c, "order", SIGNED, length)
    found, tail = chunks(request, pieces)
    finish(c, request, [found[0], borrowed[1], *found[2:]], tail)
    # Without its signatures.
    for strip in (rb";chunk-signature=[0-9a-f]{64}", rb"[0-9a-f]{64}", rb"=[0-9a-f]{64}"):
        request = streamed(c, "order", SIGNED, length)
        found, tail = chunks(request, pieces)
        finish(c, request, [re.sub(strip, b"", piece, count=1) for piece in found], tail)


@test
def class_01_chunk_sizes_are_hexadecimal_and_nothing_else(c):
    for size in (b"-5", b"+5", b"0x5", b" 5", b"5 ", b"5;", b"", b"ffffffffffffffff", b"10000000000000005", b"g", b"5\r", b"5\n5"):
        request = streamed(c, "size", FREE, 5)
        finish(c, request, [size + b"\r\nhello\r\n0\r\n"], b"x-amz-checksum-crc32:" + crc32(b"hello").encode() + b"\r\n\r\n")


@test
def class_01_kinds_of_payload_that_are_not_known_are_refused(c):
    for kind in ("STREAMING-UNSIGNED-PAYLOAD", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER", "STREAMING-AWS4-HMAC-SHA256-EVENTS", "UNSIGNED", "unsigned-payload", "null", "0", EMPTY.upper() + "0", "e3b0" * 15):
        request = Request("PUT", f"/{c.scratch}/kind", (), (), b"hello").sign(ALICE, c.host, payload=kind)
        answer = c.send(request)
        assert answer.status in (400, 501), f"{kind}: {answer}"
        c.absent(c.scratch, "kind")
    # Of a known kind, but the body is of another.
    for kind in (SIGNED, TRAILER, FREE):
        request = Request("PUT", f"/{c.scratch}/kind", (), (), b"hello").sign(ALICE, c.host, payload=kind)
        finish(c, request, [b"hello"], b"")
    for payload in (None, UNSIGNED):
        headers = [("content-encoding", "aws-chunked"), ("x-amz-decoded-content-length", "5")]
        request = Request("PUT", f"/{c.scratch}/kind", (), headers, b"5\r\nhello\r\n0\r\n\r\n")
        expect(c.send(request.sign(ALICE, c.host, payload=payload)), (400, "InvalidRequest"))
        c.absent(c.scratch, "kind")


# --- 02, 03, 04


@test
def class_02_a_presigned_put_cannot_become_a_copy(c):
    source = f"/{c.bob.bucket}/{c.bob.key}"
    for where in ("header", "query"):
        request = Request("PUT", f"/{c.scratch}/copied").presign(BOB, c.host)
        if where == "header":
            request.add("x-amz-copy-source", source)
        else:
            request.query.append(("x-amz-copy-source", quote(source, "")))
        assert c.send(request).status == 403
        c.absent(c.scratch, "copied")
    # Signed by who may write here and not read there.
    request = Request("PUT", f"/{c.scratch}/copied", [("x-amz-copy-source", quote(source, ""))])
    expect(c.send(request.presign(ALICE, c.host)), (403, "AccessDenied"))
    c.absent(c.scratch, "copied")


@test
def class_02_a_presigned_url_is_for_one_method_and_one_resource(c):
    path = f"/{c.alice.bucket}/{c.alice.key}"
    for signed in ("GET", "HEAD", "PUT", "DELETE"):
        for method in ("GET", "HEAD", "PUT", "DELETE", "POST", "get", "Get", "PATCH", "OPTIONS"):
            if method == signed:
                continue
            request = Request(signed, path).presign(ALICE, c.host)
            request.method = method
            request.set("x-http-method-override", signed)
            answer = c.send(request)
            assert answer.status in (400, 403, 405), f"{signed} as {method}: {answer}"


@test
def class_03_deletions_of_many_stay_in_the_bucket(c):
    victim = f"{c.alice.bucket}/{c.alice.key}"
    keys = [f"../{victim}", f"/{victim}", f"//{victim}", victim, f"..%2F{victim}", f"./../{victim}", "\\..\\" + victim]
    body = "<Delete>" + "".join(f"<Object><Key>{escaped(key)}</Key></Object>" for key in keys) + "</Delete>"
    body = body.encode()
    headers = [("content-md5", base64.b64encode(hashlib.md5(body).digest()).decode())]
    expect(c.ask(BOB, "POST", f"/{c.bob.bucket}", [("delete", None)], headers, body), (200, ""), (501, "NotImplemented"))
    for bucket in (c.alice.bucket, f"{c.bob.bucket}/../{c.alice.bucket}", f"{c.bob.bucket}%2F..%2F{c.alice.bucket}"):
        answer = c.ask(BOB, "POST", f"/{bucket}", [("delete", None)], headers, body)
        assert answer.status >= 400, f"{bucket}: {answer}"


@test
def class_03_a_version_is_no_way_around_the_owner(c):
    path = f"/{c.alice.bucket}/{c.alice.key}"
    for version in ("null", "", "x", "%00"):
        for method in ("GET", "HEAD", "DELETE"):
            answer = c.ask(BOB, method, path, [("versionId", version)])
            assert answer.status in (403, 501, 400), f"{method} {version!r}: {answer}"
    for query in ([("versions", None)], [("list-type", "2"), ("prefix", "k")], [("uploads", None)], [], [("location", None)]):
        answer = c.ask(BOB, "GET", f"/{c.alice.bucket}", query)
        expect(answer, (403, "AccessDenied"), (501, "NotImplemented"), what=f"{query}")


@test
def class_04_forms_and_their_policies_are_refused(c):
    policy = base64.b64encode(b'{"expiration":"2099-01-01T00:00:00Z","conditions":[["starts-with","$key",""]]}').decode()
    stamp = now().strftime("%Y%m%dT%H%M%SZ")
    fields = {
        "key": "form",
        "policy": policy,
        "x-amz-algorithm": "AWS4-HMAC-SHA256",
        "x-amz-credential": f"{ALICE.access_key}/{stamp[:8]}/us-east-1/s3/aws4_request",
        "x-amz-date": stamp,
        "x-amz-signature": "0" * 64,
        "file": "by an attacker",
    }
    body = "".join(f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items())
    body = (body + "--x--\r\n").encode()
    headers = [("content-type", "multipart/form-data; boundary=x")]
    for path in (f"/{c.scratch}", f"/{c.scratch}/", f"/{c.scratch}/form", "/"):
        request = Request("POST", path, (), headers, body)
        answer = c.send(request.copy().set("host", c.host))
        assert answer.status in (403, 405, 501), f"anonymous {path}: {answer}"
        answer = c.send(request.copy().sign(ALICE, c.host))
        assert answer.status in (405, 501), f"signed {path}: {answer}"
        c.absent(c.scratch, "form")


# --- 05


HOSTILE = [
    "..", ".", "../", "./k", "../k", "a/../b", "a/./b", "//", "a//b", "/a", "a/", "\\", "..\\..\\k", "%2e%2e%2f", "%252e", "%", "a%00b",
    "~", "~root/.ssh/authorized_keys", "C:\\k", "CON", "a\nb", "a\r\nX: y", "a\tb", " ", "a b ", "a+b", "a&b=c", "a?b", "a#b", "a;b",
    "'; DROP TABLE objects; --", '"><script>alert(1)</script>', "${jndi:ldap://x}", "{{7*7}}", "$(id)", "`id`", "|id", "*", "a*b", "?",
    "é", "e\u0301", "\u202e", "\ufeff", "\U0001f600", "ｋ", "K", "minio", "_ostrakon", "_ostrakon/k", ".minio.sys/config", ".ostrakon", "k/below/",
    "../../../../../../../../var/tmp/ostrakon-attacks-canary", "/etc/passwd", "\x7f", "\x01", "]]>", "<![CDATA[", "a" * 1024,
]  # fmt: skip


@test
def class_05_keys_are_names_and_never_paths(c):
    bucket = c.world.bucket(BOB)
    for index, key in enumerate(HOSTILE):
        c.world.put(BOB, bucket, key, f"hostile {index}".encode())
    for index, key in enumerate(HOSTILE):
        assert c.world.get(BOB, bucket, key).body == f"hostile {index}".encode(), key
    listed = [key for key, _ in c.world.listed(bucket)]
    assert listed == sorted(HOSTILE, key=str.encode), f"{set(HOSTILE) ^ set(listed)}"
    assert not pathlib.Path("/var/tmp/ostrakon-attacks-canary").exists()
    for index, key in enumerate(HOSTILE):
        c.world.ask(BOB, "DELETE", f"/{bucket}/{quote(key)}")
        c.absent(bucket, key)
        left = len(c.world.listed(bucket))
        assert left == len(HOSTILE) - index - 1, f"{key!r}: {left} are left"


@test
def class_05_no_path_leads_into_another_bucket(c):
    mine, theirs = c.bob.bucket, f"{c.alice.bucket}/{c.alice.key}"
    for path in (f"/{mine}/../{theirs}", f"/{mine}/%2e%2e/{theirs}", f"/{mine}/..%2f{theirs}", f"/{mine}//{theirs}", f"/{mine}%2f..%2f{theirs}", f"/./{theirs}", f"/{mine}/..\\{theirs}", f"/{mine};/../{theirs}", f"//{theirs}", f"/%2f{theirs}", f"/%2e/{theirs}", f"/{theirs}/", f"/{c.alice.bucket}%00/{c.alice.key}", f"/{mine}%00{theirs}"):
        for method in ("GET", "DELETE", "HEAD"):
            answer = c.ask(BOB, method, path)
            assert b"object of alice" not in answer.body, path
            assert answer.status in (204, 400, 403, 404), f"{method} {path}: {answer}"
            assert method != "GET" or answer.status != 204


@test
def class_05_names_of_buckets_follow_the_rules_and_some_are_kept(c):
    names = ["minio", "_ostrakon", "..", ".", "%2e%2e", "a", "ab", "A-bucket", "a_b", "a..b", "-ab", "ab-", "192.168.0.1", "xn--ab", "a" * 64, "a%2Fb", "a%00b", "a%0d%0ab", "%20ab", "é%C3%A9", "sthree-ab", "ab-s3alias", "ab--ol-s3", "a%3fb", "*", "ab%5c"]
    for name in names:
        name = quote(name, "/%")
        for user in (ROOT, ALICE):
            answer = c.ask(user, "PUT", f"/{name}")
            expect(answer, (400, "InvalidBucketName"), (400, "InvalidURI"), what=name)
            answer = c.ask(user, "PUT", f"/{name}/k", (), (), b"x")
            assert answer.status in (400, 404), f"{name}: {answer}"


@test
def class_05_a_name_that_begins_another_is_not_the_other(c):
    name = c.alice.bucket
    for other in (name[:-1], name + "0", name + "-", name.upper(), name + ".", name + "%20"):
        answer = c.ask(ALICE, "GET", f"/{other}/{c.alice.key}")
        assert answer.status in (400, 403, 404) and b"object of" not in answer.body, f"{other}: {answer}"
    answer = c.ask(BOB, "GET", "/", [("prefix", name[:3])])
    assert name.encode() not in re.findall(rb"<Name>([^<]*)</Name>", answer.body)


@test
def class_05_sub_resources_that_are_not_known_never_fall_through(c):
    known = set()
    for line in (pathlib.Path(__file__).parent.parent / "s3-model" / "operations.tsv").read_text().splitlines():
        if not line.startswith("#"):
            uri = line.split("\t")[2]
            known |= {pair.split("=")[0] for pair in uri.partition("?")[2].split("&") if pair}
    served = {("GET", "Bucket"), ("GET", "Object")}
    names = sorted(known) + [name.upper() for name in sorted(known)] + ["anything", "", "acl%00", "list-type", "uploadid", "UploadId", "partNumber", "versionid", "x-id%20", "X-Amz-Acl", "x-amz-copy-source", "policy%2f"]
    place = c.world.place(ALICE)
    for name in names:
        for path in (f"/{place.bucket}", f"/{place.bucket}/{place.key}"):
            for method in ("PUT", "DELETE", "POST"):
                body = b"<x/>" if method != "DELETE" else b""
                answer = c.ask(ALICE, method, path, [(name, None)], (), body)
                if name == "":
                    continue
                fine = answer.status in (400, 404, 405, 409, 411, 501)
                # Deleting a setting that was never set; beginning an upload.
                fine |= method == "DELETE" and answer.status == 204 and name in known
                fine |= (method, name, answer.status) == ("POST", "uploads", 200)
                assert fine, f"{method} {path}?{name}: {answer}"
                if answer.status == 204:
                    assert c.world.get(ROOT, place.bucket, place.key).body == b"object of alice"
        if name == "":
            # Nothing is asked for by an empty name: it is put again as it was.
            c.world.put(ALICE, place.bucket, place.key, b"object of alice")
            continue
        assert c.world.get(ROOT, place.bucket, place.key).body == b"object of alice", name
        expect(c.ask(ALICE, "HEAD", f"/{place.bucket}"), (200, ""))
    assert served


# --- 07, 10, 11


@test
def class_07_nothing_can_be_made_public_or_somebody_elses(c):
    path = f"/{c.scratch}/public"
    grants = [("x-amz-acl", acl) for acl in ("public-read", "public-read-write", "authenticated-read", "aws-exec-read", "log-delivery-write")]
    grants += [(f"x-amz-grant-{right}", "uri=http://acs.amazonaws.com/groups/global/AllUsers") for right in ("read", "write", "full-control", "read-acp", "write-acp")]
    grants += [("x-amz-object-ownership", "ObjectWriter"), ("x-amz-tagging", "public=yes")]
    for header in grants:
        for method, target in (("PUT", path), ("PUT", f"/{c.scratch}"), ("POST", path + "?uploads")):
            target, _, flag = target.partition("?")
            answer = c.ask(ALICE, method, target, [(flag, None)] if flag else [], [header])
            assert answer.status in (400, 501), f"{method} {target} {header}: {answer}"
        c.absent(c.scratch, "public")
    for flag in ("acl", "policy", "ownershipControls", "publicAccessBlock", "cors", "website", "replication"):
        body = b'{"Statement":[{"Effect":"Allow","Principal":"*","Action":"s3:*","Resource":"*"}]}'
        answer = c.ask(ALICE, "PUT", f"/{c.scratch}", [(flag, None)], (), body)
        assert answer.status in (400, 501), f"{flag}: {answer}"
    for method in ("GET", "PUT", "DELETE"):
        answer = c.send(Request(method, path).set("host", c.host))
        expect(answer, (403, "AccessDenied"))


@test
def class_10_answers_tell_no_secret_and_no_right_signature(c):
    # Every answer of every test is searched for secrets; here for what can be made with them.
    for path, query in ((f"/{c.alice.bucket}/k", []), ("/", []), (f"/{c.alice.bucket}", [("list-type", "2")])):
        request = Request("GET", path, query).sign(ALICE, c.host)
        right = request.signature
        answer = c.send(flip(request.copy()))
        expect(answer, (403, "SignatureDoesNotMatch"))
        assert right.encode() not in answer.body and request.key.hex().encode() not in answer.body
        presigned = Request("GET", path, query).presign(ALICE, c.host)
        right = presigned.signature
        presigned.query[-1] = ("X-Amz-Signature", "0" * 64)
        answer = c.send(presigned)
        assert right.encode() not in answer.body and b"Signature=0" not in answer.body


@test
def class_11_nobody_learns_what_is_there_without_a_name(c):
    answers = set()
    for path in (f"/{c.alice.bucket}", "/no-such-bucket", f"/{c.alice.bucket}/k", f"/{c.alice.bucket}/none", "/no-such-bucket/k"):
        answer = c.send(Request("GET", path).set("host", c.host))
        text = re.sub(rb"<(RequestId|HostId|Resource)>[^<]*</\1>", b"", answer.body)
        answers.add((answer.status, text))
    assert len(answers) == 1, answers
    # Nor one who has one, about what is in a bucket of another.
    for method in ("GET", "HEAD", "DELETE"):
        answers = set()
        for key in ("k", "none", "k/below"):
            answer = c.ask(BOB, method, f"/{c.alice.bucket}/{key}")
            answers.add((answer.status, answer.code))
        assert len(answers) == 1, answers


# --- 12


def resident(server):
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) * 1024


DOCUMENTS = [
    ("delete", "POST", "", "Delete"),
    ("uploadId", "POST", "/k", "CompleteMultipartUpload"),
    (None, "PUT", "", "CreateBucketConfiguration"),
]


def documents(c, make):
    place = c.alice
    for flag, method, path, root in DOCUMENTS:
        body = make(root)
        query = [(flag, place.upload if flag == "uploadId" else None)] if flag else []
        headers = [("content-md5", base64.b64encode(hashlib.md5(body).digest()).decode())]
        answer = c.ask(ALICE, method, f"/{place.bucket}{path}", query, headers, body)
        assert answer.status in (400, 501, 503), f"{root}: {answer}"
        yield answer


@test
def class_12_xml_bombs_do_nothing(c):
    before = resident(c.server)
    laughs = "".join(f'<!ENTITY l{at} "{f"&l{at - 1};" * 10 if at else "lol"}">' for at in range(12))
    for make in (
        lambda root: f"<!DOCTYPE {root} [{laughs}]><{root}>&l11;</{root}>",
        lambda root: f'<!DOCTYPE {root} [<!ENTITY x SYSTEM "file:///etc/passwd">]><{root}><Object><Key>&x;</Key></Object></{root}>',
        lambda root: f'<!DOCTYPE {root} SYSTEM "http://127.0.0.1:1/x"><{root}/>',
        lambda root: f"<?xml-stylesheet href='x'?><{root}><Object><Key>k</Key></Object></{root}>",
        lambda root: f"<{root}>" + "<a>" * 10_000 + "</a>" * 10_000 + f"</{root}>",
        lambda root: f"<{root}>" + "<a>" * 15_000,
        lambda root: f"<{root}>" + "<a/>" * 15_000 + f"</{root}>",
        lambda root: f"<{root} " + " ".join(f'a{at}="b"' for at in range(5_000)) + f"></{root}><x/>",
        lambda root: f"<{root}>&#0;&#x110000;&#xD800;</{root}>",
        lambda root: f"<{root}>&unknown;</{root}>",
        lambda root: "<" * 60_000,
        lambda root: f"<{root}>" + "&" * 60_000,
        lambda root: f"<{root}><![CDATA[" + "x" * 60_000,
        lambda root: f"<{root}></{root}><{root}></{root}>",
        lambda root: f"\ufeff<{root}><Object><Key>k</Key></Object></x>",
        lambda root: "\0" * 1000,
    ):
        for answer in documents(c, lambda root: make(root).encode()):
            assert b"root:" not in answer.body
    assert resident(c.server) - before < 64 << 20


@test
def class_12_a_million_keys_are_not_deleted_in_one_request(c):
    body = b"<Delete>" + b"<Object><Key>k</Key></Object>" * 1001 + b"</Delete>"
    headers = [("content-md5", base64.b64encode(hashlib.md5(body).digest()).decode())]
    expect(c.ask(ALICE, "POST", f"/{c.alice.bucket}", [("delete", None)], headers, body), (400, "MalformedXML"), (501, "NotImplemented"))
    body = b"<Delete>" + b"<Object><Key>k</Key></Object>" * 1_000_000 + b"</Delete>"
    headers = [("content-md5", base64.b64encode(hashlib.md5(body).digest()).decode())]
    request = Request("POST", f"/{c.alice.bucket}", [("delete", None)], headers, body)
    try:
        answer = c.send(request.sign(ALICE, c.host))
        expect(answer, (400, "MaxMessageLengthExceeded"), (400, "MalformedXML"), (501, "NotImplemented"))
    except ConnectionError:
        c.world.connection.close()


@test
def class_12_heads_are_bounded(c):
    def head(lines):
        return f"GET /{c.alice.bucket}/k HTTP/1.1\r\nHost: {c.host}\r\n{lines}\r\n".encode("latin-1")

    for lines in (
        "".join(f"a{at}: b\r\n" for at in range(121)),
        "".join(f"a{at}: b\r\n" for at in range(5_000)),
        "a: " + "b" * 20_000 + "\r\n",
        "a: " + "b" * 1_000_000 + "\r\n",
        "a" * 100_000 + ": b\r\n",
        "a: b\r\n" * 20_000,
    ):
        found = c.raw(head(lines))
        assert [answer.status for answer in found] == [400] and found[0].closing, f"{lines[:40]} {found}"
    for target in ("/" + "a" * 20_000, "/b/k?" + "a=b&" * 4_000, "/b/k?" + "&" * 15_000):
        found = c.raw(f"GET {target} HTTP/1.1\r\nHost: {c.host}\r\n\r\n".encode())
        assert found and found[0].status in (400, 403), f"{target[:40]} {found}"
    answer = c.ask(ALICE, "GET", f"/{c.alice.bucket}/k", [(f"a{at}", "b") for at in range(200)])
    assert answer.status == 400, f"{answer}"


@test
def class_12_lengths_that_are_only_announced_take_no_memory(c):
    before = resident(c.server)
    connections = []
    for index in range(150):
        connection = Connection(c.server.host, c.server.port, (), timeout=10)
        connections.append(connection)
        request = Request("PUT", f"/{c.scratch}/announced", (), [("content-length", str(5 << 30))])
        if index % 3 == 1:
            request = Request("POST", f"/{c.alice.bucket}", [("delete", None)], [("content-length", "5000000"), ("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==")])
        if index % 3 == 2:
            request.set("content-encoding", "aws-chunked").set("x-amz-decoded-content-length", str(4 << 30))
        kind = FREE if index % 3 == 2 else UNSIGNED
        if kind == FREE:
            request.set("x-amz-trailer", "x-amz-checksum-crc32")
        connection.send(request.sign(ALICE, c.host, payload=kind).wire())
    grown = resident(c.server) - before
    for connection in connections:
        connection.close()
    assert grown < 64 << 20, f"{grown >> 20} MiB"
    c.absent(c.scratch, "announced")


@test
def class_12_numbers_out_of_their_bounds_are_refused(c):
    path = f"/{c.alice.bucket}/k"
    for value in ("-1", "2147483648", "18446744073709551616", "1e3", "0x1", "1.0", "%2B1", "%20", "१"):
        value = quote(value, "%")
        for bucket_query in ([("list-type", "2"), ("max-keys", value)], [("versions", None), ("max-keys", value)], [("uploads", None), ("max-uploads", value)]):
            answer = c.ask(ALICE, "GET", f"/{c.alice.bucket}", bucket_query)
            expect(answer, (400, "InvalidArgument"), (501, "NotImplemented"), what=f"{bucket_query}")
        for name in ("max-parts", "part-number-marker"):
            answer = c.ask(ALICE, "GET", path, [("uploadId", c.alice.upload), (name, value)])
            expect(answer, (400, "InvalidArgument"), what=f"{name} {value}")
    for value in ("0", "10001", "-1", "65537", "18446744073709551617", "1e0", "0x1", "%2B1", "", "01a", "1%00"):
        answer = c.ask(ALICE, "PUT", path, [("partNumber", value), ("uploadId", c.alice.upload)], (), b"x")
        assert answer.status in (400, 416), f"partNumber {value}: {answer}"
        answer = c.ask(ALICE, "GET", path, [("partNumber", value)])
        assert answer.status in (400, 416), f"GET partNumber {value}: {answer}"
    for value in ("-1", "18446744073709551616", "99999999999999999999", "+5", "5, 5", "0x5", "5 5", "5;", "\u0665".encode().decode("latin-1"), ""):
        request = Request("PUT", f"/{c.scratch}/length", (), [("content-length", value)], b"hello").sign(ALICE, c.host)
        found = c.raw(request.wire())
        assert [answer.status for answer in found] == [400] and found[0].closing, f"{value!r}: {found}"
        c.absent(c.scratch, "length")
    body = b"object of alice"
    for value in ("bytes=0-18446744073709551616", "bytes=18446744073709551615-", "bytes=-18446744073709551616", "bytes=9-1", "bytes=-0", "bytes=--1", "bytes=0-0,1-1", "bytes=" + "0-0," * 1000, "bytes=0-" + "9" * 1000, "bytes=a-b", "bytes=", "lines=0-1", "bytes=1-\x01"):
        request = Request("GET", path, (), [("range", value)]).sign(ALICE, c.host)
        answer = c.send(request) if "\x01" not in value else c.raw(request.wire())[0]
        assert answer.status in (200, 206, 400, 416), f"{value[:30]}: {answer}"
        if answer.status in (200, 206):
            assert answer.body and answer.body in body, f"{value[:30]}: {answer}"
    for value in ("bytes=0-99", "bytes=5-", "bytes=-5", "bytes=0-18446744073709551616", "bytes=9-1", "0-1", "bytes=0-1,2-3"):
        headers = [("x-amz-copy-source", path), ("x-amz-copy-source-range", value)]
        query = [("partNumber", "1"), ("uploadId", c.alice.upload)]
        answer = c.ask(ALICE, "PUT", path, query, headers)
        assert answer.status in (400, 416), f"{value}: {answer}"


# --- 13, 14


OVERRIDES = ["content-type", "content-language", "expires", "cache-control", "content-disposition", "content-encoding"]


@test
def class_13_overrides_are_for_those_who_sign(c):
    path = f"/{c.alice.bucket}/k"
    for name in OVERRIDES:
        answer = c.send(Request("GET", path, [(f"response-{name}", "text%2Fhtml")]).set("host", c.host))
        expect(answer, (403, "AccessDenied"))
        request = Request("GET", path).presign(ALICE, c.host)
        request.query.append((f"response-{name}", "text%2Fhtml"))
        expect(c.send(request), (403, "SignatureDoesNotMatch"))
        answer = c.send(Request("GET", path, [(f"response-{name}", "text%2Fhtml")]).presign(ALICE, c.host))
        assert answer.status == 200 and answer.header(name) == "text/html", f"{answer}"


@test
def class_13_no_answer_has_a_header_that_a_client_wrote(c):
    path = f"/{c.alice.bucket}/k"
    for name in OVERRIDES:
        for ending in ("%0d%0a", "%0a", "%0d", "%0d%0a%0d%0a", "%00", "%0b", "%c2%85", "%e2%80%a8", "%C4%8D%C4%8A"):
            value = f"a{ending}x-injected%3A%20yes{ending}b"
            request = Request("GET", path, [(f"response-{name}", value)])
            for signed in (request.copy().presign(ALICE, c.host), request.copy().sign(ALICE, c.host)):
                answer = c.send(signed)
                assert answer.header("x-injected") is None and answer.status in (200, 400), f"{answer}"
    for value in ("a%0d%0ax-injected: yes", "a%0ax-injected: yes", "%00", "a%0db"):
        request = Request("PUT", f"/{c.scratch}/meta", [("x-amz-meta-a", value.replace(" ", "%20").replace(":", "%3A"))], (), b"x")
        expect(c.send(request.presign(ALICE, c.host)), (400, "InvalidArgument"))
        c.absent(c.scratch, "meta")
    # What stands in a header as it was sent.
    for value in ("a\nx-injected: yes", "a\rb", "a\0b", "a\r\n x-injected: yes", "a\x0bb", "a\x7fb"):
        request = Request("PUT", f"/{c.scratch}/meta", (), [("x-amz-meta-a", value)], b"x").sign(ALICE, c.host)
        found = c.raw(request.wire())
        assert found and found[0].status in (400, 403), f"{value!r}: {found}"
        c.absent(c.scratch, "meta")
    # Names and keys that come back.
    key = quote('"><script>alert(1)</script>\r\nx-injected: yes', "")
    for method, query in (("GET", []), ("POST", [("uploads", None)]), ("GET", [("uploadId", key)]), ("GET", [("versionId", key)])):
        answer = c.ask(ALICE, method, f"/{c.scratch}/{key}", query)
        assert answer.header("x-injected") is None and b"<script>" not in answer.body, f"{answer}"
        assert answer.header("content-type") in ("application/xml", None), f"{answer}"
    for prefix in ("<script>", "%00", "&", "]]>"):
        answer = c.ask(ALICE, "GET", f"/{c.alice.bucket}", [("list-type", "2"), ("prefix", quote(prefix, "%"))])
        assert b"<script>" not in answer.body, f"{answer}"
    for bucket in ("x%0d%0ax-injected:%20yes", "%3Cscript%3E"):
        answer = c.ask(ALICE, "PUT", f"/{bucket}")
        assert answer.status == 400 and answer.header("x-injected") is None and b"<script>" not in answer.body


@test
def class_13_stored_pages_of_one_user_are_answered_to_nobody_else(c):
    c.world.put(ALICE, c.scratch, "page", b"<script>alert(1)</script>", [("content-type", "text/html")])
    for user in (BOB, None):
        request = Request("GET", f"/{c.scratch}/page")
        request = request.sign(user, c.host) if user else request.set("host", c.host)
        answer = c.send(request)
        assert answer.status == 403 and b"<script>" not in answer.body
        assert answer.header("access-control-allow-origin") is None


@test
def class_14_what_only_claims_to_be_another_changes_nothing(c):
    path = f"/{c.alice.bucket}/k"
    claims = [("x-forwarded-for", "127.0.0.1"), ("x-forwarded-host", "other"), ("forwarded", "for=127.0.0.1;host=other"), ("x-real-ip", "127.0.0.1"), ("x-original-url", f"/{c.bob.bucket}/k"), ("x-rewrite-url", f"/{c.bob.bucket}/k"), ("x-http-method-override", "DELETE"), ("x-method-override", "DELETE"), ("x-http-method", "DELETE"), ("true-client-ip", "127.0.0.1"), ("x-remote-user", "root"), ("x-ostrakon-user", "root"), ("x-minio-internal", "true"), ("x-forwarded-proto", "https")]
    for claim in claims:
        request = Request("GET", path, (), [claim])
        expect(c.send(request.copy().sign(BOB, c.host)), (403, "AccessDenied"), what=f"{claim}")
        expect(c.send(request.copy().set("host", c.host)), (403, "AccessDenied"), what=f"{claim}")
        answer = c.send(request.copy().sign(ALICE, c.host))
        assert answer.body == b"object of alice", f"{claim}: {answer}"
    answer = c.ask(ALICE, "GET", path, [("_method", "DELETE")])
    assert answer.status == 501, f"{answer}"


# --- 18, 20


@test
def class_18_there_are_no_names_that_everybody_knows(c):
    class Known:
        def __init__(self, pair):
            self.name, (self.access_key, self.secret_key) = pair[0], pair

    pairs = [("minioadmin", "minioadmin"), ("minio", "minio123"), ("rustfsadmin", "rustfsadmin"), ("ostrakon", "ostrakon"), ("admin", "admin"), ("root", "root"), ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"), ("test", "test"), ("ROOTACCESSKEY0000001", "ROOTACCESSKEY0000001"), ("anonymous", "")]
    for pair in pairs:
        answer = c.ask(Known(pair), "GET", "/")
        assert answer.status == 403, f"{pair}: {answer}"


@test
def class_18_without_a_name_there_is_health_and_nothing_else(c):
    for path in ("/minio/health/live", "/minio/health/ready"):
        for method in ("GET", "HEAD"):
            answer = c.send(Request(method, path).set("host", c.host))
            assert (answer.status, answer.body) == (200, b""), f"{answer}"
        for method in ("PUT", "POST", "DELETE", "PATCH", "OPTIONS"):
            answer = c.send(Request(method, path).set("host", c.host))
            assert answer.status in (403, 405), f"{method} {path}: {answer}"
    paths = ["/", "/metrics", "/minio/v2/metrics/cluster", "/minio/prometheus/metrics", "/minio/admin/v3/info", "/minio/health/cluster", "/minio/health", "/minio/health/live/", "/minio/health/live/k", "/minio//health/live", "/minio/health/../../" + c.alice.bucket + "/k", "/minio/bootstrap/v1/verify", "/_ostrakon/health", "/_ostrakon/admin", "/health", "/healthz", "/status", "/debug/pprof", "/favicon.ico", "/robots.txt", "/index.html", "/.well-known/security.txt", "/minio%2Fhealth/live", "/MINIO/health/live", "/crossdomain.xml", f"/{c.alice.bucket}", f"/{c.alice.bucket}/k"]
    for path in paths:
        for method in ("GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "CONNECT"):
            answer = c.send(Request(method, path).set("host", c.host))
            assert answer.status in (403, 405, 400), f"{method} {path}: {answer}"
    expect(c.raw(b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: h\r\n\r\n")[0], (400, "BadRequest"))


def smuggled(c, key):
    """A request that would be carried out, if it were taken for one."""
    return Request("PUT", f"/{c.scratch}/{key}", (), (), b"smuggled").sign(ALICE, c.host).wire()


FRAMINGS = {
    "length and coding": "Content-Length: {length}\r\nTransfer-Encoding: chunked",
    "coding and length": "Transfer-Encoding: chunked\r\nContent-Length: 4",
    "two lengths": "Content-Length: 0\r\nContent-Length: {length}",
    "two lengths, the same": "Content-Length: {length}\r\nContent-Length: {length}",
    "a list of lengths": "Content-Length: {length}, {length}",
    "a signed length": "Content-Length: +{length}",
    "a length with a space in its name": "Content-Length : {length}",
    "a coding with a space in its name": "Transfer-Encoding : chunked",
    "a coding with a tab in its name": "Transfer-Encoding\t: chunked",
    "a folded coding": "Transfer-Encoding:\r\n chunked",
    "a folded length": "Content-Length:\r\n {length}",
    "an unknown coding": "Transfer-Encoding: xchunked",
    "identity": "Transfer-Encoding: identity",
    "two codings": "Transfer-Encoding: gzip, chunked",
    "chunked and another": "Transfer-Encoding: chunked, identity",
    "chunked twice": "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "chunked in quotes": 'Transfer-Encoding: "chunked"',
    "chunked with a parameter": "Transfer-Encoding: chunked;a=b",
    "a vertical tab": "Transfer-Encoding: \x0bchunked",
    "a NUL": "Transfer-Encoding: chunked\0",
    "a bare line feed": "A: b\nTransfer-Encoding: chunked",
    "a bare carriage return": "A: b\rTransfer-Encoding: chunked",
    "no colon": "Transfer-Encoding chunked",
    "an empty name": ": chunked",
    "a hexadecimal length": "Content-Length: 0x10",
    "two hosts": "Host: other\r\nContent-Length: {length}",
    "an old protocol with a coding": "HTTP/1.0 Transfer-Encoding: chunked",
}


@test
def class_20_bodies_without_one_border_end_the_connection(c):
    for number, (what, fields) in enumerate(FRAMINGS.items()):
        key = f"smuggled-{number}"
        inner = smuggled(c, key)
        version = "HTTP/1.1"
        if fields.startswith("HTTP/1.0 "):
            version, fields = fields.split(" ", 1)
        fields = fields.format(length=len(inner))
        for method in ("PUT", "GET"):
            for chunk in (b"", b"0\r\n\r\n"):
                request = Request(method, f"/{c.scratch}/outer").sign(ALICE, c.host, payload=UNSIGNED)
                lines = "".join(f"{name}: {value}\r\n" for name, value in request.headers)
                head = f"{method} /{c.scratch}/outer {version}\r\n{lines}{fields}\r\n\r\n".encode("latin-1")
                found = c.raw(head + chunk + inner, answers=2)
                assert len(found) == 1 and found[0].status == 400 and found[0].closing, f"{what} {method}: {found}"
                c.absent(c.scratch, key)
                c.absent(c.scratch, "outer")


@test
def class_20_chunks_without_one_border_end_the_connection(c):
    for number, coded in enumerate((b"0\r\nA: b\r\n\r\n", b"0;a=b\r\n\r\n", b"0\n\n", b"0 \r\n\r\n", b"-0\r\n\r\n", b"00x\r\n\r\n", b"5\r\nhello0\r\n\r\n", b"5\r\nhelloXX0\r\n\r\n", b"10000000000000000\r\n", b"fffffffffffffffff\r\n", b"\r\n0\r\n\r\n", b"0\r\n\n", b"0\r\r\n\r\n")):
        key = f"chunks-{number}"
        for kind, trailer in ((FREE, b""), (UNSIGNED, b"")):
            request = Request("PUT", f"/{c.scratch}/outer", (), [("transfer-encoding", "chunked")])
            if kind == FREE:
                request.set("content-encoding", "aws-chunked").set("x-amz-decoded-content-length", "0").set("x-amz-trailer", "x-amz-checksum-crc32")
            request.sign(ALICE, c.host, payload=kind)
            found = c.raw(request.wire() + coded + smuggled(c, key), answers=2)
            assert len(found) <= 1 and all(answer.status >= 400 and answer.closing for answer in found), f"{coded}: {found}"
            c.absent(c.scratch, key)
            c.absent(c.scratch, "outer")


@test
def class_20_what_follows_a_refused_head_is_its_body(c):
    for number, method in enumerate(("PUT", "POST", "GET", "DELETE", "HEAD")):
        for expects in (False, True):
            key = f"early-{number}-{expects}"
            inner = smuggled(c, key)
            request = Request(method, f"/{c.scratch}/outer", (), [("content-length", str(len(inner)))])
            if expects:
                request.add("expect", "100-continue")
            flip(request.sign(ALICE, c.host, payload=UNSIGNED))
            last = Request("GET", f"/{c.alice.bucket}/k").sign(ALICE, c.host).wire()
            connection = Connection(c.server.host, c.server.port, SECRETS.values(), timeout=10)
            connection.send(request.wire() + inner + last)
            answer = connection.answer(method)
            assert answer.status == 403, f"{answer}"
            try:
                assert connection.answer().body == b"object of alice"
                assert not answer.closing
            except ConnectionError:
                # Whoever waits to be told to go on may not: the border is in doubt.
                assert answer.closing, f"{method} {expects}"
            connection.close()
            c.absent(c.scratch, key)


@test
def class_20_bodies_of_reads_are_no_requests(c):
    for method, path, query in (("GET", f"/{c.alice.bucket}/k", []), ("HEAD", f"/{c.alice.bucket}/k", []), ("GET", f"/{c.alice.bucket}", [("list-type", "2")]), ("GET", "/minio/health/live", []), ("DELETE", f"/{c.scratch}/none", [])):
        key = f"inner-{method}"
        inner = smuggled(c, key)
        request = Request(method, path, query, (), inner).sign(ALICE, c.host)
        last = Request("GET", f"/{c.alice.bucket}/k/below").sign(ALICE, c.host).wire()
        connection = Connection(c.server.host, c.server.port, SECRETS.values(), timeout=10)
        connection.send(request.wire() + last)
        answer = connection.answer(method)
        assert answer.status in (200, 204, 400), f"{answer}"
        assert answer.closing or connection.answer().body == b"below, of alice"
        connection.close()
        c.absent(c.scratch, key)


@test
def class_20_answers_to_head_and_304_have_no_body(c):
    connection = Connection(c.server.host, c.server.port, SECRETS.values(), timeout=10)
    etag = c.world.get(ALICE, c.alice.bucket, "k").header("etag")
    requests = []
    for path in (f"/{c.alice.bucket}/k", f"/{c.alice.bucket}/none", "/no-such-bucket", f"/{c.bob.bucket}", f"/{c.bob.bucket}/k"):
        requests.append(("HEAD", Request("HEAD", path).sign(ALICE, c.host)))
        requests.append(("HEAD", Request("HEAD", path).set("host", c.host)))
        requests.append(("HEAD", flip(Request("HEAD", path).sign(ALICE, c.host))))
    requests.append(("GET", Request("GET", f"/{c.alice.bucket}/k", (), [("if-none-match", etag)]).sign(ALICE, c.host)))
    requests.append(("HEAD", Request("HEAD", f"/{c.alice.bucket}/k", (), [("range", "bytes=99-")]).sign(ALICE, c.host)))
    for method, request in requests:
        connection.send(request.wire() + Request("GET", f"/{c.alice.bucket}/k").sign(ALICE, c.host).wire())
        connection.answer(method)
        assert connection.answer().body == b"object of alice", request.target()
    connection.close()


@test
def class_20_expectations_are_the_one_that_is_known(c):
    for value in ("100-Continue, x", "200-ok", "", "100-continue\r\nExpect: 100-continue", "x-minio-extract"):
        request = Request("PUT", f"/{c.scratch}/expect", (), [("expect", value)], b"hello").sign(ALICE, c.host)
        found = c.raw(request.wire())
        assert [answer.status for answer in found] in ([400], [417]) and found[0].closing, f"{value!r}: {found}"
        c.absent(c.scratch, "expect")


@test
def class_20_targets_are_paths_of_this_host(c):
    for target in ("http://other/k", "//other/k", "k", "*", "http://", "ftp://h/k", "/k\tHTTP/1.1", "/k /k", "/\xff", "/k#f", "", "\\k", "/a\x00b", "?a"):
        data = f"GET {target} HTTP/1.1\r\nHost: {c.host}\r\n\r\n".encode("latin-1")
        found = c.raw(data + smuggled(c, "target"), answers=1)
        assert found and found[0].status in (400, 403), f"{target!r}: {found}"
    for line in ("GET / HTTP/2.0", "GET / HTTP/1.2", "GET / HTTP/0.9", "GET /", "PRI * HTTP/2.0", "G\0T / HTTP/1.1", "get / HTTP/1.1", " GET / HTTP/1.1", "GET / http/1.1", "GET  / HTTP/1.1"):
        found = c.raw(f"{line}\r\nHost: {c.host}\r\n\r\n".encode())
        assert found and found[0].status in (400, 403, 405) and (found[0].closing or found[0].status != 400), f"{line!r}: {found}"
