"""Attacks on a whole server over raw HTTP: whatever does not come from who may, is denied, and
changes nothing.

    python3 tests/attacks/run.py [--binary PATH] [--suite NAME] [--only TEXT]

    matrix   every served operation x who asks x each fault that a signature can have
    classes  one test for each class of hole that S3 servers have had
    mixing   two users' bytes under 10,000 disconnects, ranges and short objects, over http and
             https, and where buffers run out

Prints "attacks: N passed, N failed"; exits with 1 unless all passed and enough were run.
"""

import argparse
import pathlib
import ssl
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import classes  # noqa: E402
import matrix  # noqa: E402
import mixing  # noqa: E402
import server_process  # noqa: E402
import world  # noqa: E402

# Cases of each suite. Fewer means that something was not asked.
FLOORS = {"matrix": 10_500, "classes": 42, "mixing": 10}
# Rounds of `mixing`, and the part of the time that it may take: (rounds, seconds, slow clients).
MIXING = {
    "http": (6_000, 40, 0),
    "https": (2_000, 25, 0),
    "one core, 200 slow clients": (2_000, 25, 200),
}


class Run:
    def __init__(self, binary, workplace, tally, only):
        self.binary, self.workplace, self.tally, self.only = binary, workplace, tally, only
        self.config = workplace.path / "ostrakon.toml"
        self.config.write_text(world.CONFIG)
        served = {route.operation for route in matrix.routes.routes() if route.served}
        self.lists_uploads = "ListMultipartUploads" in served
        self.started = 0

    def server(self, work, arguments=("--cores", "2"), tls=None):
        """`work(world)` beside a server; then what its log has is looked at."""
        self.started += 1
        log = self.workplace.path / f"log-{self.started}"
        server = server_process.Server(
            self.binary,
            self.workplace.path / f"data-{self.started}",
            log,
            ["--config", self.config, "--log", "debug", *arguments],
            world.ENVIRONMENT,
        ).start()
        self.workplace.on_exit(server.kill)
        work(world.World(server, self.lists_uploads, tls))
        self.tally.check("the server runs", None if server.running() else server.log_tail())
        if server.running():
            server.stop()
        text = log.read_text(errors="replace")
        leaked = [secret for secret in world.SECRETS.values() if secret in text]
        self.tally.check("no secret is logged", leaked or None)
        signed = [line for line in text.splitlines() if "Signature=" in line or "panicked" in line]
        self.tally.check("no signature is logged, and no panic", signed[:3] or None)

    def matrix(self):
        self.server(lambda place: matrix.Matrix(place, self.tally, self.only).run())

    def classes(self):
        self.server(lambda place: classes.run(place, self.tally, self.only))

    def mixing(self):
        done = cut = 0
        for name, (rounds, seconds, held) in MIXING.items():
            arguments, tls = ["--cores", "1" if held else "2"], None
            if held:
                admin_port = server_process.free_port()
                arguments += ["--memory", "small", "--admin-listen", f"127.0.0.1:{admin_port}"]
            if name == "https":
                certificate, key = self.workplace.path / "cert.pem", self.workplace.path / "key.pem"
                command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
                command += " -subj /CN=localhost -addext subjectAltName=DNS:localhost"
                subprocess.run(
                    [*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True
                )
                arguments += ["--tls-cert", certificate, "--tls-key", key]
                tls = ssl.create_default_context(cafile=certificate)

            def work(place, name=name, rounds=rounds, seconds=seconds, held=held, tls=tls):
                nonlocal done, cut
                place.admin_port = admin_port if held else None
                counted = mixing.run(place, self.tally, name, rounds, seconds, held, tls)
                done, cut = done + counted[0], cut + counted[1]

            self.server(work, arguments, tls)
        few = None if done >= 8_000 and cut >= 1_500 else f"{done} rounds, {cut} cut off"
        self.tally.check("mixing: enough rounds", few)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary")
    parser.add_argument("--suite", choices=FLOORS)
    parser.add_argument("--only", help="operations or tests with this in their name")
    arguments = parser.parse_args()
    binary = server_process.find_binary(arguments.binary)
    tally = world.Tally()
    with server_process.Workplace("attacks") as workplace:
        run = Run(binary, workplace, tally, arguments.only)
        for suite, floor in FLOORS.items():
            if arguments.suite not in (None, suite):
                continue
            begun, before = time.monotonic(), tally.passed + len(tally.failed)
            getattr(run, suite)()
            cases = tally.passed + len(tally.failed) - before
            if not arguments.only:
                few = f"{cases} cases, {floor} wanted" if cases < floor else None
                tally.check(f"{suite}: enough cases", few)
            print(f"{suite}: {cases} cases in {time.monotonic() - begun:.0f} s", flush=True)
        print(f"attacks: {tally.passed} passed, {len(tally.failed)} failed")
        if tally.failed or tally.passed == 0:
            raise SystemExit(1)


main()
