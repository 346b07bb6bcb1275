"""Tables of reports that no command's test makes."""

import pytest

from intraq_deploy.cli.ship import show_shipping
from intraq_deploy.pipeline.report import ParityRecord, TolerancedRecord
from intraq_deploy.pipeline.sentences import parity_sentence
from intraq_deploy.pipeline.ship import HostReport, ShipReport


def test_a_host_whose_trtexec_says_no_percentiles(capsys):
    row = {"batch": 1, "median_ms": 0.515, "p90_ms": None, "p99_ms": None}
    hosts = [HostReport(host="a", answers={"bench": {"batches": [row]}}), HostReport(host="b")]
    show_shipping(ShipReport(run="runs/demo", hosts=hosts))
    said = capsys.readouterr().out
    assert "0.515" in said
    assert "None" not in said


def parity(mismatched, *, exact=0, within=0, rehearsed=False):
    tolerated = TolerancedRecord(tensor="a", reason="summed", allowed_share=0.001, mismatched=within, compared=9000)
    return ParityRecord(
        images=8, tensors=2, integers_compared=57_417_728, integers_mismatched=mismatched, exact_mismatched=exact,
        toleranced=[tolerated] if within else [], near_ties=0, mismatched_tensors={}, underused_tensors=[],
        top1_agreement=100.0, fake_quant_agreement=100.0, logits_equal=True, instrumented_equal=True,
        integer_kernels={}, float_kernels={}, rehearsed=rehearsed, ran_by=None,
    )  # fmt: skip


@pytest.mark.parametrize("rehearsed", [False, True])
@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"mismatched": 0}, ""),
        ({"mismatched": 2, "exact": 2}, ""),
        ({"mismatched": 2}, "2 near ties, which another order of float32 arithmetic rounds otherwise."),
        ({"mismatched": 3, "within": 3}, "3 in tensors that are computed in float."),
        ({"mismatched": 6, "exact": 1, "within": 3}, "rounds otherwise, and 3 in tensors that are computed"),
    ],
)
def test_integers_that_differ_and_may_have_a_reason(record, reason, rehearsed):
    sentence = parity_sentence("it", parity(**record, rehearsed=rehearsed))
    assert f"{record['mismatched']} of 57,417,728 integers differ" in sentence
    assert reason in sentence
    assert ("Allowed: " in sentence) == bool(reason)
