"""The faults that a stack can be asked for."""

import pytest

from mqtt_service.devstack.faults import Faults, InvalidFaultError, RealtimeAction, RealtimeFaults, RestFault


def test_a_rule_is_used_as_often_as_asked_for_paths_that_match() -> None:
    faults = Faults()
    faults.add_rest(RestFault("rpc/claim", "status", times=2))
    taken = [faults.take_rest(path) for path in ("/rpc/other", "/rpc/claim", "/rpc/claim", "/rpc/claim")]
    assert [fault is not None for fault in taken] == [False, True, True, False]


def test_the_oldest_rule_is_used_first_and_one_without_a_number_stays() -> None:
    faults = Faults()
    faults.add_rest(RestFault("a", "close", times=1))
    faults.add_rest(RestFault("a", "hang"))
    kinds = [fault.kind for fault in map(faults.take_rest, "aaa") if fault]
    assert kinds == ["close", "hang", "hang"]


def test_clearing_lets_everything_work_again_and_frees_what_hangs() -> None:
    faults = Faults()
    faults.set_from({"rest": [{"match": "a", "kind": "hang"}], "realtime": {"silent": True}})
    hung = faults.cleared
    faults.clear()
    assert hung.is_set()
    assert (faults.rest, faults.realtime, faults.cleared.is_set()) == ([], RealtimeFaults(), False)


def test_actions_reach_those_who_listen() -> None:
    faults, heard = Faults(), list[RealtimeAction]()
    faults.on_action(heard.append)
    faults.set_from({"actions": {"close": "abrupt", "phx_close": True, "expire": True}})
    assert heard == ["close_abrupt", "phx_close", "expire"]


@pytest.mark.parametrize(
    "document",
    [
        {"rest": [{"match": "a", "kind": "explode"}]},
        {"rest": [{"match": "a", "kind": "close", "often": 3}]},
        {"realtime": {"sleepy": True}},
        {"actions": {"close": "softly"}},
    ],
)
def test_a_fault_nobody_knows_changes_nothing(document: dict[str, object]) -> None:
    faults, heard = Faults(), list[RealtimeAction]()
    faults.on_action(heard.append)
    with pytest.raises(InvalidFaultError):
        faults.set_from({"realtime": {"drop": True}, **document})
    assert (faults.rest, heard) == ([], [])
