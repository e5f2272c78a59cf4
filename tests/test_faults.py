"""The written faults of `make mutate` still name text of the code: one that does not would never be tried."""

from tests import mutate


def test_every_written_fault_has_its_place():
    assert len(mutate.written()) >= 87


def test_every_test_that_should_catch_a_fault_exists():
    named = {test for patterns in mutate.PARTS.values() for tests in patterns.values() for test in tests}
    named |= {test for fault in mutate.written() for test in fault.tests}
    assert not [test for test in named if not (mutate.CHECKOUT / test.partition("::")[0]).exists()]
