"""The index deleted between stop and start: the store returns from its segment files alone.

    python3 tests/crash/index_deleted.py [--rounds 4] [--seed N]

After each load the server is stopped (or killed), everything it answers is recorded, every
`volume-N/index` is removed, and everything must be answered as before: listings with ETag, size and
time, all headers of all objects, all bytes, and deleted objects still deleted. Standard library only.
"""

import argparse
import hashlib
import pathlib
import random
import shutil
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import s3_wire  # noqa: E402
import server_process  # noqa: E402
import workload  # noqa: E402

KEPT_HEADERS = (
    "content-length", "content-type", "content-encoding", "content-language", "content-disposition",
    "cache-control", "expires", "etag", "last-modified",
)  # fmt: skip


def put_rich_objects(client, draw):
    """Objects with everything a record can carry today, under names that are hard to keep."""
    client.request("PUT", "rich")
    keys = ["plain", "sp ace", "ü/日本", "\x01", "a//b", "x" * 1024, "trailing/"]
    for key in keys:
        headers = {
            "content-type": "text/x-test; charset=utf-8",
            "content-language": "de-CH",
            "content-disposition": 'attachment; filename="a b"',
            "cache-control": "max-age=17",
            "expires": "Mon, 03 Feb 2031 04:05:06 GMT",
            "x-amz-meta-colour": "blue",
            "x-amz-meta-long": "y" * 1500,
        }
        body = draw.randbytes(draw.choice([0, 10, 40_000, 2 << 20]))
        answer = client.put("rich", key, body, headers)
        if answer.status != 200:
            raise workload.Wrong(f"put of {key!r}: {answer}")
    client.put("rich", "deleted", b"gone")
    client.delete("rich", "deleted")


def everything(server):
    """All that a client can see, as one comparable value."""
    client = s3_wire.Client.of(server)
    seen = {"buckets": client.request("GET").body}
    names = [
        name.decode() for name in seen["buckets"].replace(b"</Name>", b"<Name>").split(b"<Name>")[1::2]
    ]
    if not {"rich", "shared"} <= set(names):
        raise workload.Wrong(f"buckets: {names}")
    for bucket in names:
        listed = client.list_all(bucket, page=100)
        seen[bucket] = (listed.keys, listed.objects)
        seen[bucket, "folders"] = client.list_all(bucket, delimiter="/").prefixes
        for key in listed.keys:
            answer = client.get(bucket, key)
            kept = {
                name: value
                for name, value in answer.headers.items()
                if name in KEPT_HEADERS or name.startswith("x-amz-meta-")
            }
            digest = hashlib.sha256(answer.body).hexdigest()
            seen[bucket, key] = (answer.status, kept, digest)
    client.close()
    return seen


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--keys", type=int, default=60, help="of each worker")
    parser.add_argument("--load", type=float, default=5.0, help="seconds of load a round")
    parser.add_argument("--cores", default="2", help="of the server")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    draw = random.Random(arguments.seed)
    begun = time.monotonic()
    compared = 0
    with server_process.Workplace("index") as workplace:
        data = workplace.path / "data"
        server = server_process.Server(
            server_process.find_binary(arguments.binary),
            data,
            workplace.path / "log",
            ["--cores", arguments.cores],
        ).start()
        workplace.on_exit(server.kill)
        load = workload.Load(arguments.workers, arguments.keys, arguments.seed)
        load.prepare(server)
        client = s3_wire.Client.of(server)
        put_rich_objects(client, draw)
        client.close()
        rebuild_slowest = 0.0
        for number in range(1, arguments.rounds + 1):
            load.begin(server)
            time.sleep(arguments.load)
            load.end()
            when = f"round {number}"
            load.verify(server, f"{when}, before")
            before = everything(server)
            if number % 2:
                server.stop()
            else:
                server.kill()
            indexes = sorted(data.glob("volume-*/index"))
            if len(indexes) != len(list(data.glob("volume-*"))):
                raise workload.Wrong(f"not every volume has an index: {indexes}")
            for index in indexes:
                shutil.rmtree(index)
            start = time.monotonic()
            server.start()
            rebuild_slowest = max(rebuild_slowest, time.monotonic() - start)
            after = everything(server)
            for what in before.keys() | after.keys():
                if before.get(what) != after.get(what):
                    raise workload.Wrong(
                        f"{when}: {what}: {before.get(what)!r:.500} became {after.get(what)!r:.500}"
                    )
            compared += len(before)
            if s3_wire.Client.of(server).get("rich", "deleted").code != "NoSuchKey":
                raise workload.Wrong(f"{when}: a deleted object is back")
            load.verify(server, f"{when}, after the index was deleted")
        server.stop()
        print(
            f"index_deleted: {arguments.rounds} rounds, {compared} answers identical, "
            f"{load.summary()}; slowest start {rebuild_slowest:.2f} s; "
            f"{time.monotonic() - begun:.0f} s; seed {arguments.seed}"
        )
        if load.counts().acknowledged < 100 * arguments.rounds:
            raise SystemExit("index_deleted: too little was written for the result to mean anything")


main()
