"""Predicted hours: what a plan would have said of trials that have run, each on the card that it had."""

from collections.abc import Sequence
from dataclasses import replace

from sweeps.machines.cards import DEFAULT_CARD
from sweeps.planning.probed_rates import Workload, known
from sweeps.planning.rates import Rates
from sweeps.records.trial_record import TrialRecord
from vit_trainer.cards import CARDS, card_of_device
from vit_trainer.errors import InputError
from vit_trainer.files.storage import Storage
from vit_trainer.loop.probe import ProbeResult


def with_predicted_hours(trials: Sequence[TrialRecord], storage: Storage) -> tuple[list[TrialRecord], list[str]]:
    """The trials with their predicted hours: by a probe of their device, else by their card's peak.

    Returns:
        Them, and what of the storage's probes could not be read.
    """
    workloads: dict[str, Workload] = {}
    for record in trials:
        try:
            workloads[record.trial_id] = Workload.of(record.trial)
        except InputError:
            continue  # of a folder of classes config.json has the id, not the place
    measured: dict[Workload, ProbeResult] = {}
    complaints = []
    try:
        measured = known([record.trial for record in trials if record.trial_id in workloads], storage)
    except InputError as error:
        complaints.append(str(error))

    def hours(record: TrialRecord) -> float | None:
        workload = workloads.get(record.trial_id)
        if workload is None or not record.attempts:
            return None
        device = record.last_attempt.get("device_name")
        count = 1 if record.status == "finished" and len(record.validations) == 1 else None  # a rehearsal
        probed = measured.get(workload)
        if probed is not None and probed.device_name == device:
            return Rates(CARDS[DEFAULT_CARD], {workload: probed}).hours(record.trial, count)
        card = card_of_device(str(device))
        return None if card is None else Rates(card).hours(record.trial, count)

    return [replace(record, predicted_hours=hours(record)) for record in trials], complaints
