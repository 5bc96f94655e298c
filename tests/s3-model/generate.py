#!/usr/bin/env python3
"""Writes operations.tsv from the S3 service model of the installed botocore.

Columns: operation, method, URI, query members, header members. The routing and header tables of
src/s3/ are tested against it: an operation without a row fails.
Usage: python3 tests/s3-model/generate.py > tests/s3-model/operations.tsv
"""
import botocore.session

model = botocore.session.get_session().get_service_model("s3")
print(f"# The operations of S3 (API version {model.api_version}); made by generate.py.")
for name in model.operation_names:
    operation = model.operation_model(name)
    members = operation.input_shape.members.values() if operation.input_shape else []
    of = lambda place: ",".join(
        sorted(m.serialization["name"] for m in members if m.serialization.get("location") == place)
    )
    headers = ",".join(filter(None, [of("header"), of("headers")]))
    print(name, operation.http["method"], operation.http["requestUri"], of("querystring") or "-",
          headers or "-", sep="\t")
