"""s3cmd as Debian has it, against a running server."""

import hashlib
import os
import re

from checks import Checks, equal
from tool import KIB, MIB, ODD_NAMES, Tool, begin_upload, boto3_client, content, curl, grow, same_trees

checks = Checks("s3cmd")


class Context(Tool):
    def __init__(self, server, place):
        super().__init__("s3cmd", server, place)
        config = self.path / "s3cfg"
        host = server.endpoint.split("//")[1]
        secure = server.endpoint.startswith("https")
        self.settings = (
            f"[default]\nhost_base = {host}\nhost_bucket = {host}\nuse_https = {secure}\n"
            f"access_key = {self.access_key}\nsecret_key = {{secret}}\n"
            "multipart_chunk_size_mb = 5\nmax_retries = 1\nprogress_meter = False\n"
        )
        if secure:
            self.settings += f"ca_certs_file = {os.environ['SSL_CERT_FILE']}\n"
        config.write_text(self.settings.format(secret=self.secret_key))
        self.prefix = ["--config", str(config)]

    def bucket(self):
        name = self.bucket_name()
        self.run("mb", f"s3://{name}")
        return f"s3://{name}"

    def listed(self, place):
        """{address: size} of a recursive listing"""
        found = re.findall(r"^\S+ \S+ +(\d+) +(s3://.*)$", self.run("ls", "-r", place).decode(), re.M)
        return {address: int(size) for size, address in found}


@checks
def buckets(c):
    c.run("mb", "s3://s3cmd-made")
    equal("s3://s3cmd-made\n" in c.run("ls").decode(), True, "ls")
    said = c.run("info", "s3://s3cmd-made").decode()
    equal("s3://s3cmd-made/ (bucket)" in said and "us-east-1" in said, True, said)
    c.run("put", c.file("one", 10), "s3://s3cmd-made/one")
    c.run("rb", "s3://s3cmd-made", wanted="BucketNotEmpty")
    c.run("rb", "--recursive", "s3://s3cmd-made")
    equal("s3cmd-made" in c.run("ls").decode(), False, "ls")
    c.run("info", "s3://s3cmd-made", wanted="NoSuchBucket")


@checks
def sizes(c):
    bucket = c.bucket()
    for size in (0, 1, 100 * KIB, 22 * MIB):
        path = c.file(f"size-{size}", size)
        c.run("put", path, f"{bucket}/dir/{size}")
        c.run("get", "--force", f"{bucket}/dir/{size}", c.path / "down")
        equal((c.path / "down").read_bytes() == path.read_bytes(), True, f"{size}")
        said = c.run("info", f"{bucket}/dir/{size}").decode()
        digest = hashlib.md5(path.read_bytes()).hexdigest()
        # Of what went up in parts s3cmd keeps the digest in its own metadata.
        equal((f"File size: {size}\n" in said, digest in said), (True, True), said)
    equal(c.listed(bucket), {f"{bucket}/dir/{size}": size for size in (0, 1, 100 * KIB, 22 * MIB)})
    total = 1 + 100 * KIB + 22 * MIB
    equal(c.run("du", bucket).decode().split()[:3], [str(total), "4", "objects"], "du")
    equal(f"{bucket}/dir/1\n" in c.run("la", "--recursive").decode(), True, "la")
    c.run("del", f"{bucket}/dir/1")
    c.run("get", f"{bucket}/dir/1", c.path / "none", wanted=64)


@checks
def a_tree_is_synchronised(c):
    bucket = c.bucket()
    source = grow(c, "source", files=100)
    c.run("sync", f"{source}/", f"{bucket}/tree/")
    equal(len(c.listed(bucket)), 101, "objects")
    wanted = {f"{bucket}/tree/odd/{name}" for name in ODD_NAMES}
    equal(set(c.listed(f"{bucket}/tree/odd/")), wanted, "odd names")
    c.run("sync", f"{bucket}/tree/", f"{c.path}/target/")
    same_trees(c.path / "target", source)
    (source / "odd/a+b").unlink()
    c.file("source/odd/100%", 77)
    said = c.run("sync", "--delete-removed", f"{source}/", f"{bucket}/tree/").decode()
    equal((said.count("upload: "), said.count("delete: ")), (1, 1), said)
    c.run("sync", "--delete-removed", f"{bucket}/tree/", f"{c.path}/target/")
    same_trees(c.path / "target", source)
    c.run("del", "--recursive", f"{bucket}/tree/odd")
    equal([a for a in c.listed(bucket) if "/odd/" in a], [], "deleted")
    c.run("del", "--recursive", "--force", bucket)
    equal(c.listed(bucket), {}, "everything deleted")


@checks
def copies_within_the_store(c):
    bucket, other = c.bucket(), c.bucket()
    for size in (0, 50_000, 21 * MIB):
        path = c.file(f"within-{size}", size)
        c.run("put", path, f"{bucket}/a b/ü+{size}")
        c.run("cp", f"{bucket}/a b/ü+{size}", f"{other}/c")
        c.run("mv", f"{other}/c", f"{other}/d%20e")
        c.run("get", "--force", f"{other}/d%20e", c.path / "down")
        equal((c.path / "down").read_bytes() == path.read_bytes(), True, f"{size}")
        equal(list(c.listed(other)), [f"{other}/d%20e"], "moved")
    c.run("cp", "--recursive", f"{bucket}/a b/", f"{other}/all/")
    equal(len(c.listed(f"{other}/all/")), 3, "copied together")


@checks
def streams_and_continued_downloads(c):
    bucket = c.bucket()
    body = content("stream", 12 * MIB)
    c.run("put", "-", f"{bucket}/piped", given=body)
    equal(c.run("get", f"{bucket}/piped", "-") == body, True, "piped")
    part = c.path / "part"
    part.write_bytes(body[:1_000_000])
    c.run("get", "--continue", f"{bucket}/piped", part)
    equal(part.read_bytes() == body, True, "the rest by a range")


@checks
def headers_are_kept_and_changed(c):
    bucket = c.bucket()
    path = c.file("page", 100)
    headers = ("--mime-type=text/x-test", "--add-header=Cache-Control: max-age=17", "--add-header=x-amz-meta-n: 1")
    c.run("put", path, f"{bucket}/m", *headers)
    place = {"Bucket": bucket.removeprefix("s3://"), "Key": "m"}
    said = c.run("info", f"{bucket}/m").decode()
    for line in (r"MIME type: +text/x-test", r"x-amz-meta-n: +1"):
        equal(bool(re.search(line, said)), True, f"{line} in {said}")
    equal(boto3_client(c.server).head_object(**place)["CacheControl"], "max-age=17")
    c.run("modify", f"{bucket}/m", "--add-header=x-amz-meta-n: 2", "--remove-header=Cache-Control")
    said = c.run("info", f"{bucket}/m").decode()
    equal(bool(re.search(r"x-amz-meta-n: +2", said)), True, said)
    head = boto3_client(c.server).head_object(**place)
    equal((head["ContentType"], "CacheControl" in head), ("text/x-test", False), f"{head}")
    equal(c.run("get", f"{bucket}/m", "-") == path.read_bytes(), True, "bytes")


@checks
def more_than_a_thousand_are_listed(c):
    place = f"s3://{c.server.many}"
    equal(list(c.listed(place)), [f"{place}/{n // 100:02}/{n:04}" for n in range(1100)])
    said = c.run("ls", f"{place}/").decode()
    equal(re.findall(r"DIR +(\S+)", said), [f"{place}/{n:02}/" for n in range(11)], "directories")


@checks
def addresses_are_presigned(c):
    bucket = c.bucket()
    path = c.file("signed", 50_000)
    c.run("put", path, f"{bucket}/pre signed")
    # s3cmd signs addresses by the older signature only.
    url = c.run("signurl", f"{bucket}/pre signed", "+60").decode().strip()
    equal("Signature=" in url and "X-Amz-Signature" not in url, True, url)
    try:
        curl(url)
    except AssertionError as error:
        equal("<Code>" in str(error), True, f"{error}")
    else:
        raise AssertionError("an address signed by SigV2 was served")


@checks
def uploads_are_listed_and_aborted(c):
    bucket = c.bucket()
    upload = begin_upload(c.server, bucket.removeprefix("s3://"), "left over")
    equal(f"{bucket}/left over\t{upload}" in c.run("multipart", bucket).decode(), True, "multipart")
    said = c.run("listmp", f"{bucket}/left over", upload).decode()
    equal("9dd4e461268c8034f5c8564e155c67a6" in said, True, said)
    c.run("abortmp", f"{bucket}/left over", upload)
    equal("left over" in c.run("multipart", bucket).decode(), False, "multipart")


@checks
def refusals(c):
    bucket = c.bucket()
    wrong = c.path / "wrong"
    wrong.write_text(c.settings.format(secret="wrong" * 8))
    path = c.file("refused", 100)
    c.run("ls", bucket, "--config", wrong, wanted="SignatureDoesNotMatch")
    c.run("put", path, f"{bucket}/refused", "--config", wrong, wanted="SignatureDoesNotMatch")
    c.run("ls", "s3://no-such-bucket-here", wanted=12)
    equal(c.listed(bucket), {}, "nothing was stored")
