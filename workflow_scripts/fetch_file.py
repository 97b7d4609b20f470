"""Download a file and check its SHA-256; nothing is left behind when either fails."""

import argparse
import hashlib
import http.client
import logging
import urllib.request

from learning_dynamics.errors import InputError, run_script
from learning_dynamics.files import atomic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--sha256", default="", help="expected digest; empty: only report it")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    try:
        with urllib.request.urlopen(args.url, timeout=60) as response:
            content = response.read()
    except (OSError, ValueError, http.client.HTTPException) as error:  # URLError is an OSError
        raise InputError(
            f"{args.url}: cannot be downloaded ({error}); give a local copy as its path"
        ) from None
    digest = hashlib.sha256(content).hexdigest()
    if args.sha256 and digest != args.sha256:
        raise InputError(f"{args.url}: sha256 is {digest}; expected {args.sha256}")
    logging.info("%s: %d bytes, sha256 %s", args.url, len(content), digest)
    with atomic(args.out) as temporary:
        temporary.write_bytes(content)


if __name__ == "__main__":
    run_script(main)
