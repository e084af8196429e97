"""Loss: whether the Ray cluster of this process is still there. Ray's own calls would wait for it for ever."""

import threading
import time
from contextlib import AbstractContextManager
from types import TracebackType

import ray
from ray._private.gcs_utils import GcsNodeInfo
from ray._raylet import GcsClient  # type: ignore[attr-defined]

SECONDS_BETWEEN_LOOKS = 2.0
SECONDS_TO_ANSWER = 5.0
SECONDS_OF_SILENCE = 25.0
"""After these the cluster counts as lost; a head that was started again within them answers at the same address."""


class LossWatch(AbstractContextManager["LossWatch"]):
    """Looks again and again, in a thread of its own, while the context lasts."""

    def __init__(self) -> None:
        context = ray.get_runtime_context()
        self._address, self._node = context.gcs_address, context.get_node_id()
        self._over = threading.Event()
        self.loss = ""
        """What was lost, once something was."""

    def __enter__(self) -> "LossWatch":
        threading.Thread(target=self._look, name="loss-watch", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()

    def _look(self) -> None:
        client, heard_at = GcsClient(address=self._address), time.monotonic()
        while not self.loss and not self._over.wait(SECONDS_BETWEEN_LOOKS):
            asked_at = time.monotonic()
            try:
                living = client.get_all_node_info(
                    timeout=SECONDS_TO_ANSWER, state_filter=GcsNodeInfo.GcsNodeState.ALIVE
                )
            except ray.exceptions.RayError:
                if time.monotonic() - heard_at > SECONDS_OF_SILENCE:
                    self.loss = f"The Ray cluster at {self._address} doesn't answer any more"
                continue
            heard_at = asked_at
            if self._node not in {node.hex() for node in living}:
                self.loss = "This machine's Ray node has died"
