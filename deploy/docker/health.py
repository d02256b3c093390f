"""Is the server in this container alive? Exit code 0 if so. It knows the options that are set by variables."""

import os
import ssl
import sys
import urllib.error
import urllib.request

_TIMEOUT_S = 4


def main() -> int:
    """Ask /healthz."""
    scheme = "https" if os.environ.get("VLMOE_SERVE_TLS_CERT") else "http"
    url = f"{scheme}://127.0.0.1:{os.environ.get('VLMOE_SERVE_PORT', '8000')}/healthz"
    # it is ourselves whom we ask: the certificate is for another name
    trust = ssl._create_unverified_context() if scheme == "https" else None
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S, context=trust) as answer:
            return int(answer.status != 200)
    except OSError as error:
        print(f"{url}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
