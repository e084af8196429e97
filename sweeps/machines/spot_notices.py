"""Spot notices: what a cloud says in a machine of its own when it is about to take that back.

AWS says so two minutes before, Google Cloud thirty seconds. Not yet seen in either; tested with a served stand-in.
"""

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from http.client import HTTPException
from pathlib import Path
from urllib.request import ProxyHandler, Request, build_opener

SECONDS_BETWEEN_LOOKS = 2.0
SECONDS_TO_ANSWER = 2.0
SECONDS_OF_GOOGLE = 30.0
"""From its notice on; also how long its server waits for one."""
VENDOR = Path("/sys/class/dmi/id/sys_vendor")
AWS, GOOGLE = "AWS_EC2_METADATA_SERVICE_ENDPOINT", "GCE_METADATA_HOST"
"""Where their metadata are served, if not as always: the variables of their own programs."""


def wait_for_notice() -> float | None:
    """Wait until the cloud takes this machine back; the seconds left until then. None: it is in neither cloud."""
    try:
        vendor = VENDOR.read_text().strip()
    except OSError:
        vendor = ""
    look: Callable[[], float | None]
    if AWS in os.environ or vendor == "Amazon EC2":
        look = _notice_of_aws
    elif GOOGLE in os.environ or vendor == "Google":
        look = _Google().notice
    else:
        return None
    while True:
        with suppress(OSError, ValueError, KeyError, HTTPException):  # an outage; of AWS that there is none yet, too
            if (seconds := look()) is not None:
                return seconds
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _notice_of_aws() -> float | None:
    endpoint = os.environ.get(AWS, "http://169.254.169.254").rstrip("/")
    lives = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token, _ = _read(Request(f"{endpoint}/latest/api/token", method="PUT", headers=lives))
    request = Request(
        f"{endpoint}/latest/meta-data/spot/instance-action", headers={"X-aws-ec2-metadata-token": token.decode()}
    )
    notice, _ = _read(request)
    return datetime.fromisoformat(json.loads(notice)["time"]).timestamp() - time.time()


class _Google:
    """Asks Google's server, which answers when something changes."""

    def __init__(self) -> None:
        self._etag = "0"  # of what is known: nothing

    def notice(self) -> float | None:
        host = os.environ.get(GOOGLE, "metadata.google.internal")
        wait = f"wait_for_change=true&timeout_sec={SECONDS_OF_GOOGLE:.0f}&last_etag={self._etag}"
        url, headers = f"http://{host}/computeMetadata/v1/instance/preempted?{wait}", {"Metadata-Flavor": "Google"}
        is_preempted, self._etag = _read(Request(url, headers=headers), SECONDS_OF_GOOGLE)
        return SECONDS_OF_GOOGLE if is_preempted.strip() == b"TRUE" else None


def _read(request: Request, waits: float = 0.0) -> tuple[bytes, str]:
    """What is answered, and its ETag."""
    with build_opener(ProxyHandler({})).open(request, timeout=waits + SECONDS_TO_ANSWER) as answer:
        return answer.read(), answer.headers.get("ETag", "0")
