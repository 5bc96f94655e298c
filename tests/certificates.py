"""A certificate authority of the test's own, and a pair that it signed for this machine's loopback."""

import pathlib
import subprocess

NAMES = "subjectAltName=DNS:localhost,DNS:s3.test,DNS:*.s3.test,IP:127.0.0.1"

# Environment variables by which OpenSSL and Go, curl, AWS's SDKs, Node.js, requests learn of it.
TRUST = ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE"]


class Certificates:
    def __init__(self, place):
        """Writes the files into `place`, which must exist."""
        place = pathlib.Path(place)
        self.authority, self.chain, self.key = (
            place / name for name in ("authority.pem", "chain.pem", "key.pem")
        )
        authority_key, request = place / "authority-key.pem", place / "request.pem"
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")

        def openssl(*words):
            subprocess.run(["openssl", *words], check=True, capture_output=True)

        openssl(
            "req", "-x509", *curve, "-days", "30", "-subj", "/CN=Ostrakon tests",
            "-addext", "keyUsage=critical,keyCertSign", "-keyout", authority_key, "-out", self.authority,
        )  # fmt: skip
        openssl(
            "req", *curve, "-subj", "/CN=localhost", "-addext", NAMES,
            "-keyout", self.key, "-out", request,
        )  # fmt: skip
        openssl(
            "x509", "-req", "-in", request, "-copy_extensions", "copy", "-days", "30",
            "-CA", self.authority, "-CAkey", authority_key, "-CAcreateserial", "-out", self.chain,
        )  # fmt: skip
        self.key.chmod(0o600)

    def environment(self):
        """What makes clients trust the authority."""
        return dict.fromkeys(TRUST, str(self.authority))
