"""The command line as a user meets it: contents, typos, mistakes, interruptions."""

import importlib.util
import json
import subprocess
import sys
import types
from dataclasses import dataclass, field

import pytest

from fovea.cli import app, main
from fovea.cli.verbs import VERBS, Verb
from fovea.errors import FoveaError

HEAVY = ("torch", "lerobot", "mujoco", "draccus", "numpy", "rich", "transformers", "open_clip")


@dataclass
class _Optimizer:
    lr: float = 1e-3  # peak learning rate


@dataclass
class _Config:
    """A toy verb.

    Attributes:
        workers: processes that simulate.
        tasks: which tasks.
    """

    workers: int = 2
    tasks: list[int] | None = None
    quick: bool = False  # two minutes
    output_dir: str = "outputs"
    optimizer: _Optimizer = field(default_factory=_Optimizer)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise FoveaError(f"workers: expected at least 1, got {self.workers}")


@pytest.fixture
def toy(monkeypatch):
    """A verb `toy` whose run records its configuration; set `.act` to make it do something."""
    module = types.SimpleNamespace(Config=_Config, seen=[], act=lambda config: None)
    module.run = lambda config: (module.seen.append(config), module.act(config))[1]
    monkeypatch.setitem(VERBS, "toy", Verb("Start here", "a toy", "toy_module", ("fovea toy --quick",)))
    monkeypatch.setitem(sys.modules, "toy_module", module)
    return module


def _run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("argv", [[], ["--help"], ["--version"], ["reproduce", "--help"], ["dmeo"]])
def test_help_and_typos_import_nothing_heavy(argv):
    loaded = _run_python(
        f"import sys; from fovea.cli import main; main({argv!r}); "
        f"print('loaded', [m for m in {HEAVY!r} if m in sys.modules])"
    )
    assert loaded.strip().endswith("loaded []")


def test_help_is_a_table_of_contents(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for name, verb in VERBS.items():
        assert f"  {name} " in out
        assert verb.summary in out
    assert "fovea demo --quick" in out


@pytest.mark.parametrize("name", list(VERBS))
def test_every_verb_is_backed_by_a_module_and_has_an_example(name):
    verb = VERBS[name]
    for module in [verb.module, *(module for module, _ in (verb.choices or {}).values())]:
        assert importlib.util.find_spec(module) is not None
    assert all(example.startswith(f"fovea {name}") for example in verb.examples)


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["dmo"], "Did you mean 'demo'?"),
        (["evla"], "Did you mean 'eval'?"),
        (["xyzzy"], "there is no verb 'xyzzy'"),
        (["reproduce", "frist"], "Did you mean 'first'?"),
        (["doctor", "--jsn"], "Did you mean '--json'?"),
        (["suites", "--suite", "libero_objct"], "Did you mean 'libero_object'?"),
        (["doctor", "json"], "expected a --flag, got 'json'"),
    ],
)
def test_a_typo_suggests_the_nearest_name(argv, hint, capsys):
    assert main(argv) == 2
    streams = capsys.readouterr()
    assert hint in streams.err
    assert "Traceback" not in streams.err
    assert streams.out == ""


def test_flags_in_every_spelling(toy):
    line = "--workers 3 --quick --tasks 0,2 --output-dir=/data/x --optimizer.lr 2e-4"
    assert main(["toy", *line.split()]) == 0
    assert toy.seen == [_Config(3, [0, 2], True, "/data/x", _Optimizer(2e-4))]
    main(["toy", "--quick", "false", "--tasks=[1]"])
    assert toy.seen[1] == _Config(tasks=[1])


def test_lerobots_name_for_the_output_folder_is_understood(toy):
    assert main(["toy", "--out", "here"]) == main(["toy", "--output-dir", "here"]) == 0
    assert [config.output_dir for config in toy.seen] == ["here", "here"]


def test_lerobots_names_of_flags_are_understood():
    from fovea.cli import flags
    from fovea.cli.eval import Config

    words = (
        "--policy.path=run --env.task=libero_goal --env.task_ids=[0,3] --eval.n_episodes=5 --output_dir=here"
    )
    config = flags.parse(Config, words.split(), "fovea eval")
    assert (str(config.checkpoint), config.suite, config.tasks) == ("run", ["libero_goal"], [0, 3])
    assert (config.episodes, str(config.out)) == (5, "here")


def test_flags_win_over_a_configuration_file(toy, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("workers: 5\nquick: true\n")
    assert main(["toy", "--config_path", str(file), "--workers", "4"]) == 0
    assert toy.seen == [_Config(workers=4, quick=True)]


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("--workers two", "--workers: Couldn't parse 'two' into an int"),
        ("--workers", "--workers needs a value, as in `--workers 2`"),
        ("--workers 0", "workers: expected at least 1, got 0"),
        ("--workers null", "--workers needs a value, got null; give one, as in `--workers 2`"),
        ("--optimizer.rl 1", "Did you mean '--optimizer.lr'?"),
        ("--config_path nowhere.yaml", "cannot read the configuration file nowhere.yaml"),
    ],
)
def test_a_wrong_value_is_named(toy, line, hint, capsys):
    assert main(["toy", *line.split()]) == 2
    assert hint in capsys.readouterr().err
    assert toy.seen == []


@pytest.mark.parametrize("content", ["", "- 1\n", "workers: [\n", "wrkers: 3\n", "\x00"])
def test_a_broken_configuration_file_is_refused(toy, content, tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text(content)
    assert main(["toy", "--config_path", str(file)]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert toy.seen == []


@pytest.mark.parametrize(
    ("content", "flag"), [("workers: null\n", "workers"), ("optimizer:\n  lr:\n", "optimizer.lr")]
)
def test_a_name_without_a_value_in_a_file_is_refused_by_its_name(toy, content, flag, tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text(content)
    assert main(["toy", "--config_path", str(file)]) == 2
    assert (
        f"--{flag} needs a value, got null; give one, or leave the line out of {file}"
        in capsys.readouterr().err
    )
    assert toy.seen == []


def test_help_of_a_verb_describes_every_flag(toy, capsys):
    assert main(["toy", "--workers", "3", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--workers INT" in out
    assert "processes that simulate (default 2)" in out
    assert "two minutes" in out
    assert "--optimizer.lr FLOAT" in out
    assert "peak learning rate (default 0.001)" in out
    assert "fovea toy --quick" in out
    assert toy.seen == []


def test_a_users_mistake_is_a_message_and_exit_code_2(toy, capsys):
    def act(config):
        raise FoveaError("expected a folder, got a file; name another")

    toy.act = act
    assert main(["toy"]) == 2
    assert capsys.readouterr().err == "fovea: expected a folder, got a file; name another\n"


def test_an_interruption_says_how_to_go_on(toy, capsys):
    def act(config):
        raise KeyboardInterrupt

    toy.act = act
    assert main(["toy", "--quick"]) == app.INTERRUPTED == 130
    assert "`fovea toy --quick` goes on from there" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(toy):
    def act(config):
        raise ZeroDivisionError

    toy.act = act
    with pytest.raises(ZeroDivisionError):
        main(["toy"])


def test_a_missing_simulator_says_how_to_install_it(toy, capsys):
    def act(config):
        raise ModuleNotFoundError("No module named 'robosuite'", name="robosuite")

    toy.act = act
    assert main(["toy"]) == 2
    assert "lerobot_policy_fovea[libero]" in capsys.readouterr().err


def test_the_verbs_code_is_the_exit_code(toy):
    toy.act = lambda config: 1
    assert main(["toy"]) == 1


def test_suites_lists_tasks_for_people_and_machines(capsys):
    assert main(["suites", "--suite", "libero_object"]) == 0
    assert "pick up the ketchup and place it in the basket" in capsys.readouterr().out
    assert main(["suites", "--json"]) == 0
    records = json.loads(capsys.readouterr().out)
    counts = {record["suite"]: len(record["tasks"]) for record in records}
    of_libero = dict.fromkeys(("libero_spatial", "libero_object", "libero_goal", "libero_10"), 10)
    assert (of_libero | {"libero_90": 90}).items() <= counts.items()
    assert min(counts.values()) > 0


def test_a_reader_that_has_seen_enough_is_no_mistake():
    code = "import sys; from fovea.cli import main; sys.exit(main(['--help']))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()  # as `| head` does
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) in (0, app.CUT_OFF)
