"""rclone as Debian has it, against a running server."""

import json
import time

from checks import Checks, equal
from tool import KIB, MIB, ODD_NAMES, Tool, begin_upload, content, curl, grow, same_trees

checks = Checks("rclone")


class Context(Tool):
    def __init__(self, server, place):
        super().__init__("rclone", server, place)
        config = self.path / "rclone.conf"
        config.write_text(
            "[s]\ntype = s3\nprovider = Other\nregion = us-east-1\n"
            f"endpoint = {server.endpoint}\n"
            f"access_key_id = {self.access_key}\nsecret_access_key = {self.secret_key}\n"
        )
        self.environment["RCLONE_CONFIG"] = str(config)
        # Large files go up and are copied in parts much sooner than by default.
        self.prefix = [
            "--s3-upload-cutoff=6M", "--s3-chunk-size=5M", "--s3-copy-cutoff=8M", "--retries=1",
            "--low-level-retries=1",
        ]  # fmt: skip

    def bucket(self):
        name = self.bucket_name()
        self.run("mkdir", f"s:{name}")
        return f"s:{name}"


def lines(out):
    return sorted(out.decode().splitlines())


@checks
def buckets(c):
    c.run("mkdir", "s:rclone-made")
    c.run("mkdir", "s:rclone-made")
    equal("rclone-made" in c.run("lsd", "s:").decode(), True, "lsd")
    c.run("rcat", "s:rclone-made/k", given=b"x")
    c.run("rmdir", "s:rclone-made", wanted="BucketNotEmpty")
    c.run("purge", "s:rclone-made")
    equal("rclone-made" in c.run("lsd", "s:").decode(), False, "lsd after purge")
    c.run("ls", "s:rclone-made", wanted=3)


@checks
def sizes(c):
    bucket = c.bucket()
    for size in (0, 1, 100 * KIB, 21 * MIB):
        path = c.file(f"size-{size}", size)
        c.run("copyto", path, f"{bucket}/dir/{size}")
        equal(c.run("cat", f"{bucket}/dir/{size}") == path.read_bytes(), True, f"{size}")
        stat = json.loads(c.run("lsjson", "--stat", f"{bucket}/dir/{size}"))
        equal((stat["Size"], stat["IsDir"]), (size, False), "stat")
        c.run("deletefile", f"{bucket}/dir/{size}")
        c.run("deletefile", f"{bucket}/dir/{size}", wanted="doesn't exist")


@checks
def a_tree_goes_up_and_comes_back(c):
    bucket = c.bucket()
    source = grow(c, "source")
    c.run("copy", source, f"{bucket}/tree", "--transfers=8")
    c.run("check", "--download", source, f"{bucket}/tree", "--transfers=8")
    c.run("check", source, f"{bucket}/tree")
    equal(lines(c.run("lsf", "-R", "--files-only", f"{bucket}/tree/odd")), sorted(ODD_NAMES), "odd names")
    equal(b"Total objects: 201 " in c.run("size", f"{bucket}/tree"), True, "size")
    c.run("sync", f"{bucket}/tree", c.path / "target", "--transfers=8")
    same_trees(c.path / "target", source)
    times = [int((c.path / top / "large").stat().st_mtime * 1000) for top in ("source", "target")]
    equal(times[0], times[1], "time of the last change")
    # A spoiled file is noticed.
    (c.path / "target/large").write_bytes(content("spoil", 30 * MIB))
    c.run("check", "--download", c.path / "target", f"{bucket}/tree", wanted="differ")


@checks
def a_tree_is_synchronised(c):
    bucket = c.bucket()
    source = grow(c, "synced", files=60, large=0)
    c.run("sync", source, bucket)
    (source / "odd/a+b").unlink()
    c.file("synced/odd/new", 10)
    c.file("synced/odd/100%", 77)
    c.run("sync", source, bucket)
    c.run("check", "--download", source, bucket)
    names = lines(c.run("lsf", f"{bucket}/odd"))
    equal(names, sorted(set(ODD_NAMES) - {"a+b"} | {"new"}), "names")
    said = c.run("check", "--combined=-", source, bucket)
    equal({line[0] for line in lines(said)}, {"="}, "nothing left to do")


@checks
def trees_move(c):
    bucket, other = c.bucket(), c.bucket()
    source = grow(c, "moved", files=40, large=9 * MIB)
    c.run("copy", source, f"{bucket}/a")
    # Within the store, by copies there, the large one in parts.
    c.run("copy", f"{bucket}/a", f"{other}/b")
    c.run("move", f"{bucket}/a", f"{bucket}/c d+é")
    equal(c.run("lsf", bucket), "c d+é/\n".encode(), "what is left")
    for place in (f"{other}/b", f"{bucket}/c d+é"):
        c.run("check", "--download", source, place)
    c.run("move", f"{other}/b", c.path / "moved-down")
    same_trees(c.path / "moved-down", source)
    equal(c.run("lsf", "-R", "--files-only", other), b"", "moved away")
    c.run("moveto", f"{bucket}/c d+é/large", f"{bucket}/renamed")
    equal(c.run("cat", f"{bucket}/renamed") == (source / "large").read_bytes(), True, "renamed")
    c.run("purge", f"{bucket}/c d+é")
    equal(c.run("lsf", bucket), b"renamed\n", "after purge of a directory")


@checks
def streams_and_ranges(c):
    bucket = c.bucket()
    for size in (0, 10, 200 * KIB, 13 * MIB):
        body = content("stream", size)
        c.run("rcat", f"{bucket}/piped", given=body)
        equal(c.run("cat", f"{bucket}/piped") == body, True, f"{size}")
    equal(c.run("cat", "--offset=1000", "--count=70000", f"{bucket}/piped") == body[1000:71000], True)
    equal(c.run("cat", "--tail=5", f"{bucket}/piped") == body[-5:], True, "tail")


@checks
def headers_are_kept(c):
    bucket = c.bucket()
    path = c.file("page.html", 100)
    words = ("--header-upload=Cache-Control: max-age=17", "--header-upload=Content-Language: de")
    c.run("copy", "--metadata", path, bucket, *words)
    found = json.loads(c.run("lsjson", "--metadata", "--stat", f"{bucket}/page.html"))
    equal(found["MimeType"].split(";")[0], "text/html", "type")
    metadata = found["Metadata"]
    equal((metadata["cache-control"], metadata["content-language"]), ("max-age=17", "de"), f"{metadata}")
    # Changes nothing but metadata: a copy of the object onto itself.
    c.run("touch", "--timestamp=2031-02-03T04:05:06", f"{bucket}/page.html")
    found = json.loads(c.run("lsjson", "--stat", f"{bucket}/page.html"))
    equal(found["ModTime"][:19], "2031-02-03T04:05:06", "time")
    equal(c.run("cat", f"{bucket}/page.html"), path.read_bytes(), "bytes")


@checks
def more_than_a_thousand_are_listed(c):
    names = [f"{n // 100:02}/{n:04}" for n in range(1100)]
    for words in ((), ("--s3-list-chunk=70",), ("--fast-list", "--s3-list-version=1")):
        equal(lines(c.run("lsf", "-R", "--files-only", *words, f"s:{c.server.many}")), names, f"{words}")
    equal(lines(c.run("lsf", f"s:{c.server.many}")), [f"{n:02}/" for n in range(11)], "directories")


@checks
def links_are_presigned(c):
    bucket = c.bucket()
    path = c.file("linked", 50_000)
    c.run("copyto", path, f"{bucket}/pre signed/ü+%")
    url = c.run("link", "--expire=1m", f"{bucket}/pre signed/ü+%").decode().strip()
    equal(curl(url) == path.read_bytes(), True, "bytes")


@checks
def uploads_left_over_are_removed(c):
    bucket = c.bucket()
    name = bucket.removeprefix("s:")
    begin_upload(c.server, name, "left over")
    listed = json.loads(c.run("backend", "list-multipart-uploads", bucket))
    equal([u["Key"] for u in listed[name]], ["left over"], "uploads")
    c.run("backend", "cleanup", "-o", "max-age=1h", bucket)
    equal(json.loads(c.run("backend", "list-multipart-uploads", bucket)), listed, "too young")
    time.sleep(2)
    c.run("backend", "cleanup", "-o", "max-age=1s", bucket)
    listed = json.loads(c.run("backend", "list-multipart-uploads", bucket))
    equal(listed.get(name) or [], [], "uploads")


@checks
def refusals(c):
    bucket = c.bucket()
    wrong = {"RCLONE_CONFIG_S_SECRET_ACCESS_KEY": "wrong" * 8}
    c.run("ls", bucket, wanted="SignatureDoesNotMatch", environment=wrong)
    path = c.file("refused", 9 * MIB)
    c.run("copy", path, bucket, wanted="403", environment=wrong)
    c.run("cat", f"{bucket}/refused", wanted=3)
    c.run("ls", "s:no-such-bucket-here", wanted=3)
