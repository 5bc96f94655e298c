"""The operations that are served, as src/s3/route.rs has them, and their headers, as the model has
them. What cannot be read is an error: the matrix must not shrink because a table moved."""

import collections
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
ROUTES = ROOT / "src" / "s3" / "route.rs"
MODEL = ROOT / "tests" / "s3-model" / "operations.tsv"

Route = collections.namedtuple("Route", "operation name method on requires served copy")
Model = collections.namedtuple("Model", "method uri members headers")

_NAMES = r"&\[(?P<names>[^\]]*)\]"
_REQUIRES = r"&\[(?P<requires>[^\]]*)\]"
_ROW = re.compile(
    rf"^    (?:(?P<served>served|refused)\({_NAMES}, (?P<method>[\w:]+), (?P<on>\w+), {_REQUIRES}"
    rf"|(?P<copy>copy)\(&\[(?P<copied>[^\]]*)\], &\[(?P<demands>[^\]]*)\])"
    r"(?P<rest>.*)\),$"
)


def routes():
    """Served and refused rows."""
    text = ROUTES.read_text()
    table = text.split("const ROWS: &[Row] = &[", 1)[1].split("\n];", 1)[0]
    found = []
    for line in table.splitlines():
        line = line.split(" // ")[0]
        if not line.strip() or line.strip().startswith("//"):
            continue
        match = _ROW.match(line)
        if not match:
            raise SystemExit(f"{ROUTES}: not understood: {line}")
        copy = match["copy"] is not None
        names = re.findall(r'"([^"]+)"', match["copied"] if copy else match["names"])
        requires = re.findall(
            r'\("([^"]+)", (?:None|Some\("([^"]*)"\))\)',
            match["demands"] if copy else match["requires"],
        )
        operation = re.search(r"Operation::(\w+)", match["rest"])
        served = copy or match["served"] == "served"
        if served != (operation is not None):
            raise SystemExit(f"{ROUTES}: not understood: {line}")
        found.append(
            Route(
                operation[1] if operation else None,
                names[0],
                "PUT" if copy else match["method"].split("::")[-1].upper(),
                "Object" if copy else match["on"],
                requires,
                served,
                copy,
            )
        )
    variants = text.split("pub enum Operation {", 1)[1].split("}", 1)[0]
    variants = re.findall(r"^    (\w+),$", variants, re.M)
    rows = [route.operation for route in found if route.served]
    if sorted(variants) != sorted(rows):
        missing = set(variants) ^ set(rows)
        raise SystemExit(f"{ROUTES}: operations without a row, or rows twice: {sorted(missing)}")
    return found


def model():
    """By operation name."""
    found = {}
    for line in MODEL.read_text().splitlines():
        if line.startswith("#"):
            continue
        name, method, uri, members, headers = line.split("\t")
        split = [[] if text == "-" else text.split(",") for text in (members, headers)]
        found[name] = Model(method, uri, *split)
    return found
