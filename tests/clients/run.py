"""Real clients against the real server, over HTTP and HTTPS: boto3 and awscli, rclone, s3cmd, s5cmd
and restic, the official SDKs for Rust, Go, JavaScript and Java, and what others put on the wire.

    target/venv/bin/python tests/clients/run.py [--binary PATH] [--cores N] [--only TEXT]
                                                [--suite NAME]... [--scheme http|https]

The interpreter must have the packages of tests/clients/requirements.txt; `.ci/run packages` installs
the rest. Prints "N passed, N failed"; exits with 1 unless all passed and at least as many cases ran
as floor.txt says.
"""

import argparse
import concurrent.futures
import os
import pathlib
import subprocess
import sys
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import certificates  # noqa: E402
import server_process  # noqa: E402
import tool  # noqa: E402
import with_awscli  # noqa: E402
import with_boto3  # noqa: E402
import with_rclone  # noqa: E402
import with_restic  # noqa: E402
import with_s3cmd  # noqa: E402
import with_s5cmd  # noqa: E402
import with_sdk  # noqa: E402
import with_wire  # noqa: E402

# Whether a server that does not speak TLS fails.
TLS_REQUIRED = False

# A second user, and a domain below which buckets have hosts of their own.
OTHER = {"aws_access_key_id": "OTHERUSER", "aws_secret_access_key": "other-secret-key-for-tests"}
CONFIGURATION = f"""domain = ["s3.test"]

[[user]]
name = "other"
access_key = "{OTHER["aws_access_key_id"]}"
secret_key = "{OTHER["aws_secret_access_key"]}"
id = "other-id"
"""


# {language: command}, once they are built.
PROGRAMS = {}


def checked(checks, context):
    """A suite of checks in Python."""

    def run(server, place, label, only):
        return checks.run(context(server, place), label, only)

    return run


def program(language):
    """A suite that is a program in another language."""

    def run(server, place, label, only):
        keys = with_boto3.ODD_KEYS
        return with_sdk.run(language, PROGRAMS[language], server, place, label, keys, only)

    return run


SUITES = {
    "wire": checked(with_wire.checks, lambda server, place: with_wire.Context(server)),
    "boto3": checked(with_boto3.checks, lambda server, place: with_boto3.Context(server, OTHER)),
    "awscli": checked(with_awscli.checks, with_awscli.Context),
    "rclone": checked(with_rclone.checks, with_rclone.Context),
    "s3cmd": checked(with_s3cmd.checks, with_s3cmd.Context),
    "s5cmd": checked(with_s5cmd.checks, with_s5cmd.Context),
    "restic": checked(with_restic.checks, with_restic.Context),
} | {language: program(language) for language in with_sdk.BUILDS}

# Its requests are written to plain sockets.
ONLY_HTTP = {"wire"}


def floors():
    """{(scheme, suite): how many cases must run}"""
    found = {}
    for line in (HERE / "floor.txt").read_text().splitlines():
        if not line.startswith("#"):
            suite, http, https = line.split()
            found["http", suite], found["https", suite] = int(http), int(https)
    return found


def speaks_tls(binary):
    said = subprocess.run([binary, "serve", "--help"], capture_output=True, text=True).stdout
    lines = [line for line in said.splitlines() if "--tls-cert" in line]
    return bool(lines) and "not supported" not in lines[0]


def fill(server):
    """A bucket of 1,100 keys, for every client to page through."""
    server.many = "many-keys"
    s3 = tool.boto3_client(server)
    s3.create_bucket(Bucket=server.many)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        keys = [f"{n // 100:02}/{n:04}" for n in range(1100)]
        list(pool.map(lambda key: s3.put_object(Bucket=server.many, Key=key, Body=b""), keys))


def over(scheme, workplace, arguments, binary):
    """{suite: (how many passed, names of those that failed)}"""
    place = workplace.path / scheme
    place.mkdir()
    configuration = place / "ostrakon.toml"
    configuration.touch(mode=0o600)
    configuration.write_text(CONFIGURATION)
    words = ["--cores", arguments.cores, "--config", configuration]
    pair = None
    if scheme == "https":
        pair = certificates.Certificates(place)
        words += ["--tls-cert", pair.chain, "--tls-key", pair.key]
        os.environ.update(pair.environment())
    server = server_process.Server(binary, place / "data", place / "log", words)
    server.scheme = scheme
    server.start()
    workplace.on_exit(server.kill)
    fill(server)
    outcomes = {}
    for name, run in SUITES.items():
        if (arguments.suite and name not in arguments.suite) or (pair and name in ONLY_HTTP):
            continue
        start = time.monotonic()
        try:
            outcomes[name] = run(server, place, f"{name} {scheme}", arguments.only)
        except Exception as error:
            print(f"FAILED {name} {scheme}: {error!r}", flush=True)
            traceback.print_exc()
            outcomes[name] = 0, ["start"]
        took = time.monotonic() - start
        print(f"       {name} {scheme}: {outcomes[name][0]} passed in {took:.0f} s", flush=True)
    if server.running():
        server.stop()
    else:
        outcomes["server"] = 0, ["is gone"]
        print(server.log_tail())
    return outcomes


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary")
    parser.add_argument("--cores", default="2", help="of the server")
    parser.add_argument("--only", help="checks with this in their name")
    parser.add_argument("--suite", action="append", choices=list(SUITES))
    parser.add_argument("--scheme", choices=["http", "https"])
    arguments = parser.parse_args()
    binary = server_process.find_binary(arguments.binary)
    for language, build in with_sdk.BUILDS.items():
        if arguments.suite is None or language in arguments.suite:
            PROGRAMS[language] = build()
    # Whom to trust is for each server to say. (Builds go by what the machine has set.)
    for name in certificates.TRUST:
        os.environ.pop(name, None)
    passed, failed, floor = 0, [], floors()
    with server_process.Workplace("clients") as workplace:
        for scheme in ("http", "https"):
            if arguments.scheme not in (None, scheme):
                continue
            if scheme == "https" and not speaks_tls(binary):
                print("this server does not speak TLS: nothing was tried over https")
                failed += ["https: not served"] if TLS_REQUIRED else []
                continue
            for name, (good, bad) in over(scheme, workplace, arguments, binary).items():
                passed += good
                failed += [f"{name} {scheme}: {case}" for case in bad]
                least = floor.get((scheme, name), 1)
                if not arguments.only and good + len(bad) < least:
                    failed.append(f"{name} {scheme}: {good + len(bad)} cases, the floor is {least}")
        if failed or passed == 0:
            print("\n".join(failed))
        print(f"clients: {passed} passed, {len(failed)} failed")
        if failed or passed == 0:
            raise SystemExit(1)


main()
