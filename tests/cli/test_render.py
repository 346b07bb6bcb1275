"""Tables of reports that no command's test makes."""

from intraq_deploy.cli.ship import show_shipping
from intraq_deploy.pipeline.ship import HostReport, ShipReport


def test_a_host_whose_trtexec_says_no_percentiles(capsys):
    row = {"batch": 1, "median_ms": 0.515, "p90_ms": None, "p99_ms": None}
    hosts = [HostReport(host="a", answers={"bench": {"batches": [row]}}), HostReport(host="b")]
    show_shipping(ShipReport(run="runs/demo", hosts=hosts))
    said = capsys.readouterr().out
    assert "0.515" in said
    assert "None" not in said
