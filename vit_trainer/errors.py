"""What can go wrong, as a tree: the class says whose fault it is, the message what to do."""

from decimal import Decimal


class VitTrainerError(Exception):
    """Base of every error that this project raises on purpose."""


class InputError(VitTrainerError, ValueError):
    """Something that the user gave cannot be used; the command line prints it as one line and exits with 2."""


class CheckpointError(InputError):
    """A weights file that is missing, damaged, unsafe or made for another model."""


class DataError(InputError):
    """A data set that is missing, incomplete or damaged."""


class DownloadError(InputError):
    """A file that couldn't be downloaded; the message says which one to put where."""


class DamagedError(InputError):
    """A run folder with something in it that no trial writes: which file and why, in one line. It counts nowhere."""


class StoreError(InputError):
    """An MLflow store that doesn't answer, or refuses."""


class NonFiniteLossError(VitTrainerError):
    """The loss became NaN or infinite: the run stops at that step, its last checkpoint stays."""


class LeaseLostError(VitTrainerError):
    """Another process has taken over this run folder, so this one must stop writing."""


class RunInterruptedError(VitTrainerError):
    """The run was asked to end: its state is kept, and whoever calls it again goes on from there."""


class DataOutageError(RunInterruptedError):
    """The bucket that images are read from doesn't answer, or refuses."""


class RunPausedError(RunInterruptedError):
    """A run has come to where it was to wait; its state is kept."""


class GangRestartError(VitTrainerError):
    """All processes of the run must start again, from its last checkpoint."""

    def __init__(self, message: str, micro_batch_size: int | None = None) -> None:
        super().__init__(message)
        self.micro_batch_size = micro_batch_size
        """Images per forward and backward to start again with; None: as before."""


def one_of(kind: str, given: str, valid: list[str]) -> InputError:
    """The error for an unknown name: what was given, the nearest valid name first, then the others.

    >>> print(one_of("model", "ViT-B16", ["ViT-L_16", "ViT-B_16"]))
    unknown model 'ViT-B16'; did you mean 'ViT-B_16'? Valid: ViT-B_16, ViT-L_16
    """
    import difflib

    ranked = sorted(valid, key=lambda name: -difflib.SequenceMatcher(None, given.lower(), name.lower()).ratio())
    hint = f"; did you mean {ranked[0]!r}?" if difflib.get_close_matches(given, ranked, n=1, cutoff=0.6) else "."
    return InputError(f"unknown {kind} {given!r}{hint} Valid: {', '.join(ranked)}")


def reason_of(error: BaseException) -> str:
    """Why something failed, in one line: of an OSError what the system says, else the first line of the message.

    >>> reason_of(FileNotFoundError(2, "No such file or directory", "weights.npz")), reason_of(ValueError())
    ('No such file or directory', 'ValueError')
    """
    return str(getattr(error, "strerror", None) or str(error).strip() or type(error).__name__).splitlines()[0]


def cause_of(error: Exception) -> str:
    """What failed and why, in one line, where the kind of error says as much as its message.

    >>> cause_of(ZeroDivisionError("division by zero"))
    'ZeroDivisionError: division by zero'
    """
    return f"{type(error).__name__}: {error}".splitlines()[0]


def plain(value: float) -> str:
    """Three digits, without an exponent.

    >>> plain(6.5e-05), plain(1234.5), plain(0.5)
    ('0.000065', '1230', '0.5')
    """
    return f"{Decimal(f'{value:.3g}'):f}"


def counted(number: int, noun: str) -> str:
    """
    >>> counted(1, "cell"), counted(30, "cell")
    ('1 cell', '30 cells')
    """
    return f"{number} {noun}{'s' * (number != 1)}"
