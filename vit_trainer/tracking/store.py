"""Where MLflow keeps its runs: the default, and a check of what the user names. Standard library until it checks."""

import os
import queue
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vit_trainer.errors import InputError, StoreError, VitTrainerError, cause_of
from vit_trainer.files.location import split_uri
from vit_trainer.files.outgoing import hide_secrets
from vit_trainer.tracking.database import database_of, require_database

SECONDS_TO_ANSWER = 5
"""How long the check of a tracking URI waits for each answer."""
VALID = "give http://host:port of an MLflow server, sqlite:///folder/mlflow.db or postgresql://user@host/database"


def be_impatient() -> None:
    """Have MLflow's client give up after seconds, not minutes, where the environment doesn't say otherwise.

    What isn't shipped now is shipped later, and a sweep's end waits for the last attempt. Nor does it print two lines
    for each run that ends.
    """
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(2 * SECONDS_TO_ANSWER))


def require_store(tracking_uri: str) -> None:
    """Check that MLflow's runs can be kept there.

    Raises:
        InputError: the URI is none of MLflow's.
        StoreError: nothing answers there within seconds, or it refuses.
    """
    parts = split_uri(tracking_uri, "tracking-uri")
    scheme, shown = parts.scheme.partition("+")[0], hide_secrets(tracking_uri)
    try:
        if scheme in ("http", "https"):
            default_port = 443 if scheme == "https" else 80
            with socket.create_connection((parts.hostname or "", parts.port or default_port), SECONDS_TO_ANSWER):
                pass  # the quick answer if there is no server
            _within_seconds(lambda: _ask_server(tracking_uri))
        elif (path := database_of(tracking_uri)) is not None:
            require_database(path)
        elif scheme in ("postgresql", "mysql", "mssql"):
            _within_seconds(lambda: _connect(tracking_uri))
        elif scheme != "databricks" and tracking_uri != "databricks":
            raise InputError(f"tracking-uri {shown} is none of MLflow's: {VALID}")
    except InputError:
        raise
    except Exception as error:
        text = f"{type(error).__name__} {error}"
        reason = hide_secrets(getattr(error, "strerror", None) or text.splitlines()[0])
        advice = "start the server there or correct the address; leave --tracking-uri out for a local file"
        if isinstance(error, ModuleNotFoundError):
            advice = "install that driver, or psycopg2-binary and write postgresql+psycopg2://user@host/database"
        elif re.search(r"\b40[13]\b|password|UNAUTHENTICATED|PERMISSION_DENIED", text):
            advice = "give it what it asks for, a server by MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        raise StoreError(f"MLflow at {shown} can't be used ({reason[:200]}): {advice}") from error


@contextmanager
def outage_said(advice: str) -> Iterator[None]:
    """Raise VitTrainerError, in one line with what to do, for whatever MLflow's client raises in an outage."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise VitTrainerError(f"MLflow broke off ({cause_of(error)}): {advice}") from error


def _ask_server(tracking_uri: str) -> None:
    be_impatient()
    from mlflow import MlflowClient

    MlflowClient(tracking_uri).search_experiments(max_results=1)


def _connect(tracking_uri: str) -> None:
    from sqlalchemy import create_engine

    create_engine(tracking_uri).connect().close()


def _within_seconds(call: Callable[[], None]) -> None:
    """Raise what the call raises, or TimeoutError if it takes too long; it then goes on in its thread.

    Imports count too, so the time is several times that of an answer.
    """
    outcome: queue.Queue[Exception | None] = queue.Queue()

    def work() -> None:
        try:
            call()
        except Exception as error:
            outcome.put(error)
        else:
            outcome.put(None)

    threading.Thread(target=work, daemon=True).start()
    try:
        error = outcome.get(timeout=6 * SECONDS_TO_ANSWER)
    except queue.Empty:
        raise TimeoutError(f"no answer within {6 * SECONDS_TO_ANSWER} s") from None
    if error is not None:
        raise error
