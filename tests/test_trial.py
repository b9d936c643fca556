"""Measurements, configs and errors cross processes whole."""

import json
import pickle

import pytest

from gpu_tune.errors import CompileError, InvalidInput
from gpu_tune.space.knob import Config, Knob
from gpu_tune.trial import MEASURED, Candidate, Measurement, Policy, Resources


def test_a_measurement_survives_json_and_pickle():
    m = Measurement(
        Candidate("t", Config(a=1, b="x", c=True)),
        "ok",
        MEASURED,
        samples=(2e-6, 1e-6, 3e-6),
        resources=Resources(registers=32, notes=("C7510",)),
        policy=Policy(l2="warm"),
        environment={"driver": "580"},
        seconds={"compile": 0.1},
    )
    assert Measurement.from_json(json.loads(json.dumps(m.to_json()))) == m == pickle.loads(pickle.dumps(m))
    assert m.time == 2e-6 and m.ok


def test_a_failure_never_carries_a_time_and_success_always_does():
    candidate = Candidate("t", Config(a=1))
    with pytest.raises(ValueError, match="needs samples"):
        Measurement(candidate, "ok", MEASURED)
    with pytest.raises(ValueError, match="no times"):
        Measurement(candidate, "wrong", MEASURED, samples=(1.0,))
    with pytest.raises(ValueError, match="unknown"):
        Measurement(candidate, "great", MEASURED)
    assert not Measurement(candidate, "run_timeout", MEASURED).ok


def test_configs_are_values():
    one, same = Config(b=2, a=1), Config({"a": 1, "b": 2})
    assert one == same and hash(one) == hash(same) and one.key == '{"a":1,"b":2}'
    assert one != Config(a=1, b=True) and Config(a=1) != Config(a=True)
    assert one.replace(a=5)["a"] == 5 and one["a"] == 1
    with pytest.raises(ValueError):
        Knob("a", (1, 1), "twice the same")


def test_errors_cross_process_boundaries_whole():
    for error in (InvalidInput("m", -1, "is negative", "give more"), CompileError("no", "log\nlines")):
        copy = pickle.loads(pickle.dumps(error))
        assert str(copy) == str(error) and type(copy) is type(error)
