"""What LIBERO's object types are called and how they look: the words that the encoder learns."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One object type.

    Attributes:
        nouns: noun phrases, LIBERO's own wording first.
        colours: adjectives for its looks, empty where no single colour describes it.
        kind: "graspable", "container" or "fixture".
    """

    nouns: tuple[str, ...]
    colours: tuple[str, ...] = ()
    kind: str = "graspable"


def _grocery(*nouns: str) -> Entry:
    return Entry(nouns)


_PLAIN: dict[str, Entry] = {
    "alphabet_soup": _grocery("alphabet soup", "soup", "soup can", "can of alphabet soup"),
    "bbq_sauce": _grocery("bbq sauce", "barbecue sauce", "bottle of bbq sauce"),
    "butter": _grocery("butter", "box of butter", "butter box"),
    "chocolate_pudding": _grocery("chocolate pudding", "pudding", "box of chocolate pudding"),
    "cookies": _grocery("cookies", "cookie box", "box of cookies"),
    "cream_cheese": _grocery("cream cheese", "cream cheese box", "box of cream cheese"),
    "ketchup": _grocery("ketchup", "ketchup bottle", "bottle of ketchup"),
    "macaroni_and_cheese": _grocery("macaroni and cheese", "macaroni", "box of macaroni and cheese"),
    "milk": _grocery("milk", "milk carton", "carton of milk"),
    "orange_juice": _grocery("orange juice", "juice", "carton of orange juice"),
    "popcorn": _grocery("popcorn", "box of popcorn", "popcorn box"),
    "salad_dressing": _grocery("salad dressing", "dressing", "bottle of salad dressing"),
    "tomato_sauce": _grocery("tomato sauce", "can of tomato sauce", "tomato can"),
}

_BOWL = ("bowl",)
_MUG = ("mug", "cup", "coffee mug")
_CABINET = ("cabinet", "drawer", "cupboard")
_HOUSEHOLD: dict[str, Entry] = {
    "akita_black_bowl": Entry(("black bowl", "bowl"), ("black",)),
    "white_bowl": Entry(("white bowl", "bowl"), ("white",)),
    "red_akita_black_bowl": Entry(("red bowl", "bowl"), ("red",)),
    "yellow_bowl": Entry(("yellow bowl", "bowl"), ("yellow",)),
    "plate": Entry(("plate", "dish"), ("white",), "container"),
    "yellow_plate": Entry(("plate", "dish"), ("yellow",), "container"),
    "basket": Entry(("basket",), ("white",), "container"),
    "red_basket": Entry(("basket",), ("red",), "container"),
    "wooden_tray": Entry(("tray", "wooden tray"), ("wooden", "brown"), "container"),
    "chefmate_8_frypan": Entry(("frying pan", "pan"), ("black",)),
    "glazed_rim_porcelain_ramekin": Entry(("ramekin",), ("white",)),
    "red_ramekin": Entry(("ramekin",), ("red",)),
    "moka_pot": Entry(("moka pot", "coffee pot"), ("white",)),
    "yellow_moka_pot": Entry(("moka pot", "coffee pot"), ("yellow",)),
    "porcelain_mug": Entry(("white mug", *_MUG), ("white",)),
    "red_coffee_mug": Entry(("red mug", *_MUG, "red coffee mug"), ("red",)),
    "white_yellow_mug": Entry(("yellow and white mug", *_MUG), ("yellow and white",)),
    "wine_bottle": Entry(("wine bottle", "bottle of wine"), ("black",)),
    "white_bottle": Entry(("wine bottle", "bottle of wine"), ("green",)),
    "black_book": Entry(("book",), ("black",)),
    "yellow_book": Entry(("book",), ("yellow",)),
    "red_yellow_book": Entry(("book",), ("red",)),
    "wooden_cabinet": Entry(_CABINET, ("brown", "wooden"), "fixture"),
    "white_cabinet": Entry(_CABINET, ("white",), "fixture"),
    "yellow_cabinet": Entry(_CABINET, ("yellow",), "fixture"),
    "flat_stove": Entry(("stove", "burner"), ("gray",), "fixture"),
    "yellow_stove": Entry(("stove", "burner"), ("yellow",), "fixture"),
    "microwave": Entry(("microwave",), ("black",), "fixture"),
    "wine_rack": Entry(("wine rack", "rack"), (), "fixture"),
    "brown_rack": Entry(("wine rack", "rack"), ("brown",), "fixture"),
    "desk_caddy": Entry(("caddy", "desk caddy"), ("brown",), "fixture"),
    "yellow_desk_caddy": Entry(("caddy", "desk caddy"), ("yellow",), "fixture"),
    "wooden_two_layer_shelf": Entry(("shelf",), ("brown", "wooden"), "fixture"),
}

# the same grocery in another colour or size: (type in LIBERO, plain type, colours)
_VARIANTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("red_alphabet_soup", "alphabet_soup", ("red",)),
    ("bigger_alphabet_soup", "alphabet_soup", ()),
    ("green_bbq_sauce", "bbq_sauce", ("green",)),
    ("green_butter", "butter", ("green",)),
    ("green_chocolate_pudding", "chocolate_pudding", ("green",)),
    ("yellow_cookies", "cookies", ("yellow",)),
    ("red_cream_cheese", "cream_cheese", ("red",)),
    ("green_ketchup", "ketchup", ("green",)),
    ("blue_ketchup", "ketchup", ("blue",)),
    ("yellow_milk", "milk", ("yellow",)),
    ("bigger_milk", "milk", ()),
    ("red_orange_juice", "orange_juice", ("red",)),
    ("new_salad_dressing", "salad_dressing", ()),
    ("red_salad_dressing", "salad_dressing", ("red",)),
    ("yellow_tomato_sauce", "tomato_sauce", ("yellow",)),
)

CATALOGUE: dict[str, Entry] = (
    _PLAIN | _HOUSEHOLD | {name: Entry(_PLAIN[plain].nouns, colours) for name, plain, colours in _VARIANTS}
)

GROCERIES: tuple[str, ...] = (
    "alphabet_soup", "bbq_sauce", "butter", "chocolate_pudding", "cream_cheese", "ketchup", "milk", "orange_juice",
    "salad_dressing", "tomato_sauce",
)  # fmt: skip
"""The ten objects of libero_object."""
