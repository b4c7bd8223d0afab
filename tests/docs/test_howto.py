"""The how-to pages: their code runs, their links lead somewhere."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lerobot.configs import FeatureType, PolicyFeature

from fovea.policies.ef_vla.configuration_ef_vla import EFVLAConfig
from fovea.policies.ef_vla.modeling_ef_vla import EFVLAPolicy
from fovea.policies.ef_vla.processor_ef_vla import make_ef_vla_pre_post_processors

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
PROSE = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "results").rglob("*.md")),
]


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name.startswith("add_") or page.stem == "own_robot"],
    ids=lambda p: p.stem,
)
def test_the_code_of_a_page_runs(page):
    assert run_blocks(page)


def run_blocks(page: Path) -> dict[str, Any]:
    """Run the Python of a page, block after block; what it defines."""
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"__name__": page.stem} if blocks else {}
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)
    return names


def test_the_player_for_one_s_own_robot_acts_in_the_units_of_the_recordings(tmp_path):
    degrees = {"min": 30.0, "max": 60.0, "mean": 45.0, "std": 5.0, "q01": 31.0, "q99": 59.0}
    stats = {name: np.full(6, value, np.float32) for name, value in degrees.items()}
    config = EFVLAConfig.tiny(
        device="cpu",
        state_layout="as_is",
        gripper_loss="l1",
        input_features={
            "observation.images.front": PolicyFeature(type=FeatureType.VISUAL, shape=(3, 48, 64)),
            "observation.state": PolicyFeature(type=FeatureType.STATE, shape=(6,)),
        },
        output_features={"action": PolicyFeature(type=FeatureType.ACTION, shape=(6,))},
    )
    EFVLAPolicy(config).save_pretrained(tmp_path)
    for pipeline in make_ef_vla_pre_post_processors(config, {"observation.state": stats, "action": stats}):
        pipeline.save_pretrained(tmp_path)
    player = run_blocks(ROOT / "docs" / "own_robot.md")["Player"](str(tmp_path), "put the sock in the box")
    player.reset()
    for _ in range(4):
        action = player(np.zeros((48, 64, 3), np.uint8), np.full(6, 45, np.float32))
        assert action.shape == (6,)
        assert ((action > 20) & (action < 70)).all()


@pytest.mark.parametrize("page", PROSE, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    inside = [target for target in targets if "://" not in target and not target.startswith("mailto:")]
    assert [target for target in inside if not (page.parent / target).exists()] == []
