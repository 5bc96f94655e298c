"""Collects and runs checks: functions, each alone, with a count at the end."""

import time
import traceback


class Checks:
    def __init__(self, name, only=None):
        self.name = name
        self.only = only
        self.functions = []
        self.passed = 0
        self.failed = []

    def __call__(self, function):
        self.functions.append(function)
        return function

    def run(self, context):
        for function in self.functions:
            if self.only and self.only not in function.__name__:
                continue
            start = time.monotonic()
            try:
                function(context)
            except Exception as error:
                self.failed.append(function.__name__)
                print(f"FAILED {self.name}: {function.__name__}: {error!r}", flush=True)
                traceback.print_exc()
            else:
                self.passed += 1
                took = time.monotonic() - start
                print(f"ok     {self.name}: {function.__name__}  {took:.1f} s", flush=True)


def equal(found, wanted, what=""):
    if found != wanted:
        raise AssertionError(f"{what}: found {short(found)}, wanted {short(wanted)}")


def short(value):
    text = repr(value)
    return text if len(text) < 300 else f"{text[:300]}… ({len(text)} characters)"
