"""A client that is a program of its own: run in a directory and environment of its own."""

import os
import pathlib
import random
import shutil
import subprocess

import boto3
from checks import equal

KIB, MIB = 1024, 1024 * 1024

# Names that a file and a key can both have.
ODD_NAMES = [
    "with space", " leading", "a+b", "a%2Fb", "100%", "a&b=c", "a;b,c", "quote\"'", "<tag>&amp;", "curly{}",
    "ünïcödé", "日本語", "emoji-😀", "e\u0301", "$@!()", ".hidden", "...", "x" * 200, "~", "a=b:c",
]  # fmt: skip


class Tool:
    def __init__(self, name, server, place, program=None):
        found = shutil.which(str(program or name))
        if found is None:
            raise FileNotFoundError(f"{name} is not installed")
        self.name = name
        self.program = found
        self.server = server
        self.access_key, self.secret_key = server.credentials()
        self.path = pathlib.Path(place) / name
        self.path.mkdir()
        self.made = 0
        # No configuration of the user's.
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "S3_", "RCLONE_"))}
        self.environment = kept | {"HOME": str(self.path), "XDG_CONFIG_HOME": str(self.path)}
        self.prefix = []

    def run(self, *words, wanted=0, given=None, environment=None):
        """Standard output; `wanted` is the exit code, or text that a failure must print."""
        done = subprocess.run(
            [self.program, *self.prefix, *map(str, words)],
            input=given,
            stdin=None if given is not None else subprocess.DEVNULL,
            capture_output=True,
            env=self.environment | (environment or {}),
            cwd=self.path,
            timeout=300,
        )
        said = done.stdout + done.stderr
        if isinstance(wanted, str):
            good = done.returncode != 0 and wanted in said.decode(errors="replace")
        else:
            good = done.returncode == wanted
        if not good:
            raise AssertionError(f"{self.name} {words}: {done.returncode}, {said[-2000:]!r}")
        return done.stdout

    def bucket_name(self):
        self.made += 1
        return f"{self.name}-{self.made}"

    def file(self, name, size):
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(name, size))
        return path


def content(name, size):
    return random.Random(f"{name} {size}").randbytes(size)


def grow(tool, top, files=200, large=30 * MIB):
    """A directory of many small files, some with odd names, and a large one."""
    draw = random.Random(top)
    for n in range(files - len(ODD_NAMES)):
        folder = draw.choice(["", "a/", "a/b/", "c d/", "ü/deep/er/"])
        tool.file(f"{top}/{folder}{n:03}.bin", draw.choice([0, 1, 100, 5000, 70_000]))
    for name in ODD_NAMES:
        tool.file(f"{top}/odd/{name}", 33)
    if large:
        tool.file(f"{top}/large", large)
    return tool.path / top


def tree(path):
    found = (p for p in path.rglob("*") if p.is_file())
    return {str(p.relative_to(path)): p.read_bytes() for p in found}


def same_trees(found, wanted):
    found, wanted = tree(found), tree(wanted)
    equal(sorted(found), sorted(wanted), "names of files")
    equal([name for name in wanted if found[name] != wanted[name]], [], "files that differ")
    if not wanted:
        raise AssertionError("compared nothing")


def curl(url, *words):
    done = subprocess.run(
        ["curl", "-sS", "--fail-with-body", *words, url], capture_output=True, timeout=60
    )
    if done.returncode:
        raise AssertionError(f"curl {url}: {done.returncode}, {done.stdout!r} {done.stderr!r}")
    return done.stdout


def boto3_client(server):
    access_key, secret_key = server.credentials()
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name="us-east-1",
    )


def begin_upload(server, bucket, key):
    """An upload with one part, for others to find. Returns its id."""
    s3 = boto3_client(server)
    upload = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"x")
    return upload
