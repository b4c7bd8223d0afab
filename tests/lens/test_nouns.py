"""What the nouns of an instruction stand for in a scene."""

import pytest

from fovea.lens.nouns import nouns
from fovea.sim.bddl import object_type

FLOOR = ["alphabet_soup_1", "milk_1", "ketchup_1", "basket_1"]
TABLE = [
    "akita_black_bowl_1",
    "akita_black_bowl_2",
    "plate_1",
    "glazed_rim_porcelain_ramekin_1",
    "flat_stove_1",
]
KITCHEN = ["moka_pot_1", "moka_pot_2", "flat_stove_1", "white_cabinet_1", "wine_bottle_1", "wooden_tray_1"]


def told(instruction, instances, goal):
    return [(noun.phrase, noun.role, noun.instances) for noun in nouns(instruction, instances, goal)]


def test_target_and_destination_are_told_apart():
    goal = [["in", "milk_1", "basket_1_contain_region"]]
    found = nouns("Pick up the milk and place it in the basket", FLOOR, goal)
    assert [(n.phrase, n.role, n.words) for n in found] == [
        ("milk", "target", (3,)),
        ("basket", "destination", (9,)),
    ]
    assert found[0].types == {"milk"}
    assert found[0].own == ("milk_1",)


def test_every_object_of_the_named_type_counts_and_the_one_that_is_meant_is_remembered():
    goal = [["on", "akita_black_bowl_1", "plate_1"]]
    bowl, *rest = nouns(
        "pick up the black bowl between the plate and the ramekin and place it on the plate", TABLE, goal
    )
    assert bowl.instances == ("akita_black_bowl_1", "akita_black_bowl_2")
    assert bowl.own == ("akita_black_bowl_1",)
    assert [(n.phrase, n.role) for n in rest] == [
        ("plate", "destination"),
        ("ramekin", "landmark"),
        ("plate", "destination"),
    ]


@pytest.mark.parametrize(
    ("instruction", "instances", "goal", "expected"),
    [
        (
            "put both moka pots on the stove",  # a plural, and a stove that is both switched on and put upon
            KITCHEN,
            [["on", "moka_pot_1", "flat_stove_1_cook_region"], ["turnon", "flat_stove_1"]],
            [
                ("moka pots", "target", ("moka_pot_1", "moka_pot_2")),
                ("stove", "destination", ("flat_stove_1",)),
            ],
        ),
        (
            "open the top drawer of the cabinet",
            KITCHEN,
            [["open", "white_cabinet_1_top_region"]],
            [("drawer", "target", ("white_cabinet_1",)), ("cabinet", "target", ("white_cabinet_1",))],
        ),
        (
            "pick up the bottle and put it in the tray",  # only a part of the object's name
            KITCHEN,
            [["in", "wine_bottle_1", "wooden_tray_1_contain_region"]],
            [("bottle", "target", ("wine_bottle_1",)), ("tray", "destination", ("wooden_tray_1",))],
        ),
        (
            "stack the bowl on the bowl",
            TABLE,
            [["on", "akita_black_bowl_1", "akita_black_bowl_2"]],
            [
                ("bowl", "target", ("akita_black_bowl_1", "akita_black_bowl_2")),
                ("bowl", "destination", ("akita_black_bowl_1", "akita_black_bowl_2")),
            ],
        ),
        (
            "put the milk in the microwave",  # which is not there
            FLOOR,
            [],
            [("milk", "landmark", ("milk_1",)), ("microwave", "landmark", ())],
        ),
        ("do something nice", FLOOR, [], []),
    ],
)  # fmt: skip
def test_instructions_of_libero(instruction, instances, goal, expected):
    assert told(instruction, instances, goal) == expected


def test_the_type_of_an_instance_keeps_numbers_inside_its_name():
    assert object_type("chefmate_8_frypan_1") == "chefmate_8_frypan"
