"""Claims about what the doctor finds."""

from dataclasses import replace

import pytest

from bench.cli import main
from bench.machine.doctor import findings
from bench.machine.facts import Limits, Machine

SOUND = Machine(
    governor="performance",
    smt=False,
    cores_logical=4,
    cgroup=Limits(),
    affinity=(0, 1, 2, 3),
    isa=("avx2", "avx512_vnni"),
    hypervisor=False,
)


def test_a_sound_machine_has_no_findings():
    assert findings(SOUND, 0.1, pinning=True, energy=True) == []


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"governor": "powersave"}, "cpupower"),
        ({"smt": True}, "smt/control"),
        ({"cgroup": Limits(cpus=1.5)}, "1.5 of 4 CPUs"),
        ({"affinity": (0,)}, "taskset"),
        ({"isa": ("avx2",)}, "no INT8 dot product"),
        ({"hypervisor": True}, "virtual machine"),
    ],
)
def test_each_obstacle_is_named_with_what_to_do(changed, word):
    (line,) = findings(replace(SOUND, **changed), 0.1, pinning=True, energy=True)
    assert word in line


def test_what_the_system_does_not_tell_is_no_finding():
    untold = {"governor": None, "smt": None, "affinity": None, "hypervisor": None, "cores_logical": None}
    assert findings(replace(SOUND, **untold), 0.1, pinning=True, energy=True) == []


def test_load_pinning_and_energy_are_looked_at():
    assert len(findings(SOUND, 1.0, pinning=False, energy=False)) == 3


def test_the_command_prints_a_line_each_and_says_by_its_status_whether_there_were_any(capsys):
    status = main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert status == (lines != ["nothing stands in the way of good figures"])
