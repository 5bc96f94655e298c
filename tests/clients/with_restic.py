"""restic as Debian has it, against a running server."""

import json

from checks import Checks, equal
from tool import MIB, Tool, boto3_client, content, grow, same_trees

checks = Checks("restic")


class Context(Tool):
    def __init__(self, server, place):
        super().__init__("restic", server, place)
        self.environment |= {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "RESTIC_PASSWORD": "of the repository",
            "RESTIC_CACHE_DIR": str(self.path / "cache"),
        }

    def repository(self, inside="/deep/er"):
        """Makes bucket and repository; selects it."""
        self.bucket = self.bucket_name()
        self.environment["RESTIC_REPOSITORY"] = f"s3:{self.server.endpoint}/{self.bucket}{inside}"
        self.run("init")

    def restored(self, snapshot, source):
        self.made += 1
        target = self.path / f"restored-{self.made}"
        self.run("restore", snapshot, "--target", target)
        same_trees(target / source.relative_to("/"), source)

    def size(self):
        pages = boto3_client(self.server).get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return sum(item["Size"] for page in pages for item in page.get("Contents", []))


@checks
def a_repository_is_made_once(c):
    c.repository(inside="")
    c.run("init", wanted="already")
    equal(json.loads(c.run("snapshots", "--json")), [], "snapshots")
    equal(len(c.run("list", "keys").split()), 1, "keys")


@checks
def backups_are_restored_byte_for_byte(c):
    c.repository()
    source = grow(c, "source")
    c.run("backup", source)
    c.run("check", "--read-data")
    c.restored("latest", source)
    first = json.loads(c.run("snapshots", "--json"))[0]["id"]
    (source / "odd/a+b").unlink()
    c.file("source/odd/100%", 77)
    c.file("source/added", 3 * MIB)
    c.run("backup", source)
    last = json.loads(c.run("snapshots", "--json", "--latest", "1"))[0]["id"]
    said = c.run("diff", first, last).decode()
    equal(("+    " in said, "-    " in said, "M    " in said), (True, True, True), said)
    equal([name in said for name in ("added", "a+b", "100%")], [True] * 3, said)
    c.restored("latest", source)


@checks
def forgetting_gives_space_back(c):
    c.repository()
    source = grow(c, "changing", files=60, large=20 * MIB)
    c.run("backup", source)
    (source / "large").unlink()
    c.file("changing/other", 2 * MIB)
    c.run("backup", source)
    before = c.size()
    c.run("forget", "--keep-last", "1", "--prune", "--max-unused", "0")
    equal(len(json.loads(c.run("snapshots", "--json"))), 1, "snapshots")
    equal(before - c.size() > 19 * MIB, True, f"{before} before, {c.size()} after")
    c.run("check", "--read-data")
    c.restored("latest", source)


@checks
def streams(c):
    c.repository()
    body = content("stdin", 25 * MIB)
    c.run("backup", "--stdin", "--stdin-filename", "stream", given=body)
    equal(c.run("dump", "latest", "/stream") == body, True, "bytes")
    # From an empty cache everything is read from the store.
    equal(c.run("--no-cache", "dump", "latest", "/stream") == body, True, "bytes without a cache")


@checks
def what_was_spoiled_is_noticed(c):
    c.repository()
    c.run("backup", c.file("kept/file", 2 * MIB))
    c.run("check", "--read-data")
    s3 = boto3_client(c.server)
    packs = s3.list_objects_v2(Bucket=c.bucket, Prefix="deep/er/data/")["Contents"]
    place = {"Bucket": c.bucket, "Key": max(packs, key=lambda pack: pack["Size"])["Key"]}
    body = bytearray(s3.get_object(**place)["Body"].read())
    body[1000] ^= 1
    s3.put_object(Body=bytes(body), **place)
    c.run("--no-cache", "check", "--read-data", wanted=1)


@checks
def refusals(c):
    c.repository()
    c.run("snapshots", wanted="wrong password", environment={"RESTIC_PASSWORD": "another"})
    wrong = {"AWS_SECRET_ACCESS_KEY": "wrong" * 8}
    c.run("snapshots", wanted="signature", environment=wrong)
