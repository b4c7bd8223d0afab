"""The page of `fovea reproduce ef-vla`: the paper's Table 1 beside ours, and what holds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fovea.evaluation.statistics import success_rate
from fovea.pipelines.ef_vla_claims import UNSEEN, claims
from fovea.pipelines.ef_vla_scale import scale
from fovea.pipelines.ladder_compare import compare
from fovea.pipelines.ladder_tables import (
    NOTHING_CHOSEN,
    cell,
    details,
    ending_of,
    methods,
    opening,
    records,
    where_it_fails,
)

if TYPE_CHECKING:
    from fovea.pipelines.ef_vla_study import EFVLAStudyConfig

GOALS = {"libero_object": 0.95, "libero_spatial": 0.90, "libero_goal": 0.90, UNSEEN: 0.60}
TIMES_LATE = 2  # early fusion's success over late fusion's in unseen tasks, also an aim


def page(config: "EFVLAStudyConfig", outcome: dict[str, Any]) -> str:
    """The whole page in Markdown."""
    from fovea.pipelines.ef_vla_study import PAPER, PAPER_COLUMNS

    done: Sequence[dict[str, Any]] = outcome["cells"]
    drawn = [test.name for test in config.tests() if test.name.endswith(", drawn")]
    training = [name.removesuffix(", drawn") for name in drawn]
    columns = [test.name for test in config.tests() if test.name not in drawn]
    unseen = [name for name in columns if name == UNSEEN]
    kinds = [*(["official states"] if drawn else []), *(["unseen tasks"] if unseen else [])]
    lines = [
        *opening(
            "EF-VLA on a CPU: the paper's Table 1",
            "ef-vla",
            config,
            done,
            _method_of_study(config, outcome["demonstrations"]),
        ),
        "## Table 1",
        "",
        f"Success on {' and '.join(kinds)}, and on drawn layouts of the suites that a method has played so far;",
        "in a second line each, what the paper reports (one policy for all, libero_90 too, 50 human demonstrations a",
        "task, CLIP).",
        "",
        "| | " + " | ".join(columns) + " | training tasks, drawn |",
        "|---|" + "---|" * (len(columns) + 1),
    ]
    for method in methods(done):
        ours = " | ".join(cell(done, method, tests) for tests in (*columns, drawn))
        lines.append(f"| {method} | {ours} |")
        if method in PAPER:
            theirs = dict(zip(PAPER_COLUMNS, PAPER[method], strict=True))
            lines.append(f"| *paper* | {' | '.join(f'*{theirs[test]} %*' for test in columns)} | |")
    lines += details(done, {"official": training, "drawn": drawn, "unseen": unseen})
    if sections := [*scale(done), *claims(done)]:
        lines += ["", *sections]
    return "\n".join(lines + ending_of(done, findings(done, training), [*training, *unseen]))


def _method_of_study(config: "EFVLAStudyConfig", data: dict[str, int]) -> list[str]:
    from fovea.pipelines.ef_vla_study import EARLY, PARTLY, SHARED
    from fovea.pipelines.study_data import LIBERO_90

    rate = config.training("EF-VLA").learning_rate
    each = "One policy learns all suites." if config.together else "Every suite has a policy of its own."
    partly = (
        f"of libero_90 {len(LIBERO_90)} tasks, in the unseen ones' scenes or with their objects, "
        f"{config.drawn_of_libero_90} a task from layouts drawn anew and {config.drawn} in which the objects are "
        "spread over the table"
    )
    whole = f"{config.drawn} a task from layouts drawn anew and {config.official} from official initial states 0 to 29"
    told = {whole: set(config.suites) != {PARTLY}, partly: PARTLY in config.suites}
    said = [text for text, there in told.items() if there]
    return [
        f"{', '.join(config.suites)}. {each} {data['episodes']} demonstrations ({data['frames']:,} frames) of the",
        f"scripted expert: {'; '.join(said)}. Every method: the same data, the shipped encoder",
        f"(frozen, 16 x 16 patches a camera), {config.steps:,} steps of 16 windows of 12 frames,",
        f"{SHARED['obs_stride']} steps from one to the next, learning rate {rate:g}, positions joined to values as",
        f"numbers of their own (`value_join={SHARED['value_join']}`), chunks of 12 actions of which",
        f"{SHARED['n_action_steps']} are played. Early fusion alone starts at half of the encoder's tau",
        f"({EARLY['temperature']}), and in training it goes without its pooled text in {EARLY['text_dropout']:.0%} of",
        f"the windows and without its patches' content in {EARLY['value_content_dropout']:.0%}, so that it looks;",
        "LF-VLA has no other way to know the target, and keeps both.",
        NOTHING_CHOSEN.format("steps, stride, learning rate"),
        *(text for text, there in _what_is_played(config).items() if there),
        "Intervals: Wilson, 95 %, over the episodes of all seeds together.",
        *(text for text, there in _what_differs(config).items() if there),
        "Aims are ours, set before the study, and not the paper's.",
    ]


def _what_is_played(config: "EFVLAStudyConfig") -> dict[str, bool]:
    """Sentences about the test sets, and whether the study plays them."""
    from fovea.pipelines.ef_vla_study import PARTLY

    own = set(config.suites) != {PARTLY}
    return {
        f"Official: states 30 and later, {config.episodes} a task.": own,
        f"Drawn: layouts with other seeds than training's, {config.fewer} a task.": own,
        f"Unseen: the nine of EF-VLA's ten unseen tasks that the arm can do, {config.episodes} states each.": (
            PARTLY in config.suites
        ),
    }


def _what_differs(config: "EFVLAStudyConfig") -> dict[str, bool]:
    """Sentences about methods that do not learn as the others do, and whether the study has such."""
    from fovea.pipelines.ef_vla_study import ENCODERS, ON_A_SMALL_BUDGET

    asked = set(config.methods or config.method_names())
    learns, sizes = bool(asked & set(ON_A_SMALL_BUDGET)), bool(asked & set(ENCODERS))
    apart = not config.together
    return {
        "Vision that learns sees every picture anew: those two methods, and EF-VLA with few pictures beside them, get "
        "fewer windows and steps (see the cost).": learns,
        "They learn libero_object alone: in unseen tasks even the whole budget wins too few to tell methods "
        "apart.": learns and apart,
        "Vision from scratch has the grid and the sizes of the shipped encoder's picture tower.": learns,
        "Encoders of other sizes learn libero_object and what the unseen tasks are asked after only.": sizes
        and apart,
    }


def findings(done: Sequence[dict[str, Any]], suites: Sequence[str]) -> list[str]:
    """One sentence for each of the paper's findings and of our aims that the cells can speak to."""
    said = []
    for test, goal in GOALS.items():
        if its := records(done, "EF-VLA", test):
            rate = success_rate(its)
            said.append(
                f"- EF-VLA on {test}: {rate}; the aim of {goal:.0%} is {'met' if rate.rate >= goal else 'missed'}."
            )
    if unseen := compare(done, "EF-VLA", "LF-VLA", [UNSEEN]):
        early, late = (round(rate * unseen.episodes) for rate in unseen.rates)
        reached = "met" if early >= TIMES_LATE * late and early > late else "missed"
        said.append(
            f"- EF-VLA on {UNSEEN} wins {early}, LF-VLA {late} of the same {unseen.episodes} episodes; the aim of "
            f"{TIMES_LATE} times LF-VLA is {reached}."
        )
    for suite in suites:
        if weak := where_it_fails(done, "EF-VLA", [suite, f"{suite}, drawn"]):
            said.append(f"- EF-VLA on {suite}, official and drawn, wins less than half of: {weak}.")
    for other in ("LF-VLA", "w/o f_e", "w/o f'_l"):
        for name, tests in (
            *((test, [test]) for suite in suites for test in (suite, f"{suite}, drawn")),
            ("training tasks, drawn", [f"{suite}, drawn" for suite in suites]),
            ("unseen tasks", [UNSEEN]),
        ):
            if compared := compare(done, "EF-VLA", other, tests):
                said.append(f"- EF-VLA against {other}, {name}: {compared}")
    return said
