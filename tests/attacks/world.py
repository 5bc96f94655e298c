"""A server with three users, what they own, and whether it is still what it was."""

import hashlib
import itertools
import re
import time

from wire import Connection, Request, User, quote

# Recognisable wherever they come up.
SECRETS = {
    "root": "CANARYrootSECRET0123456789abcdef",
    "alice": "CANARYaliceSECRET0123456789abcde",
    "bob": "CANARYbobSECRET0123456789abcdefg",
}
ROOT = User("root", "ROOTACCESSKEY0000001", SECRETS["root"])
ALICE = User("alice", "ALICEACCESSKEY000001", SECRETS["alice"])
BOB = User("bob", "BOBACCESSKEY00000001", SECRETS["bob"])

CONFIG = "".join(
    f'[[user]]\nname = "{user.name}"\naccess_key = "{user.access_key}"\nsecret_key = "{user.secret_key}"\n'
    for user in (ALICE, BOB)
)
ENVIRONMENT = {"OSTRAKON_ACCESS_KEY": ROOT.access_key, "OSTRAKON_SECRET_KEY": ROOT.secret_key}


def canonical_id(name):
    return hashlib.sha256(f"ostrakon user {name}".encode()).hexdigest()


def escaped(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class Place:
    """What the requests of one case are about."""

    def __init__(self, bucket, key, upload=None, etag=None, source=None):
        self.bucket, self.key, self.upload, self.etag = bucket, key, upload, etag
        # bucket/key that is copied from
        self.source = source or f"{bucket}/{key}"

    def but(self, **changes):
        place = Place(self.bucket, self.key, self.upload, self.etag, self.source)
        for name, value in changes.items():
            setattr(place, name, value)
        return place


class World:
    def __init__(self, server, lists_uploads, tls=None):
        self.server = server
        self.host = f"{server.host}:{server.port}"
        self.lists_uploads = lists_uploads
        self.connection = Connection(server.host, server.port, SECRETS.values(), tls=tls)
        self.quiet = Connection(server.host, server.port, SECRETS.values(), tls=tls)
        self.watched = []
        self.numbers = itertools.count(1)

    # --- requests that are what they should be

    def ask(self, user, method, path, query=(), headers=(), body=b"", want=(200, 204)):
        request = Request(method, path, query, headers, body).sign(user, self.host)
        answer = self.quiet.ask(request)
        if want is not None and answer.status not in want:
            raise AssertionError(f"{user.name}: {method} {request.target()}: {answer}")
        return answer

    def bucket(self, user, name=None):
        name = name or f"{user.name}-{next(self.numbers)}"
        self.ask(user, "PUT", f"/{name}")
        return name

    def put(self, user, bucket, key, body, headers=()):
        self.ask(user, "PUT", f"/{bucket}/{quote(key)}", (), headers, body)

    def get(self, user, bucket, key, want=(200, 204)):
        return self.ask(user, "GET", f"/{bucket}/{quote(key)}", want=want)

    def begin(self, user, bucket, key, part=None):
        """An upload; with one part if `part` is given. Returns (id, the part's tag)."""
        answer = self.ask(user, "POST", f"/{bucket}/{quote(key)}", [("uploads", None)])
        upload = re.search(rb"<UploadId>([^<]+)</UploadId>", answer.body)[1].decode()
        etag = None
        if part is not None:
            query = [("partNumber", "1"), ("uploadId", upload)]
            answer = self.ask(user, "PUT", f"/{bucket}/{quote(key)}", query, (), part)
            etag = answer.header("etag")
        return upload, etag

    def place(self, user, bucket=None):
        """A bucket with objects and an upload in it, each of which an operation may be about."""
        bucket = bucket or self.bucket(user)
        tag = user.name.encode()
        self.put(user, bucket, "k", b"object of " + tag, [("x-amz-meta-of", user.name)])
        self.put(user, bucket, "k/below", b"below, of " + tag)
        upload, etag = self.begin(user, bucket, "k", b"part of " + tag)
        return Place(bucket, "k", upload, etag)

    # --- what there is

    def listed(self, bucket):
        """[(key, the rest of the entry)] of one bucket, for root."""
        found, token = [], None
        while True:
            query = [("list-type", "2"), ("max-keys", "1000")]
            if token:
                query.append(("continuation-token", quote(token, "")))
            body = self.ask(ROOT, "GET", f"/{bucket}", query).body
            for entry in re.findall(rb"<Contents>(.*?)</Contents>", body, re.S):
                key = re.search(rb"<Key>([^<]*)</Key>", entry)[1].decode()
                found.append((unescaped(key), entry))
            token = re.search(rb"<NextContinuationToken>([^<]*)<", body)
            if not token:
                return found
            token = token[1].decode()

    def watch(self, *places):
        """From now on `snapshot` is of all buckets' names and all that is in these places."""
        self.watched = []
        queries = [("/", [])]
        for place in places:
            path = f"/{place.bucket}"
            page = self.ask(ROOT, "GET", path, [("list-type", "2")]).body
            queries.append((path, [("list-type", "2")]))
            for key in re.findall(rb"<Key>([^<]*)</Key>", page):
                queries.append((f"{path}/{quote(unescaped(key.decode()))}", []))
            if self.lists_uploads:
                queries.append((path, [("uploads", None)]))
            queries.append((f"{path}/{quote(place.key)}", [("uploadId", place.upload)]))
        for path, query in queries:
            self.watched.append(Request("GET", path, query))
        self.signed_at = 0

    def snapshot(self):
        """Every bucket with its owner; of the places that are watched every object with its bytes
        and headers, every upload with its parts. In one burst, so that it can be taken often."""
        if time.monotonic() - self.signed_at > 300:
            requests = [request.copy().sign(ROOT, self.host) for request in self.watched]
            self.burst = b"".join(request.wire() for request in requests)
            self.signed_at = time.monotonic()
        for attempt in range(3):
            # The server may have closed while nothing was asked.
            try:
                self.quiet.send(self.burst)
                answers = [self.quiet.answer() for _ in self.watched]
                break
            except (OSError, ConnectionError):
                self.quiet.close()
                if attempt == 2:
                    raise
        found = {}
        for request, answer in zip(self.watched, answers):
            fields = [field for field in answer.fields if field[0] not in VOLATILE]
            body = re.sub(rb"<RequestId>.*", b"", answer.body) if answer.status != 200 else answer.body
            found[request.target()] = (answer.status, body, fields)
        return found


VOLATILE = ("date", "x-amz-request-id", "x-amz-id-2")


def unescaped(text):
    text = re.sub(r"&#x([0-9a-fA-F]+);", lambda m: chr(int(m[1], 16)), text)
    for entity, char in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&apos;", "'"), ("&amp;", "&")):
        text = text.replace(entity, char)
    return text


def difference(before, after):
    for name in before.keys() | after.keys():
        if before.get(name) != after.get(name):
            return f"{name}: {str(before.get(name))[:600]} became {str(after.get(name))[:600]}"
    return None


class Tally:
    """Cases: each has a name, and passes or fails."""

    def __init__(self, quiet=False):
        self.quiet = quiet
        self.passed, self.failed = 0, []

    def check(self, name, error):
        if error is None:
            self.passed += 1
        else:
            self.failed.append(name)
            if not self.quiet and len(self.failed) <= 100:
                print(f"FAILED {name}: {error}", flush=True)
