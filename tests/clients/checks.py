"""Collects and runs checks: functions, each alone, with a count at the end."""

import time
import traceback


class Checks:
    def __init__(self, name):
        self.name = name
        self.functions = []

    def __call__(self, function):
        self.functions.append(function)
        return function

    def run(self, context, label, only=None):
        """(how many passed, names of those that failed)"""
        passed, failed = 0, []
        for function in self.functions:
            name = function.__name__
            if only and only not in name:
                continue
            start = time.monotonic()
            try:
                function(context)
            except Exception as error:
                failed.append(name)
                print(f"FAILED {label}: {name}: {error!r}", flush=True)
                traceback.print_exc()
            else:
                passed += 1
                took = time.monotonic() - start
                print(f"ok     {label}: {name}  {took:.1f} s", flush=True)
        return passed, failed


def equal(found, wanted, what=""):
    if found != wanted:
        raise AssertionError(f"{what}: found {short(found)}, wanted {short(wanted)}")


def short(value):
    text = repr(value)
    return text if len(text) < 300 else f"{text[:300]}… ({len(text)} characters)"
