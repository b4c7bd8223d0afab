"""`fovea doctor`: it finds what is there, and for what is not it says how to mend it."""

import json

import pytest

from fovea.cli import doctor, main

ABSENT = doctor.Finding("GL", "missing", "libOSMesa is not installed", "`apt-get install libosmesa6` as root")
PRESENT = doctor.Finding("Python", "ok", "3.12.1")


def test_this_machine_passes_what_the_tests_themselves_need(capsys):
    """Run for real: the set-up that brought us here provides all of these."""
    main(["doctor", "--json"])
    findings = {row["name"]: row for row in json.loads(capsys.readouterr().out)["findings"]}
    for name in ("Python", "torch", "LeRobot", "policies in LeRobot", "GL", "LIBERO", "video"):
        assert findings[name]["state"] == "ok", findings[name]


@pytest.mark.parametrize(("findings", "code"), [([PRESENT], 0), ([PRESENT, ABSENT], 1)])
def test_something_missing_sets_the_exit_code_and_says_how_to_mend_it(monkeypatch, capsys, findings, code):
    monkeypatch.setattr(doctor, "CHECKS", [lambda config, row=row: row for row in findings])
    assert main(["doctor"]) == code
    out = capsys.readouterr().out
    assert ("apt-get install libosmesa6" in out) == bool(code)
    assert ("Ready" in out) != bool(code)


def test_an_unwritable_folder_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    finding = doctor.disk(doctor.Config(out=tmp_path / "new" / "run"))
    assert finding.state == "missing"
    assert "--out" in finding.mend


def test_a_missing_gl_library_is_named(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    monkeypatch.setattr(doctor.ctypes.util, "find_library", lambda name: None)
    finding = doctor.gl(doctor.Config())
    assert finding.state == "missing"
    assert "apt-get install libosmesa6" in finding.mend


def test_a_checkout_that_lerobot_cannot_find_is_reported(monkeypatch):
    monkeypatch.setattr(doctor, "PLUGIN", "lerobot_policy_of_nobody")
    finding = doctor.plugin(doctor.Config())
    assert finding.state == "missing"
    assert "pip install -e ." in finding.mend


def test_too_many_threads_are_warned_about(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "512")
    assert doctor.threads(doctor.Config()).state == "warning"


def test_damaged_weights_are_reported(tmp_path, monkeypatch):
    import fovea

    monkeypatch.setattr(fovea, "__file__", str(tmp_path / "__init__.py"))
    assert doctor.weights(doctor.Config()).state == "missing"
    folder = tmp_path / "encoders" / "weights"
    folder.mkdir(parents=True)
    (folder / "tiny.safetensors").write_bytes(b"garbage")
    finding = doctor.weights(doctor.Config())
    assert (finding.state, "damaged" in finding.mend) == ("missing", True)
