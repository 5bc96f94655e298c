"""A load whose outcome is known: what was acknowledged, and what a crash left open.

Each worker owns its keys, so the history of a key is a sequence and every state of it is known:
the last acknowledged one, or, for the one operation that a crash cut off, that one or the next.
An answer 200 or 204 means durable. 4xx and 507 mean that nothing happened. After any other 5xx the
write may have happened or not, as after a cut-off one: a failed flush leaves that open.

Bytes are made from (key, version), so they need not be remembered. Every object also carries its
version as user metadata, and a listing has to show the right ETag and size.
"""

import hashlib
import http.client
import random
import threading

import s3_wire

KIB, MIB = 1024, 1024 * 1024
# (weight, smallest, largest): mostly small, some around the inline limit and the segment, few large.
SIZES = [
    (12, 0, 200),
    (60, 200, 8 * KIB),
    (12, 28 * KIB, 36 * KIB),
    (12, 60 * KIB, 200 * KIB),
    (4, MIB, 3 * MIB),
]
LOST = (OSError, http.client.HTTPException)


class Wrong(Exception):
    """The store broke a promise."""


class Version:
    """One state of a key: bytes and metadata."""

    __slots__ = ("key", "number", "size", "_etag")

    def __init__(self, key, number, size):
        self.key, self.number, self.size = key, number, size
        self._etag = None

    def body(self):
        # SHAKE gives bytes that no two versions share, at some hundred MB/s.
        return hashlib.shake_128(f"{self.key} {self.number}".encode()).digest(self.size)

    @property
    def etag(self):
        if self._etag is None:
            self._etag = hashlib.md5(self.body()).hexdigest()
        return self._etag

    def __repr__(self):
        return f"version {self.number} of {self.size} bytes"


class Key:
    """What is known of a key. `states` are the possible ones, None for absent; more than one only
    after a cut-off operation and until somebody looked."""

    __slots__ = ("bucket", "name", "states", "versions")

    def __init__(self, bucket, name):
        self.bucket, self.name = bucket, name
        self.states = [None]
        self.versions = 0

    def next_version(self, size):
        self.versions += 1
        return Version(f"{self.bucket}/{self.name}", self.versions, size)

    def settle(self, found, when, final=True):
        """`found` (a Version or None) was seen; it must be possible, and if `final` it is now
        certain. True if that tells of an operation without an answer that it had happened."""
        if found not in self.states:
            raise Wrong(
                f"{when}: {self.bucket}/{self.name}: found {found}, possible: {self.states}"
            )
        if not final:
            return False
        happened = len(self.states) > 1 and found is self.states[-1]
        self.states = [found]
        return happened


class Counts:
    NAMES = (
        "acknowledged", "refused", "cut_off", "verified", "verified_bytes", "listings", "happened",
    )  # fmt: skip

    def __init__(self):
        for name in self.NAMES:
            setattr(self, name, 0)

    def add(self, other):
        for name in self.NAMES:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Worker:
    """One client with its own keys and, apart from the shared bucket, a bucket of its own that it
    also makes and removes."""

    def __init__(self, number, seed, keys, shared_bucket, sizes=SIZES):
        self.number = number
        self.draw = random.Random(f"{seed} {number}")
        self.sizes = sizes
        self.shared = shared_bucket
        self.own = f"own-{number}"
        self.own_states = [False]  # possible: does the own bucket exist?
        self.prefix = f"w{number}/"
        names = [f"{self.prefix}{n % 7}/{n:03}" for n in range(keys)]
        self.keys = [Key(shared_bucket, name) for name in names]
        self.own_keys = [Key(self.own, f"k{n}") for n in range(4)]
        self.counts = Counts()
        self.client = None
        self.error = None
        # Set when the drive is made to fail under the server: then reads may answer 5xx.
        self.drive_fails = threading.Event()

    def connect(self, server):
        if self.client:
            self.client.close()
        self.client = s3_wire.Client.of(server)

    def size(self):
        weights = [weight for weight, _, _ in self.sizes]
        _, low, high = self.draw.choices(self.sizes, weights)[0]
        return self.draw.randint(low, high)

    # Each step leaves the model right whatever happens on the wire.

    def change(self, key, before, after, wanted, answer):
        """What the answer to a write says; `after` is already among the possible states."""
        if answer.status == wanted:
            key.states = [after]
            self.counts.acknowledged += 1
        elif answer.status == 507 and after is not None:
            key.states = before
            self.counts.refused += 1
        elif self.may_fail(answer.status):
            self.counts.cut_off += 1
        else:
            raise Wrong(f"write to {key.bucket}/{key.name}: {answer}")
        return answer.status

    def settle(self, key, found, when):
        # While the drive fails, a write whose flush failed is not visible, and may be in the log
        # all the same: only the next start decides.
        self.counts.happened += key.settle(found, when, final=not self.drive_fails.is_set())

    def may_fail(self, status):
        return status == 503 or (status >= 500 and self.drive_fails.is_set())

    def write(self, key, size=None):
        version = key.next_version(self.size() if size is None else size)
        before = key.states
        key.states = before + [version]
        headers = {"x-amz-meta-version": str(version.number)}
        answer = self.client.put(key.bucket, key.name, version.body(), headers)
        if answer.status == 200 and answer.headers.get("etag", "").strip('"') != version.etag:
            raise Wrong(f"ETag of {key.name} at its put: {answer.headers.get('etag')}")
        return self.change(key, before, version, 200, answer)

    def delete(self, key):
        before = key.states
        if None not in before:
            key.states = before + [None]
        answer = self.client.delete(key.bucket, key.name)
        # Never 507: a full drive can always be emptied.
        return self.change(key, before, None, 204, answer)

    def check(self, key, when, client=None):
        """GET, byte for byte; settles what was open."""
        answer = (client or self.client).get(key.bucket, key.name)
        if answer.status == 404 and answer.code == "NoSuchKey":
            self.settle(key, None, when)
        elif answer.status == 200:
            number = answer.headers.get("x-amz-meta-version")
            found = [v for v in key.states if v is not None and str(v.number) == number]
            if not found:
                raise Wrong(
                    f"{when}: {key.bucket}/{key.name}: found version {number}, possible: {key.states}"
                )
            if answer.body != found[0].body():
                raise Wrong(f"{when}: {key.bucket}/{key.name}: wrong bytes for {found[0]}")
            self.settle(key, found[0], when)
            self.counts.verified_bytes += len(answer.body)
        elif self.may_fail(answer.status):
            return False
        else:
            raise Wrong(f"{when}: get of {key.bucket}/{key.name}: {answer}")
        self.counts.verified += 1
        return True

    def check_listing(self, bucket, prefix, keys, when, client=None, page=1000):
        """The whole listing under a prefix against the model; settles what was open."""
        listed = (client or self.client).list_all(bucket, prefix, page=page)
        known = {key.name: key for key in keys}
        for name in listed.keys:
            if name not in known:
                raise Wrong(f"{when}: {bucket}/{name} is listed and was never put")
        for name, key in known.items():
            if name not in listed.objects:
                self.settle(key, None, f"{when}: listing")
                continue
            etag, size, _ = listed.objects[name]
            found = [
                v for v in key.states if v is not None and (v.size, v.etag) == (size, etag)
            ]
            if not found:
                raise Wrong(
                    f"{when}: {bucket}/{name} is listed with {size} bytes, ETag {etag}; "
                    f"possible: {key.states}"
                )
            # Two empty versions look the same in a listing.
            if len(found) == 1:
                self.settle(key, found[0], f"{when}: listing")
        self.counts.listings += 1

    def bucket_step(self):
        """Makes or removes the own bucket, or works in it."""
        if self.own_states == [False]:
            self.own_states = [False, True]
            answer = self.client.request("PUT", self.own)
            if answer.status == 200:
                self.own_states = [True]
                self.counts.acknowledged += 1
            elif not self.may_fail(answer.status):
                raise Wrong(f"making {self.own}: {answer}")
        elif len(self.own_states) > 1:
            self.settle_bucket("under load")
        elif self.draw.random() < 0.7:
            key = self.draw.choice(self.own_keys)
            self.delete(key) if self.draw.random() < 0.4 else self.write(key)
        else:
            empty = all(key.states == [None] for key in self.own_keys)
            open_ones = any(len(key.states) > 1 for key in self.own_keys)
            self.own_states = [False, True]
            answer = self.client.delete(self.own)
            if answer.status == 204:
                if not empty and not open_ones:
                    raise Wrong(f"{self.own} was removed and is not empty")
                self.own_states = [False]
                for key in self.own_keys:
                    key.states = [None]
                self.counts.acknowledged += 1
            elif answer.status == 409:
                if empty and answer.code == "BucketNotEmpty":
                    raise Wrong(f"{self.own} is empty and was not removed: {answer}")
                self.own_states = [True]
            elif not self.may_fail(answer.status):
                raise Wrong(f"removing {self.own}: {answer}")

    def settle_bucket(self, when):
        status = self.client.head(self.own).status
        if self.may_fail(status):
            return
        if status not in (200, 404):
            raise Wrong(f"{when}: head of bucket {self.own}: {status}")
        if (status == 200) not in self.own_states:
            raise Wrong(f"{when}: bucket {self.own}: {status}, possible: {self.own_states}")
        if self.drive_fails.is_set():
            return
        if status == 404 and len(self.own_states) > 1:
            # A removal that was cut off and happened: only an empty bucket can go.
            for key in self.own_keys:
                key.settle(None, f"{when}: bucket gone")
        self.own_states = [status == 200]

    def step(self):
        draw = self.draw.random()
        key = self.draw.choice(self.keys)
        if draw < 0.55:
            self.write(key)
        elif draw < 0.75:
            self.delete(key)
        elif draw < 0.90:
            self.check(key, "under load")
        elif draw < 0.95:
            page = self.draw.choice([3, 10, 1000])
            self.check_listing(self.shared, self.prefix, self.keys, "under load", page=page)
        else:
            self.bucket_step()

    def run(self, stop):
        """Works until told to stop or cut off."""
        try:
            while not stop.is_set():
                self.step()
        except LOST:
            self.counts.cut_off += 1
        except s3_wire.ListingFailed as error:
            status = getattr(error.args[0], "status", 200)
            if not self.may_fail(status):
                self.error = error
        except Exception as error:
            self.error = error

    def verify(self, when):
        """Everything of this worker, after a restart."""
        self.settle_bucket(when)
        self.check_listing(self.shared, self.prefix, self.keys, when)
        if self.own_states == [True]:
            self.check_listing(self.own, "", self.own_keys, when)
        for key in self.keys + (self.own_keys if self.own_states == [True] else []):
            if not self.check(key, when):
                raise Wrong(f"{when}: {key.bucket}/{key.name}: 503 with nothing else going on")


class Load:
    """Some workers, a thread each while they work."""

    def __init__(self, workers, keys, seed, bucket="shared", sizes=SIZES):
        self.bucket = bucket
        self.workers = [Worker(n, seed, keys, bucket, sizes) for n in range(workers)]
        self.threads = []
        self.stop = threading.Event()

    def prepare(self, server):
        client = s3_wire.Client.of(server)
        answer = client.request("PUT", self.bucket)
        if answer.status != 200 and answer.code != "BucketAlreadyOwnedByYou":
            raise Wrong(f"making {self.bucket}: {answer}")
        client.close()

    def begin(self, server):
        self.stop.clear()
        for worker in self.workers:
            worker.connect(server)
        self.threads = [
            threading.Thread(target=worker.run, args=[self.stop]) for worker in self.workers
        ]
        for thread in self.threads:
            thread.start()

    def end(self):
        """Call it with the server dead or alive; raises what a worker found wrong."""
        self.stop.set()
        for thread in self.threads:
            thread.join()
        self.threads = []
        self.raise_errors()

    def drive_fails(self, fails):
        for worker in self.workers:
            (worker.drive_fails.set if fails else worker.drive_fails.clear)()

    def raise_errors(self):
        errors = [worker.error for worker in self.workers if worker.error]
        if errors:
            raise errors[0]

    def verify(self, server, when):
        """Every key and every listing, all workers at once, then the bucket list."""

        def work(worker):
            try:
                worker.connect(server)
                worker.verify(when)
            except Exception as error:
                worker.error = error

        threads = [threading.Thread(target=work, args=[worker]) for worker in self.workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.raise_errors()
        client = s3_wire.Client.of(server)
        known = {key.name: key for worker in self.workers for key in worker.keys}
        self.workers[0].check_listing(
            self.bucket, "", known.values(), f"{when}: whole bucket", client, page=100
        )
        folders = client.list_all(self.bucket, delimiter="/").prefixes
        wanted = {
            key.name.split("/")[0] + "/" for key in known.values() if key.states[0] is not None
        }
        if set(folders) != wanted:
            raise Wrong(f"{when}: folders {folders}, wanted {sorted(wanted)}")
        client.close()

    def counts(self):
        total = Counts()
        for worker in self.workers:
            total.add(worker.counts)
        return total

    def summary(self):
        total = self.counts()
        return (
            f"{total.acknowledged} writes acknowledged, {total.refused} refused, "
            f"{total.cut_off} requests cut off ({total.happened} of the open writes had happened), "
            f"{total.verified} objects verified ({total.verified_bytes >> 20} MiB), "
            f"{total.listings} listings"
        )
