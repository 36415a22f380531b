"""Blank devices: a dry run has changed nothing on them, and verify.yml says what is missing.

molecule/default/noted.yml noted what stood on them before that dry run.
"""

from __future__ import annotations

from tests.e2e.conftest import Fleet, noted_blank


def test_a_dry_run_changed_nothing(fleet: Fleet) -> None:
    for host in fleet.hosts():
        assert fleet.manifest(host) == noted_blank(host)


def test_verify_says_what_is_missing_and_changes_nothing(fleet: Fleet) -> None:
    hosts = fleet.hosts()
    run = fleet.playbook("playbooks/verify.yml")
    assert run.code != 0
    assert run.output.count("WRONG") > 10 * len(hosts)
    assert "Traceback" not in run.output
    assert {host: fleet.manifest(host) for host in hosts} == {host: noted_blank(host) for host in hosts}
