"""The official SDKs for Rust, Go, JavaScript and Java: each a program of ours in its language, which
runs every case named here and says how it went.

They are built and kept under target/clients; nothing is built again that did not change.

    python tests/clients/with_sdk.py        builds all of them
"""

import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
BUILT = HERE.parent.parent / "target" / "clients"

CASES = """
    buckets sizes refusals ranges metadata odd_keys listing copies deletes_together conditions checksums
    presigned large_object streamed parts_out_of_order parts_with_checksums parts_copied aborted_upload
    attributes
""".split()

# What only one of them has.
MORE_CASES = {"java": ["large_object_by_crt"]}

# Beyond what the keys of with_boto3 hold nothing is odd; of these an XML document cannot hold all.
NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def command(*words, cwd=HERE, **environment):
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env=os.environ | {name: str(value) for name, value in environment.items()},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        text = done.stdout.decode(errors="replace")
        raise RuntimeError(f"{' '.join(map(str, words))}: {done.returncode}\n{text[-4000:]}")


def unchanged(stamp, *paths):
    """Whether `stamp` is of these files as they are; and what it has to say if it is not."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    text = digest.hexdigest()
    return stamp.exists() and stamp.read_text() == text, text


def rust():
    target = BUILT / "rust"
    command("cargo", "build", "--quiet", "--locked", "--jobs", 2, "--target-dir", target, cwd=HERE / "rust")
    return [target / "debug" / "rust-sdk"]


def go():
    program = BUILT / "go" / "go-sdk"
    command(
        "go", "build", "-p", 2, "-modcacherw", "-buildvcs=false", "-o", program, ".",
        cwd=HERE / "go", GOFLAGS="-mod=readonly", GOPATH=BUILT / "go" / "path", GOCACHE=BUILT / "go" / "cache",
    )  # fmt: skip
    return [program]


def javascript():
    target = BUILT / "javascript"
    target.mkdir(parents=True, exist_ok=True)
    names = ["package.json", "package-lock.json"]
    for name in [*names, "main.mjs"]:
        shutil.copy(HERE / "javascript" / name, target / name)
    stamp = target / "stamp"
    same, text = unchanged(stamp, *(target / name for name in names))
    if not same:
        command("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", cwd=target)
        stamp.write_text(text)
    return ["node", target / "main.mjs"]


def java():
    target = BUILT / "java"
    target.mkdir(parents=True, exist_ok=True)
    stamp = target / "stamp"
    pom, source = HERE / "java" / "pom.xml", HERE / "java" / "Main.java"
    same, text = unchanged(stamp, pom)
    if not same:
        shutil.rmtree(target / "lib", ignore_errors=True)
        command(
            "mvn", "--batch-mode", "--quiet", "--file", pom, f"-Dmaven.repo.local={target / 'repository'}",
            f"-DoutputDirectory={target / 'lib'}", "dependency:copy-dependencies",
        )  # fmt: skip
        stamp.write_text(text)
    stamp = target / "stamp-classes"
    same, text = unchanged(stamp, pom, source)
    if not same:
        command("javac", "-d", target / "classes", "-cp", f"{target / 'lib'}/*", source)
        stamp.write_text(text)
    return ["java", "-XX:TieredStopAtLevel=1", "-Xmx768m", "-cp", f"{target / 'classes'}:{target / 'lib'}/*", "Main"]


BUILDS = {"rust": rust, "go": go, "javascript": javascript, "java": java}


def run(language, words, server, place, label, keys, only=None):
    """Runs what BUILDS built. (how many passed, names of those that failed)"""
    scratch = pathlib.Path(place) / language
    scratch.mkdir()
    access_key, secret_key = server.credentials()
    listed = scratch / "keys"
    listed.write_text(
        "".join(f"{'odd' if NOT_IN_XML.search(key) else 'plain'}:{key.encode().hex()}\n" for key in keys)
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")} | {
        "S3_ENDPOINT": server.endpoint,
        "S3_ACCESS_KEY": access_key,
        "S3_SECRET_KEY": secret_key,
        "S3_BUCKET": f"{language}-sdk",
        "S3_MANY": server.many,
        "S3_KEYS": str(listed),
        "S3_SCRATCH": str(scratch),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    if only:
        environment["S3_ONLY"] = only
    wanted = [name for name in CASES + MORE_CASES.get(language, []) if not only or only in name]
    said = {}
    start = time.monotonic()
    with subprocess.Popen(
        [str(word) for word in words],
        env=environment,
        cwd=scratch,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout:
            match = re.match(r"case (\S+) (ok|FAILED: .*)$", line)
            if not match:
                print(f"       {label}: {line}", end="")
                continue
            name, outcome = match.groups()
            took = time.monotonic() - start
            start = time.monotonic()
            said[name] = outcome
            if outcome == "ok":
                print(f"ok     {label}: {name}  {took:.1f} s", flush=True)
            else:
                print(f"FAILED {label}: {name}: {outcome}", flush=True)
    if process.returncode:
        print(f"FAILED {label}: exit code {process.returncode}", flush=True)
    silent = [name for name in wanted if name not in said]
    failed = silent + [name for name, outcome in said.items() if outcome != "ok"]
    failed += ["exit code"] if process.returncode else []
    for name in silent:
        print(f"FAILED {label}: {name}: nothing was said of it", flush=True)
    return sum(outcome == "ok" for outcome in said.values()), failed


if __name__ == "__main__":
    for language in sys.argv[1:] or BUILDS:
        start = time.monotonic()
        BUILDS[language]()
        print(f"{language}: {time.monotonic() - start:.0f} s", flush=True)
