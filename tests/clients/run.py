"""Real clients against the real server: boto3, awscli, and what other SDKs put on the wire.

    target/venv/bin/python tests/clients/run.py [--binary PATH] [--cores N] [--only TEXT]

The interpreter must have the packages of tests/clients/requirements.txt. Prints "N passed, N failed";
exits with 1 unless all passed.
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import server_process  # noqa: E402
import with_awscli  # noqa: E402
import with_boto3  # noqa: E402
import with_wire  # noqa: E402


# A second user, and a domain below which buckets have hosts of their own.
OTHER = {"aws_access_key_id": "OTHERUSER", "aws_secret_access_key": "other-secret-key-for-tests"}
CONFIGURATION = f"""domain = ["s3.test"]

[[user]]
name = "other"
access_key = "{OTHER["aws_access_key_id"]}"
secret_key = "{OTHER["aws_secret_access_key"]}"
id = "other-id"
"""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary")
    parser.add_argument("--cores", default="2", help="of the server")
    parser.add_argument("--only", help="checks with this in their name")
    parser.add_argument("--suite", choices=["boto3", "awscli", "wire"])
    arguments = parser.parse_args()
    binary = server_process.find_binary(arguments.binary)
    suites = [
        (with_wire.checks, lambda server, place: with_wire.Context(server)),
        (with_boto3.checks, lambda server, place: with_boto3.Context(server, OTHER)),
        (with_awscli.checks, lambda server, place: with_awscli.Context(server, place)),
    ]
    passed, failed = 0, []
    with server_process.Workplace("clients") as workplace:
        configuration = workplace.path / "ostrakon.toml"
        configuration.touch(mode=0o600)
        configuration.write_text(CONFIGURATION)
        server = server_process.Server(
            binary,
            workplace.path / "data",
            workplace.path / "log",
            ["--cores", arguments.cores, "--config", configuration],
        ).start()
        workplace.on_exit(server.kill)
        for checks, context in suites:
            if arguments.suite in (None, checks.name):
                checks.only = arguments.only
                checks.run(context(server, workplace.path))
                passed += checks.passed
                failed += [f"{checks.name}: {name}" for name in checks.failed]
        if not server.running():
            failed.append("the server is gone")
            print(server.log_tail())
        else:
            server.stop()
        print(f"clients: {passed} passed, {len(failed)} failed")
        if failed or passed == 0:
            print("\n".join(failed))
            raise SystemExit(1)


main()
