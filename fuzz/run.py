"""The fuzz targets of this repository: over their corpora, and some way beyond.

    python3 fuzz/run.py [--executions N] [--seconds N] [--target NAME] [--planted] [--keep]

Builds both fuzz crates (this one and shard-format/fuzz) with the coverage instrumentation of
libFuzzer, on the stable compiler and without a sanitizer: overflow checks and debug assertions are
on. Each target first runs over its corpus, then N executions more, with seeds of its own.

`--planted` runs the targets of this crate with a panic behind a rare input each, which must be found.
`--keep` takes what reached new code into the corpora, minimised.

Prints "fuzz: N executions of M targets, F findings"; a finding is left in target/fuzz/findings.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TRIPLE = "x86_64-unknown-linux-gnu"
FLAGS = [
    "-Cpasses=sancov-module",
    *(
        f"-Cllvm-args=-sanitizer-coverage-{option}"
        for option in ("level=4", "inline-8bit-counters", "pc-table", "trace-compares")
    ),
    "--cfg=fuzzing",
]
SERVER = ROOT / "fuzz"
SHARDS = ROOT / "shard-format" / "fuzz"
# A target: its crate, and what it runs over beside its corpus.
GOLDEN = ROOT / "shard-format" / "golden" / "v1"
TARGETS = {
    "head": (SERVER, []),
    "canonical": (SERVER, []),
    "aws_chunked": (SERVER, []),
    "documents": (SERVER, []),
    "headers": (SHARDS, [GOLDEN]),
    "batch": (SHARDS, [GOLDEN]),
    "footer": (SHARDS, [GOLDEN]),
    "records": (SHARDS, [GOLDEN]),
}
# The planted panics are found within this many executions.
PLANTED_EXECUTIONS_MAX = 1_000_000


def build(crate, features):
    kind = "planted" if features else "plain"
    place = ROOT / "target" / "fuzz"
    command = ["cargo", "build", "--release", "--locked", "--target", TRIPLE, "--target-dir", place]
    command += ["--features", ",".join(features)] if features else []
    environment = os.environ | {"RUSTFLAGS": " ".join(FLAGS)}
    environment.pop("CARGO_BUILD_RUSTFLAGS", None)
    if subprocess.run(command, cwd=crate, env=environment).returncode != 0:
        raise SystemExit(f"fuzz: {crate} does not build")
    # Both kinds have one name; each is kept beside the other.
    kept = place / kind
    kept.mkdir(parents=True, exist_ok=True)
    for target, (of, _) in TARGETS.items():
        if of == crate:
            # Another run may use the old one.
            (kept / target).unlink(missing_ok=True)
            shutil.copy2(place / TRIPLE / "release" / target, kept / target)
    return kept


class Run:
    def __init__(self, binary, target, arguments, seeds):
        crate, more = TARGETS[target]
        self.findings = ROOT / "target" / "fuzz" / "findings" / target
        self.findings.mkdir(parents=True, exist_ok=True)
        dictionary = crate / "dictionaries" / target
        command = [binary / target, f"-artifact_prefix={self.findings}/", "-print_final_stats=1"]
        command += [f"-dict={dictionary}"] if dictionary.exists() else []
        command += arguments + [place for place in seeds + more if place.exists()]
        done = subprocess.run(command, capture_output=True, errors="replace")
        self.text = done.stderr
        self.failed = done.returncode != 0
        counted = re.search(r"number_of_executed_units: (\d+)", self.text)
        # The last line of progress, where a crash left no statistics.
        marks = re.findall(r"^#(\d+)", self.text, re.M)
        self.executions = int(counted[1]) if counted else int(marks[-1]) if marks else 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--executions", type=int, default=100_000)
    parser.add_argument("--seconds", type=int, default=0, help="of each target, at most")
    parser.add_argument("--target", choices=TARGETS)
    parser.add_argument("--planted", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    wanted = [name for name in TARGETS if arguments.target in (None, name)]
    if arguments.planted:
        planted(build(SERVER, ["planted"]), [name for name in wanted if TARGETS[name][0] == SERVER])
        return
    binaries = {crate: build(crate, []) for crate in {TARGETS[name][0] for name in wanted}}
    executions, findings = 0, []
    limits = ["-max_len=4096", "-timeout=10", "-rss_limit_mb=2048", f"-seed={arguments.seed}"]
    for name in wanted:
        binary = binaries[TARGETS[name][0]]
        begun = time.monotonic()
        # New inputs go into a directory of the run; the committed ones are read.
        with tempfile.TemporaryDirectory(dir=ROOT / "target" / "fuzz") as fresh:
            corpus = TARGETS[name][0] / "corpus" / name
            bounds = [f"-runs={arguments.executions}", f"-max_total_time={arguments.seconds}"]
            run = Run(binary, name, limits + bounds, [pathlib.Path(fresh), corpus])
            executions += run.executions
            if run.failed:
                findings.append(name)
                print("\n".join(run.text.splitlines()[-60:]))
            elif arguments.keep:
                keep(binary / name, name, corpus, pathlib.Path(fresh))
        inputs = len(list(corpus.iterdir())) if corpus.exists() else 0
        state = "FOUND SOMETHING" if run.failed else "nothing found"
        took = time.monotonic() - begun
        print(f"{name}: {inputs} inputs, {run.executions} executions in {took:.0f} s, {state}", flush=True)
    print(f"fuzz: {executions} executions of {len(wanted)} targets, {len(findings)} findings")
    if findings or not executions:
        sys.exit(1)


def keep(binary, name, corpus, fresh):
    """The fewest of the old and new inputs that reach what all reach."""
    with tempfile.TemporaryDirectory(dir=ROOT / "target" / "fuzz") as merged:
        sources = [merged, corpus, fresh] + TARGETS[name][1]
        command = [binary, "-set_cover_merge=1", "-use_value_profile=0", "-max_len=1024", *[s for s in sources if pathlib.Path(s).exists()]]
        subprocess.run(command, check=True, capture_output=True)
        shutil.rmtree(corpus, ignore_errors=True)
        shutil.copytree(merged, corpus)


def planted(binary, names):
    missed, executions = [], 0
    for name in names:
        limits = ["-max_len=4096", "-timeout=10", f"-runs={PLANTED_EXECUTIONS_MAX}", "-seed=1"]
        with tempfile.TemporaryDirectory(dir=ROOT / "target" / "fuzz") as fresh:
            corpus = TARGETS[name][0] / "corpus" / name
            run = Run(binary, name, limits, [pathlib.Path(fresh), corpus])
        found = run.failed and "planted" in run.text
        executions += run.executions
        missed += [] if found else [name]
        print(f"{name}: planted, {'found' if found else 'MISSED'} after {run.executions} executions", flush=True)
        if not found:
            print("\n".join(run.text.splitlines()[-30:]))
        shutil.rmtree(run.findings, ignore_errors=True)
    print(f"fuzz: {len(names) - len(missed)} planted panics found, {len(missed)} missed, {executions} executions")
    if missed or not names:
        sys.exit(1)


main()
