"""Every served operation against every way in which a request can be somebody else's.

    operation x {anonymous, another user, owner}
              x {source, destination, upload id of another bucket or key}
              x {each fault of a signature}

Operations come from src/s3/route.rs, their headers from tests/s3-model/operations.tsv. An operation
without a row in ROWS fails. What the owner may do is asked for too, in a place of its own: a denial
says something only about a request that would have been carried out.
"""

import base64
import datetime
import hashlib

import routes
from wire import EMPTY, REGION, Broken, Request, now, quote
from world import ALICE, BOB, ROOT, Tally, canonical_id, difference, escaped

XML = [("content-type", "application/xml")]
DENIED = {(403, "AccessDenied")}
MISMATCH = {(403, "SignatureDoesNotMatch")}
MALFORMED = {(400, "AuthorizationHeaderMalformed")}
QUERY = {(400, "AuthorizationQueryParametersError")}


def path_of(place):
    return f"/{place.bucket}/{quote(place.key)}"


# --- one function an operation, or a generic one: the request as its owner would send it


def on_service(place, route):
    return Request(route.method, "/", required(route))


def on_bucket(place, route):
    return Request(route.method, f"/{place.bucket}", required(route))


def on_object(place, route):
    return Request(route.method, path_of(place), required(route))


def required(route):
    return [(name, value or ("x" if name in ("id", "annotationName") else None)) for name, value in route.requires]


def put_object(place, route):
    headers = [("x-amz-meta-of", "an attacker"), ("content-type", "text/html"), ("x-amz-acl", "private")]
    return Request("PUT", path_of(place), (), headers, b"written by an attacker")


def copy_object(place, route):
    headers = [("x-amz-copy-source", f"/{place.source}"), ("x-amz-metadata-directive", "REPLACE")]
    return Request("PUT", path_of(place), (), headers)


def of_upload(place, route):
    return Request(route.method, path_of(place), [("uploadId", place.upload)])


def part_of(place):
    return [("partNumber", "1"), ("uploadId", place.upload)]


def upload_part(place, route):
    return Request("PUT", path_of(place), part_of(place), (), b"a part by an attacker")


def upload_part_copy(place, route):
    headers = [("x-amz-copy-source", place.source)]
    return Request("PUT", path_of(place), part_of(place), headers)


def complete(place, route):
    body = (
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber>"
        f"<ETag>{escaped(place.etag)}</ETag></Part></CompleteMultipartUpload>"
    ).encode()
    return Request("POST", path_of(place), [("uploadId", place.upload)], XML, body)


def attributes(place, route):
    headers = [("x-amz-object-attributes", "ETag,ObjectSize,Checksum,ObjectParts")]
    return Request("GET", path_of(place), [("attributes", None)], headers)


def delete_objects(place, route):
    body = f"<Delete><Object><Key>{escaped(place.key)}</Key></Object></Delete>".encode()
    digest = base64.b64encode(hashlib.md5(body).digest()).decode()
    headers = XML + [("content-md5", digest)]
    return Request("POST", f"/{place.bucket}", [("delete", None)], headers, body)


def put_acl(place, route):
    path = f"/{place.bucket}" if route.on == "Bucket" else path_of(place)
    return Request("PUT", path, [("acl", None)], [("x-amz-acl", "private")])


class Row:
    def __init__(self, build, owner, other=None):
        self.build = build
        # What the owner is answered: proof that the request got as far as the operation.
        self.owner = owner
        # What another user is answered on this user's bucket.
        self.other = other or DENIED


def ok(build, status=200):
    return Row(build, {(status, "")})


def unset(code, build=on_bucket, status=404):
    return Row(build, {(status, code)})


ROWS = {
    # A user sees none but her own; test `listings` looks.
    "ListBuckets": Row(on_service, {(200, "")}, {(200, "")}),
    "CreateBucket": Row(on_bucket, {(200, "")}, {(409, "BucketAlreadyExists")}),
    "HeadBucket": ok(on_bucket),
    # It has objects in it.
    "DeleteBucket": unset("BucketNotEmpty", status=409),
    "GetBucketLocation": ok(on_bucket),
    "ListObjects": ok(on_bucket),
    "ListObjectsV2": ok(on_bucket),
    "ListObjectVersions": ok(on_bucket),
    "ListMultipartUploads": ok(on_bucket),
    "DeleteObjects": ok(delete_objects),
    "PutObject": ok(put_object),
    "GetObject": ok(on_object),
    "HeadObject": ok(on_object),
    "DeleteObject": ok(on_object, 204),
    "CopyObject": ok(copy_object),
    "GetObjectAttributes": ok(attributes),
    "CreateMultipartUpload": ok(on_object),
    "UploadPart": ok(upload_part),
    "UploadPartCopy": ok(upload_part_copy),
    "ListParts": ok(of_upload),
    "CompleteMultipartUpload": ok(complete),
    "AbortMultipartUpload": ok(of_upload, 204),
    # Configuration that was never set.
    "GetBucketAbac": ok(on_bucket),
    "GetBucketAccelerateConfiguration": ok(on_bucket),
    "GetBucketAcl": ok(on_bucket),
    "PutBucketAcl": ok(put_acl),
    "GetBucketAnalyticsConfiguration": unset("NoSuchConfiguration"),
    "DeleteBucketAnalyticsConfiguration": unset("NoSuchConfiguration"),
    "ListBucketAnalyticsConfigurations": ok(on_bucket),
    "GetBucketCors": unset("NoSuchCORSConfiguration"),
    "DeleteBucketCors": ok(on_bucket, 204),
    "GetBucketEncryption": unset("ServerSideEncryptionConfigurationNotFoundError"),
    "DeleteBucketEncryption": ok(on_bucket, 204),
    "GetBucketIntelligentTieringConfiguration": unset("NoSuchConfiguration"),
    "DeleteBucketIntelligentTieringConfiguration": unset("NoSuchConfiguration"),
    "ListBucketIntelligentTieringConfigurations": ok(on_bucket),
    "GetBucketInventoryConfiguration": unset("NoSuchConfiguration"),
    "DeleteBucketInventoryConfiguration": unset("NoSuchConfiguration"),
    "ListBucketInventoryConfigurations": ok(on_bucket),
    "GetBucketLifecycleConfiguration": unset("NoSuchLifecycleConfiguration"),
    "DeleteBucketLifecycle": ok(on_bucket, 204),
    "GetBucketLogging": ok(on_bucket),
    "GetBucketMetricsConfiguration": unset("NoSuchConfiguration"),
    "DeleteBucketMetricsConfiguration": unset("NoSuchConfiguration"),
    "ListBucketMetricsConfigurations": ok(on_bucket),
    "GetBucketNotificationConfiguration": ok(on_bucket),
    "GetBucketOwnershipControls": ok(on_bucket),
    "GetBucketPolicy": unset("NoSuchBucketPolicy"),
    "DeleteBucketPolicy": ok(on_bucket, 204),
    "GetBucketPolicyStatus": unset("NoSuchBucketPolicy"),
    "GetBucketReplication": unset("ReplicationConfigurationNotFoundError"),
    "DeleteBucketReplication": ok(on_bucket, 204),
    "GetBucketRequestPayment": ok(on_bucket),
    "GetBucketTagging": unset("NoSuchTagSet"),
    "DeleteBucketTagging": ok(on_bucket, 204),
    "GetBucketVersioning": ok(on_bucket),
    "GetBucketWebsite": unset("NoSuchWebsiteConfiguration"),
    "DeleteBucketWebsite": ok(on_bucket, 204),
    "GetObjectLockConfiguration": unset("ObjectLockConfigurationNotFoundError"),
    "GetPublicAccessBlock": unset("NoSuchPublicAccessBlockConfiguration"),
    "DeletePublicAccessBlock": ok(on_bucket, 204),
    "GetObjectAcl": ok(on_object),
    "PutObjectAcl": ok(put_acl),
    "GetObjectLegalHold": unset("InvalidRequest", on_object, 400),
    "GetObjectRetention": unset("InvalidRequest", on_object, 400),
    "GetObjectTagging": ok(on_object),
    "DeleteObjectTagging": ok(on_object, 204),
}

# Of what these operations are about nothing is left.
USED_UP = {"DeleteObject", "DeleteObjects", "CompleteMultipartUpload", "AbortMultipartUpload"}

METHODS = ["GET", "HEAD", "PUT", "POST", "DELETE"]


class Matrix:
    def __init__(self, world, tally, only=None):
        self.world, self.tally, self.only = world, tally, only
        self.host = world.host
        self.routes = routes.routes()
        self.model = routes.model()
        self.alice = world.place(ALICE)
        self.alice_too = world.place(ALICE)
        self.bob = world.place(BOB)
        # Not watched: here requests succeed.
        self.positive = world.place(ALICE)
        world.watch(self.alice, self.alice_too, self.bob)
        self.before = world.snapshot()

    def case(self, name, data, method, want, writes):
        """`data` is sent, `want` is answered, and nothing has changed."""
        error = None
        try:
            answer = self.world.connection.exchange(data, method)
            # Answers to HEAD have no document.
            codes = want if method != "HEAD" else {(status, "") for status, _ in want}
            if (answer.status, answer.code) not in codes:
                error = f"answered {answer}, wanted {sorted(want)}\n{data[:1500]!r}"
        except (Broken, OSError) as broken:
            error = repr(broken)
        if writes:
            error = self.changed(error)
        self.tally.check(name, error)

    def changed(self, error):
        after = self.world.snapshot()
        change = difference(self.before, after)
        if change:
            error = f"{error or ''} storage has changed: {change}"
            self.before = after
        return error

    def notices(self):
        """That a denial which is none is noticed: by the answer, and by what is stored."""
        tally, self.tally = self.tally, Tally(quiet=True)
        wire = put_object(self.alice.but(key="noticed"), None).sign(ALICE, self.host).wire()
        self.case("not denied", wire, "PUT", {(200, "")}, True)
        by_storage = len(self.tally.failed)
        self.world.ask(ALICE, "DELETE", f"/{self.alice.bucket}/noticed")
        wire = put_object(self.alice.but(key="k/below"), None).sign(ALICE, self.host).wire()
        self.case("not denied", wire, "PUT", DENIED, False)
        by_answer = len(self.tally.failed) - by_storage
        self.tally = tally
        self.before = self.world.snapshot()
        found = (by_storage, by_answer)
        tally.check("what is not denied is noticed", None if found == (1, 1) else f"{found}")

    def run(self):
        self.notices()
        rows = {route.operation for route in self.routes if route.served}
        for operation in sorted(rows - ROWS.keys()):
            self.tally.check(f"{operation} has a row in tests/attacks/matrix.py", "it has none")
        for operation in sorted(ROWS.keys() - self.model.keys()):
            self.tally.check(f"{operation} is in the model", "it is not")
        for route in self.routes:
            if self.only and self.only not in (route.operation or route.name):
                continue
            if not route.served:
                self.refused(route)
            elif route.operation in ROWS:
                self.operation(route, ROWS[route.operation])
                # A read that changed something is a finding as well.
                self.tally.check(f"{route.operation}: nothing has changed", self.changed(None))

    # --- the axes

    def operation(self, route, row):
        name = route.operation
        writes = route.method not in ("GET", "HEAD")
        build = lambda place=None: row.build(place or self.alice, route)

        def case(what, request, want, method=None):
            self.case(f"{name}: {what}", request.wire(), method or request.method, want, writes)

        # Principals.
        case("anonymous", build().set("host", self.host), DENIED)
        if name == "ListBuckets":
            self.listings(build())
        else:
            case("another user", build().sign(BOB, self.host), row.other)
            case("another user, presigned", build().presign(BOB, self.host), row.other)
        for presigned in (False, True):
            # What is used up must be new each time.
            place = self.world.place(ALICE) if name in USED_UP else self.positive
            request = build(place)
            request = request.presign(ALICE, self.host) if presigned else request.sign(ALICE, self.host)
            what = f"{name}: its owner{', presigned' if presigned else ''}"
            self.case(what, request.wire(), request.method, row.owner, False)
        if writes:
            self.before = self.world.snapshot()

        # Sources, destinations, upload ids.
        if route.copy:
            self.sources(name, route, row)
        if any(key == "uploadId" for key, _ in build().query):
            self.uploads(name, route, row)

        # Signatures.
        for what, request, want in signature_faults(build, self.host, self.alice_too):
            case(what, request, want)
        for what, request, want in presigned_faults(build, self.host, self.alice_too):
            case(what, request, want)
        self.unsigned_headers(name, route, build, case)
        if route.on != "Service" and name != "CreateBucket":
            request = build().set("x-amz-expected-bucket-owner", canonical_id("bob"))
            case("another owner is expected", request.sign(ALICE, self.host), DENIED)

    def listings(self, request):
        """ListBuckets answers everybody, with their own."""
        for user, theirs in ((ALICE, self.alice), (BOB, self.bob)):
            answer = self.world.connection.ask(request.copy().sign(user, self.host))
            others = [place.bucket for place in (self.alice, self.bob) if place is not theirs]
            wrong = [bucket for bucket in others if bucket.encode() in answer.body]
            error = f"{user.name} sees {wrong}" if wrong else None
            if theirs.bucket.encode() not in answer.body:
                error = f"{user.name} does not see {theirs.bucket}"
            self.tally.check(f"ListBuckets: {user.name} sees none but her own", error)

    def sources(self, name, route, row):
        victim = f"{self.alice.bucket}/{self.alice.key}"
        forms = {
            "a bucket of another user": victim,
            "with a leading slash": f"/{victim}",
            "all of it escaped": quote(victim, ""),
            "its letters escaped": "".join(f"%{ord(char):02X}" for char in victim),
            "with version null": f"{victim}?versionId=null",
            "with another version": f"{victim}?versionId=3sL4kqtJlcpXroDTDmJ",
            "behind dots": f"{self.bob.bucket}/../{victim}",
            "behind escaped dots": f"{self.bob.bucket}/%2E%2E/{victim}",
            "with two slashes": f"//{victim}",
        }
        # Only the first may say that it is there: the last three name objects that are not.
        others = {(404, "NoSuchKey"), (400, "InvalidArgument"), (400, "InvalidBucketName")}
        for what, source in forms.items():
            for presigned in (False, True):
                place = self.bob.but(source=source)
                request = row.build(place, route).set("x-amz-copy-source", source)
                sign = request.presign if presigned else request.sign
                sign(BOB, self.host)
                want = DENIED if "dots" not in what and "two" not in what else others
                how = ", presigned" if presigned else ""
                self.case(f"{name}: source {what}{how}", request.wire(), "PUT", want, True)
        place = self.alice.but(source=f"{self.bob.bucket}/{self.bob.key}")
        request = row.build(place, route).sign(BOB, self.host)
        self.case(f"{name}: destination of another user", request.wire(), "PUT", DENIED, True)
        request = row.build(self.alice.but(source=victim), route).sign(BOB, self.host)
        self.case(f"{name}: source and destination of another user", request.wire(), "PUT", DENIED, True)
        request = row.build(self.alice_too.but(source=victim), route)
        request.set("x-amz-source-expected-bucket-owner", canonical_id("bob")).sign(ALICE, self.host)
        self.case(f"{name}: another owner of the source is expected", request.wire(), "PUT", DENIED, True)

    def uploads(self, name, route, row):
        gone = {(404, "NoSuchUpload")}
        mine, theirs = self.bob, self.alice
        hostile = f"../{theirs.bucket}/{theirs.upload}"
        cases = [
            ("upload id of another user, own bucket", BOB, mine.but(upload=theirs.upload, etag=theirs.etag), gone),
            ("upload id of another user, own bucket and key", BOB, mine.but(upload=theirs.upload, key="k", etag=theirs.etag), gone),
            ("own upload id, bucket of another user", BOB, theirs.but(upload=mine.upload, etag=mine.etag), DENIED),
            ("upload id of another key", ALICE, theirs.but(key="k/below"), gone),
            ("upload id of a key that is not", ALICE, theirs.but(key="K"), gone),
            ("upload id of another bucket", ALICE, theirs.but(upload=self.alice_too.upload, etag=self.alice_too.etag), gone),
            ("root, upload id of another bucket", ROOT, mine.but(upload=theirs.upload, etag=theirs.etag), gone),
        ]
        for what in ("", "null", "0", theirs.upload[:-1], theirs.upload + "0", quote(hostile, ""), "%00", "a" * 2000):
            cases.append((f"upload id {what[:40]!r}", ALICE, theirs.but(upload=what), gone))
        # The case of its letters is part of an id, if it has any.
        if theirs.upload.swapcase() != theirs.upload:
            swapped = theirs.but(upload=theirs.upload.swapcase())
            cases.append(("upload id in another case", ALICE, swapped, gone))
        for what, user, place, want in cases:
            if route.copy:
                place = place.but(source=f"{mine.bucket}/{mine.key}" if user is BOB else f"{theirs.bucket}/k")
            for presigned in (False, True):
                request = row.build(place, route)
                sign = request.presign if presigned else request.sign
                sign(user, self.host)
                how = ", presigned" if presigned else ""
                self.case(f"{name}: {what}{how}", request.wire(), request.method, want, True)

    def unsigned_headers(self, name, route, build, case):
        """Each header that the request has, left out of the signature; and each one that the model
        has for the operation, put in unsigned."""
        carried = [n for n, _ in build().sign(ALICE, self.host).headers if n.startswith("x-amz-")]
        for header in carried + ["host"]:
            request = build().sign(ALICE, self.host, leave=[header])
            case(f"{header} is not signed", request, DENIED)
        for header in [n for n, _ in build().headers if n.startswith("x-amz-")] + ["host"]:
            request = build().presign(ALICE, self.host, leave=[header])
            case(f"{header} is not signed, presigned", request, DENIED)
        known = {header.lower() for header in self.model[route.name].headers}
        known |= {"x-amz-copy-source", "x-amz-acl", "x-amz-security-token", "x-amz-never-heard-of"}
        for header in sorted(header for header in known if header.startswith("x-amz-")):
            if header.endswith("-"):
                header += "evil"
            if header in carried:
                continue
            value = {
                "x-amz-copy-source": f"/{self.bob.bucket}/{self.bob.key}",
                "x-amz-acl": "public-read-write",
                "x-amz-expected-bucket-owner": canonical_id("alice"),
            }.get(header, "1")
            want = {(400, "InvalidToken")} if header == "x-amz-security-token" else DENIED
            case(f"{header} is added", build().sign(ALICE, self.host).add(header, value), want)
            case(f"{header} is added, presigned", build().presign(ALICE, self.host).add(header, value), want)
            request = build().presign(ALICE, self.host)
            request.query.append((header, quote(value, "")))
            want = want if header == "x-amz-security-token" else MISMATCH
            if header == "x-amz-security-token":
                # Parameters are told apart by their case; this one is not the token's.
                want = MISMATCH
            case(f"{header} is added to the query, presigned", request, want)

    def refused(self, route):
        """What is not served: 501 for the owner, 403 for everybody else, and never another
        operation in its place."""
        build = {"Service": on_service, "Bucket": on_bucket, "Object": on_object}[route.on]
        writes = route.method not in ("GET", "HEAD")
        body = b"<Configuration><Status>Enabled</Status></Configuration>" if route.method in ("PUT", "POST") else b""

        def case(what, request, want):
            name = f"{route.name} (not served): {what}"
            self.case(name, request.wire(), route.method, want, writes)

        request = build(self.alice, route)
        request.body = body
        case("anonymous", request.copy().set("host", self.host), DENIED)
        case("owner", request.copy().sign(ALICE, self.host), {(501, "NotImplemented")})
        case("presigned", request.copy().presign(ALICE, self.host), {(501, "NotImplemented")})
        case("forged", flip(request.copy().sign(ALICE, self.host)), MISMATCH)
        # Nothing is there that could be another's; what counts is that nothing happens.
        case("another user", request.copy().sign(BOB, self.host), DENIED | {(501, "NotImplemented")})


def flip(request, at=-1):
    """Another last digit in the signature."""
    value = request.header("authorization")
    digit = "0" if value[at] != "0" else "1"
    return request.set("authorization", value[:at] + digit + (value[at + 1 :] if at != -1 else ""))


class Forged:
    """A user's name with another's secret."""

    def __init__(self, access_key, secret_key):
        self.access_key, self.secret_key = access_key, secret_key


def signature_faults(build, host, other):
    """(what, request, answers) for requests that are signed in the header by their owner."""
    sign = lambda **more: build().sign(ALICE, host, **more)
    minutes = lambda count: now() + datetime.timedelta(minutes=count)

    yield "signature forged", flip(sign()), MISMATCH
    forged = sign()
    value = forged.header("authorization")
    yield "signature of zeros", sign().set("authorization", value[:-64] + "0" * 64), MISMATCH
    yield "signature cut", sign().set("authorization", value[:-1]), MISMATCH
    yield "signature empty", sign().set("authorization", value[:-64]), MISMATCH
    yield "signature in capitals", sign().set("authorization", value[:-64] + "F" + forged.signature[1:].upper()), MISMATCH
    yield "signature twice", sign().set("authorization", f"{value}, Signature={'0' * 64}"), MALFORMED
    yield "secret of another user", build().sign(Forged(ALICE.access_key, BOB.secret_key), host), MISMATCH
    yield "empty secret", build().sign(Forged(ALICE.access_key, ""), host), MISMATCH
    yield "name of another user", build().sign(Forged(BOB.access_key, ALICE.secret_key), host), MISMATCH
    yield "name of root", build().sign(Forged(ROOT.access_key, ALICE.secret_key), host), MISMATCH
    yield "unknown name", build().sign(Forged("NOBODYNOBODYNOBODY00", ALICE.secret_key), host), {(403, "InvalidAccessKeyId")}
    yield "user name in place of access key", build().sign(Forged("alice", ALICE.secret_key), host), {(403, "InvalidAccessKeyId")}
    kinds = {(400, "InvalidRequest"), (400, "InvalidArgument"), (403, "AccessDenied")} | MALFORMED
    for scheme in ("", "Basic YWxpY2U6eA==", "Bearer x", "AWS ALICEACCESSKEY000001:eA==", "AWS4-HMAC-SHA256", "AWS4-HMAC-SHA256 ", value.replace("AWS4-HMAC-SHA256", "aws4-hmac-sha256"), value.replace("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256")):
        yield f"authorization {scheme[:24]!r}", sign().set("authorization", scheme), kinds
    twice = {(400, "InvalidRequest")}
    yield "authorization twice, the same", (lambda r: r.add("authorization", r.header("authorization")))(sign()), twice
    yield "authorization twice, forged behind", (lambda r: r.add("authorization", flip(sign()).header("authorization")))(sign()), twice
    yield "authorization twice, forged before", (lambda r: r.add("authorization", sign().header("authorization")))(flip(sign())), twice
    yield "authorization twice, of two users", (lambda r: r.add("authorization", build().sign(BOB, host).header("authorization")))(sign()), twice
    both = sign()
    both.query = build().presign(ALICE, host).query
    yield "authorization in header and query", both, {(400, "InvalidArgument")}
    yield "20 minutes old", sign(at=minutes(-20)), {(403, "RequestTimeTooSkewed")}
    yield "20 minutes ahead", sign(at=minutes(20)), {(403, "RequestTimeTooSkewed")}
    yield "signed for yesterday", sign(day=minutes(-1440).strftime("%Y%m%d")), MALFORMED
    yield "date changed", (lambda r: r.set("x-amz-date", minutes(1).strftime("%Y%m%dT%H%M%SZ")))(sign()), MISMATCH | MALFORMED
    yield "date twice", (lambda r: r.add("x-amz-date", r.header("x-amz-date")))(sign()), twice
    yield "no date", sign().set("x-amz-date", None), {(403, "AccessDenied")}
    for region in ("us-east-2", "", "US-EAST-1"):
        yield f"region {region!r}", sign(region=region), MALFORMED
    for service in ("s3express", "iam", "", "S3"):
        yield f"service {service!r}", sign(service=service), MALFORMED
    yield "terminator", sign(terminator="aws4_reques"), MALFORMED
    yield "no hash of the payload", sign().set("x-amz-content-sha256", None), twice | DENIED
    yield "hash of the payload twice", (lambda r: r.add("x-amz-content-sha256", r.header("x-amz-content-sha256")))(sign()), twice
    yield "hash of the payload changed to unsigned", sign().set("x-amz-content-sha256", "UNSIGNED-PAYLOAD"), MISMATCH
    for kind in ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER"):
        yield f"hash of the payload changed to {kind}", sign().set("x-amz-content-sha256", kind), MISMATCH
    for kind in ("STREAMING-UNSIGNED-PAYLOAD", "unsigned-payload", "x", "", EMPTY[:-1], EMPTY + "0", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"):
        yield f"payload of a kind that is not, {kind[:28]!r}", sign(payload=kind or "%20"), {(400, "InvalidArgument"), (501, "NotImplemented"), (400, "InvalidRequest")}
    yield "another host", sign().set("host", "elsewhere.example.org"), MISMATCH
    yield "host with another port", sign().set("host", host.rsplit(":", 1)[0] + ":1"), MISMATCH

    # The request changed behind its signature.
    yield "query added", (lambda r: (r.query.append(("x-id", "PutObject")), r)[1])(sign()), MISMATCH
    yield "flag added to the query", (lambda r: (r.query.append(("acl", None)), r)[1])(sign()), MISMATCH
    for index, (name, value_) in enumerate(build().query):
        dropped = sign()
        del dropped.query[index]
        yield f"{name} dropped from the query", dropped, MISMATCH
        changed = sign()
        changed.query[index] = (name, (value_ or "") + "1")
        yield f"{name} changed in the query", changed, MISMATCH
        doubled = sign()
        doubled.query.insert(index, (name, value_))
        yield f"{name} twice in the query", doubled, MISMATCH
        spelled = sign()
        spelled.query[index] = (name.swapcase(), value_)
        yield f"{name} in another case", spelled, MISMATCH
    for what, path in changed_paths(build().path, other):
        changed = sign()
        changed.path = path
        yield f"path changed to {what}", changed, MISMATCH
    for method in METHODS:
        if method != build().method:
            yield f"signed for {method}", sign(method=method), MISMATCH
    for index, (name, _) in enumerate(sign().headers):
        if name.startswith("x-amz-") and name not in ("x-amz-date", "x-amz-content-sha256"):
            changed = sign()
            changed.headers[index] = (name, changed.headers[index][1] + "x")
            yield f"{name} changed", changed, MISMATCH
            yield f"{name} added again", sign().add(name, "another"), MISMATCH | twice

    # The body changed behind its hash.
    body = sign()
    body.body = body.body + b"x" if body.body else b"a body that was not signed"
    yield "body longer than signed", body, {(400, "XAmzContentSHA256Mismatch"), (400, "BadDigest"), (400, "MaxMessageLengthExceeded"), (400, "UnexpectedContent")}
    if build().body:
        body = sign()
        body.body = bytes([body.body[0] ^ 1]) + body.body[1:]
        yield "body changed", body, {(400, "XAmzContentSHA256Mismatch"), (400, "BadDigest")}
        body = sign()
        body.body = b""
        yield "body dropped", body, {(400, "XAmzContentSHA256Mismatch"), (400, "BadDigest"), (400, "MissingContentLength"), (400, "MalformedXML")}


def changed_paths(path, other):
    parts = path.split("/")
    if path == "/":
        return [("a bucket", f"/{other.bucket}")]
    found = [
        ("another bucket", "/" + "/".join([other.bucket] + parts[2:])),
        ("a longer one", path + "x"),
        ("two slashes", path.replace("/", "//", 1)),
        ("an escaped letter", path[:-1] + f"%{ord(path[-1]):02X}"),
        ("dots", path + "/../" + parts[-1]),
    ]
    if len(parts) > 2:
        found.append(("the bucket", "/" + parts[1]))
        found.append(("the service", "/"))
    else:
        found.append(("an object", path + "/k"))
    return found


def presigned_faults(build, host, other):
    sign = lambda **more: build().presign(ALICE, host, **more)
    minutes = lambda count: now() + datetime.timedelta(minutes=count)

    def with_parameter(name, value, request=None):
        request = request or sign()
        request.query = [(n, value if n == name else v) for n, v in request.query if n != name or value is not None]
        return request

    signature = sign().signature
    digit = "0" if signature[-1] != "0" else "1"
    yield "presigned, forged", with_parameter("X-Amz-Signature", signature[:-1] + digit), MISMATCH
    yield "presigned, signature empty", with_parameter("X-Amz-Signature", ""), MISMATCH
    yield "presigned, secret of another user", build().presign(Forged(ALICE.access_key, BOB.secret_key), host), MISMATCH
    yield "presigned, unknown name", build().presign(Forged("NOBODYNOBODYNOBODY00", "x" * 40), host), {(403, "InvalidAccessKeyId")}
    yield "presigned, expired", sign(at=minutes(-10), expires=60), {(403, "AccessDenied")}
    yield "presigned, expired long ago", sign(at=minutes(-60 * 24 * 8), expires=604800), {(403, "AccessDenied")}
    yield "presigned, not valid yet", sign(at=minutes(20)), {(403, "AccessDenied")}
    yield "presigned, for longer than a week", sign(expires=604801), QUERY
    for expires in ("-1", "1e9", "", "0x10", "%2B60", "99999999999999999999"):
        yield f"presigned, expires {expires!r}", sign(expires=expires), QUERY
    yield "presigned, longer than signed", with_parameter("X-Amz-Expires", "7200"), MISMATCH
    for name in ("Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature"):
        name = f"X-Amz-{name}"
        yield f"presigned, no {name}", with_parameter(name, None), QUERY | DENIED
        doubled = sign()
        doubled.query.append(next(pair for pair in doubled.query if pair[0] == name))
        yield f"presigned, {name} twice", doubled, QUERY | {(400, "InvalidArgument")}
    yield "presigned, another algorithm", with_parameter("X-Amz-Algorithm", "AWS4-HMAC-SHA1"), QUERY
    yield "presigned, nothing signed", with_parameter("X-Amz-SignedHeaders", ""), DENIED | MISMATCH
    yield "presigned, region", sign(region="us-east-2"), QUERY
    yield "presigned, service", sign(service="sts"), QUERY
    for method in METHODS:
        if method != build().method:
            yield f"presigned for {method}", sign(method=method), MISMATCH
    for what, path in changed_paths(build().path, other):
        changed = sign()
        changed.path = path
        yield f"presigned, path changed to {what}", changed, MISMATCH
    for added in ("versionId", "response-content-type", "x-id", "acl", "uploads", "X-Amz-Content-Sha256"):
        changed = sign()
        changed.query.append((added, "x"))
        yield f"presigned, {added} added", changed, MISMATCH | {(400, "InvalidArgument")}
    yield "presigned, another host", sign().set("host", "elsewhere.example.org"), MISMATCH
    token = sign()
    token.query.append(("X-Amz-Security-Token", "x"))
    yield "presigned, with a token", token, {(400, "InvalidToken")}
