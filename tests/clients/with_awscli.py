"""awscli as it comes, against a running server."""

import json
import os
import pathlib
import random
import subprocess
import sys

from checks import Checks, equal

checks = Checks("awscli")

KIB, MIB = 1024, 1024 * 1024


class Context:
    def __init__(self, server, workplace):
        self.server = server
        self.path = pathlib.Path(workplace) / "awscli"
        self.path.mkdir()
        self.made = 0
        config = self.path / "config"
        # Above 8 MB files go and come in parts, as by default.
        config.write_text("[default]\nregion = us-east-1\n")
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if name == "AWS_CA_BUNDLE" or not name.startswith("AWS_")
        } | {
            "AWS_CONFIG_FILE": str(config),
            # The file that the server made, as the ready line advises.
            "AWS_SHARED_CREDENTIALS_FILE": str(server.data / "credentials"),
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "1",
            "AWS_PAGER": "",
        }

    def aws(self, *words, wanted=0, given=None):
        """Standard output; `wanted` is the exit code, or text that a failure must contain."""
        command = [sys.executable, "-m", "awscli", "--endpoint-url", self.server.endpoint, *words]
        done = subprocess.run(
            command, input=given, capture_output=True, env=self.environment, timeout=300
        )
        if isinstance(wanted, str):
            if done.returncode == 0 or wanted not in done.stderr.decode():
                raise AssertionError(f"aws {words}: {done.returncode}, {done.stderr!r}")
        elif done.returncode != wanted:
            raise AssertionError(f"aws {words}: {done.returncode}, {done.stderr!r}")
        return done.stdout

    def api(self, operation, *words):
        out = self.aws("s3api", operation, *words)
        return json.loads(out) if out.strip() else {}

    def bucket(self):
        self.made += 1
        name = f"awscli-{self.made}"
        self.aws("s3", "mb", f"s3://{name}")
        return name

    def file(self, name, size):
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(name).randbytes(size))
        return path


@checks
def buckets(c):
    c.aws("s3", "mb", "s3://awscli-made")
    c.aws("s3", "ls").decode().index(" awscli-made\n")
    c.aws("s3api", "head-bucket", "--bucket", "awscli-made")
    names = [b["Name"] for b in c.api("list-buckets")["Buckets"]]
    equal("awscli-made" in names, True, f"{names}")
    path = c.file("one", 10)
    c.aws("s3", "cp", str(path), "s3://awscli-made/one")
    c.aws("s3", "rb", "s3://awscli-made", wanted="BucketNotEmpty")
    c.aws("s3", "rb", "--force", "s3://awscli-made")
    c.aws("s3api", "head-bucket", "--bucket", "awscli-made", wanted="404")


@checks
def copies_up_and_down(c):
    bucket = c.bucket()
    for size in (0, 1, 40_000, 9 * MIB, 64 * MIB):
        path = c.file(f"up-{size}", size)
        c.aws("s3", "cp", str(path), f"s3://{bucket}/up-{size}")
        down = c.path / "down"
        c.aws("s3", "cp", f"s3://{bucket}/up-{size}", str(down))
        equal(down.read_bytes() == path.read_bytes(), True, f"bytes of {size}")
    listed = c.aws("s3", "ls", f"s3://{bucket}/", "--summarize").decode()
    equal("Total Objects: 5" in listed, True, listed)
    # Through pipes, with no length known beforehand on the way up.
    body = random.Random(3).randbytes(3 * MIB)
    c.aws("s3", "cp", "-", f"s3://{bucket}/piped", given=body)
    equal(c.aws("s3", "cp", f"s3://{bucket}/piped", "-") == body, True, "piped")
    c.aws("s3", "mv", str(c.file("moved", 100)), f"s3://{bucket}/moved")
    equal((c.path / "moved").exists(), False, "moved away")
    c.aws("s3", "rm", f"s3://{bucket}/moved")
    c.aws("s3", "cp", f"s3://{bucket}/moved", str(c.path / "no"), wanted="404")


@checks
def copies_within_the_store(c):
    bucket, other = c.bucket(), c.bucket()
    for size in (0, 100, 3 * MIB, 20 * MIB):
        path = c.file(f"within-{size}", size)
        c.aws("s3", "cp", str(path), f"s3://{bucket}/a b/{size}")
        c.aws("s3", "cp", f"s3://{bucket}/a b/{size}", f"s3://{other}/ü/{size}")
        c.aws("s3", "mv", f"s3://{other}/ü/{size}", f"s3://{other}/moved/{size}")
        down = c.path / "down"
        c.aws("s3", "cp", f"s3://{other}/moved/{size}", str(down))
        equal(down.read_bytes() == path.read_bytes(), True, f"bytes of {size}")
    listed = c.aws("s3", "ls", "--recursive", f"s3://{other}").decode()
    equal((listed.count("moved/"), "ü" in listed), (4, False), listed)


@checks
def parts_by_hand(c):
    bucket = c.bucket()
    where = ("--bucket", bucket, "--key", "k")
    paths = [c.file("part-1", 5 * MIB), c.file("part-2", 10)]
    algorithm = ("--checksum-algorithm", "SHA256")
    begun = c.api("create-multipart-upload", *where, *algorithm)
    upload = (*where, "--upload-id", begun["UploadId"])
    parts = []
    for number, path in enumerate(paths, 1):
        words = ("--part-number", str(number), "--body", str(path), *algorithm)
        answer = c.api("upload-part", *upload, *words)
        names = ("ETag", "ChecksumSHA256")
        parts.append({"PartNumber": number} | {name: answer[name] for name in names})
    listed = c.api("list-parts", *upload)
    equal([p["Size"] for p in listed["Parts"]], [5 * MIB, 10])
    equal(listed["ChecksumAlgorithm"], "SHA256")
    named = json.dumps({"Parts": parts})
    c.api("complete-multipart-upload", *upload, "--multipart-upload", named)
    wanted = b"".join(path.read_bytes() for path in paths)
    equal(c.aws("s3", "cp", f"s3://{bucket}/k", "-") == wanted, True, "bytes")
    attributes = c.api(
        "get-object-attributes", *where, "--object-attributes", "ObjectParts", "Checksum"
    )
    equal(attributes["ObjectParts"]["TotalPartsCount"], 2)
    equal(attributes["Checksum"]["ChecksumType"], "COMPOSITE")
    begun = c.api("create-multipart-upload", *where)
    upload = (*where, "--upload-id", begun["UploadId"])
    c.api("abort-multipart-upload", *upload)
    c.aws("s3api", "list-parts", *upload, wanted="NoSuchUpload")


@checks
def a_tree_is_synchronised(c):
    bucket = c.bucket()
    source, target = c.path / "source", c.path / "target"
    files = {
        f"source/{name}": size
        for name, size in {
            "a.txt": 10,
            "b/c.bin": 50_000,
            "b/d e.txt": 0,
            "ü/日本.txt": 333,
            "deep/er/still/file+plus%41": 9000,
        }.items()
    }
    for name, size in files.items():
        c.file(name, size)
    c.aws("s3", "sync", str(source), f"s3://{bucket}/tree")
    equal(c.aws("s3", "sync", str(source), f"s3://{bucket}/tree"), b"", "nothing left to do")
    c.aws("s3", "sync", f"s3://{bucket}/tree", str(target))

    def tree(path):
        found = (p for p in path.rglob("*") if p.is_file())
        return {str(p.relative_to(path)): p.read_bytes() for p in found}

    equal(tree(target) == tree(source), True, "trees")
    equal(len(tree(source)), len(files))
    (source / "a.txt").unlink()
    c.aws("s3", "sync", "--delete", str(source), f"s3://{bucket}/tree")
    listed = c.aws("s3", "ls", "--recursive", f"s3://{bucket}/tree/").decode()
    equal(("a.txt" in listed, "b/c.bin" in listed), (False, True), listed)
    folders = c.aws("s3", "ls", f"s3://{bucket}/tree/").decode().split()
    equal(folders, ["PRE", "b/", "PRE", "deep/", "PRE", "ü/"], "folders")
    c.aws("s3", "rm", "--recursive", f"s3://{bucket}/tree/b")
    listed = c.aws("s3", "ls", "--recursive", f"s3://{bucket}").decode()
    equal(("b/c.bin" in listed, "deep/er" in listed), (False, True), listed)


@checks
def the_plain_interface(c):
    bucket = c.bucket()
    path = c.file("body", 100_000)
    where = ("--bucket", bucket, "--key", "k")
    metadata = ("--metadata", "colour=blue,n=7", "--content-type", "text/plain")
    put = c.api("put-object", *where, "--body", str(path), *metadata)
    head = c.api("head-object", *where)
    equal((head["ETag"], head["ContentLength"]), (put["ETag"], 100_000))
    equal((head["Metadata"], head["ContentType"]), ({"colour": "blue", "n": "7"}, "text/plain"))
    out = c.path / "part"
    answer = c.api("get-object", *where, "--range", "bytes=1000-70000", str(out))
    equal(answer["ContentRange"], "bytes 1000-70000/100000")
    equal(out.read_bytes() == path.read_bytes()[1000:70001], True, "range")
    for key in ("a/1", "a/2", "b/1", "c"):
        c.api("put-object", "--bucket", bucket, "--key", key)
    page = c.api("list-objects-v2", "--bucket", bucket, "--delimiter", "/", "--no-paginate")
    equal([p["Prefix"] for p in page["CommonPrefixes"]], ["a/", "b/"])
    equal([o["Key"] for o in page["Contents"]], ["c", "k"])
    paged = c.api("list-objects-v2", "--bucket", bucket, "--page-size", "2", "--prefix", "a/")
    equal([o["Key"] for o in paged["Contents"]], ["a/1", "a/2"])
    c.api("delete-object", *where)
    c.aws("s3api", "get-object", *where, str(out), wanted="NoSuchKey")
    c.aws("s3api", "head-object", *where, wanted="404")


@checks
def listings_deletions_and_what_was_never_set(c):
    bucket = c.bucket()
    place = ("--bucket", bucket)
    for key in ("a/1", "a/2", "b<&>", "c"):
        c.api("put-object", *place, "--key", key)
    page = c.api("list-objects", *place, "--page-size", "1")
    equal([o["Key"] for o in page["Contents"]], ["a/1", "a/2", "b<&>", "c"])
    page = c.api("list-objects", *place, "--delimiter", "/", "--page-size", "1")
    equal([p["Prefix"] for p in page["CommonPrefixes"]], ["a/"])
    page = c.api("list-object-versions", *place, "--page-size", "3")
    equal([v["VersionId"] for v in page["Versions"]], ["null"] * 4)
    equal(c.api("list-multipart-uploads", *place).get("Uploads"), None)
    wanted = {"Objects": [{"Key": "a/1"}, {"Key": "b<&>"}, {"Key": "absent"}]}
    done = c.api("delete-objects", *place, "--delete", json.dumps(wanted))
    equal([d["Key"] for d in done["Deleted"]], ["a/1", "b<&>", "absent"])
    equal(c.api("get-bucket-versioning", *place), {})
    equal(len(c.api("get-bucket-acl", *place)["Grants"]), 1)
    equal(c.api("get-bucket-location", *place), {"LocationConstraint": None})
    c.aws("s3api", "get-bucket-policy", *place, wanted="NoSuchBucketPolicy")
    c.aws("s3api", "get-bucket-encryption", *place, wanted="ServerSideEncryptionConfiguration")
    c.aws("s3api", "put-bucket-acl", *place, "--acl", "private")
    c.aws("s3api", "delete-bucket-policy", *place)
    c.aws("s3", "rb", "--force", f"s3://{bucket}")


@checks
def what_is_not_there_says_so(c):
    bucket = c.bucket()
    for words in (
        ("put-bucket-policy", "--bucket", bucket, "--policy", "{}"),
        ("put-bucket-acl", "--bucket", bucket, "--acl", "public-read"),
    ):
        c.aws("s3api", *words, wanted="NotImplemented")
