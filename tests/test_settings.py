"""Settings are checked as they are made, in a recipe as in Python, and a fault is one line that names the key."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from qkv.errors import UserError
from qkv.registry import Registry
from qkv.settings import OneOf, Section, all_keys, section_of

FRUITS = Registry("fruit", {"apple": "nowhere:APPLE", "pear": "nowhere:PEAR"})


class Basket(Section):
    """Fruit."""

    fruit: Annotated[str, OneOf("fruit", FRUITS, also=("none",))] = Field("none", description="what is in it")
    number: int = Field(1, ge=1, description="how many")
    place: str | None = Field(None, description="where it stands")

    @model_validator(mode="after")
    def _fit_together(self) -> "Basket":
        if self.fruit == "none" and self.number > 1:
            raise ValueError("an empty basket has no number")
        return self


class Kitchen(Section):
    """A room."""

    basket: Basket = Basket()
    spare: Basket | None = Field(None, description="another one")
    light: Literal["on", "off"] = Field("on", description="of the ceiling")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"number": 0}, "number: must be greater than or equal to 1, got 0"),
        ({"number": "many"}, "number: must be an integer, got 'many'"),
        ({"number": True}, "number: must not be true or false"),
        ({"fruit": "aple"}, "fruit: unknown fruit 'aple'; did you mean apple?"),
        ({"fruit": "xyzzy"}, "fruit: unknown fruit 'xyzzy'; there are: none, apple, pear"),
        ({"fruits": "apple"}, "unknown key fruits; did you mean fruit?"),
        ({"number": 2}, "an empty basket has no number"),
    ],
)
def test_a_fault_is_one_line_that_names_the_key(said, message):
    for make in (lambda: Basket(**said), lambda: Basket.of(said), lambda: Basket().changed(**said)):
        with pytest.raises(UserError) as caught:
            make()
        assert str(caught.value) == message
    for make in (lambda: Kitchen(basket=said), lambda: Kitchen.of({"basket": said})):
        with pytest.raises(UserError) as caught:
            make()
        assert str(caught.value) == within_a_basket(message)


def within_a_basket(message):
    if message.startswith("unknown key"):
        return message.replace("key fruits", "key basket.fruits").replace("mean fruit", "mean basket.fruit")
    return f"basket.{message}" if message.split()[0].endswith(":") else f"basket: {message}"


def test_a_section_is_made_of_a_mapping_or_is_one_already():
    basket = Basket(fruit="pear", number=3, place=Path("shelf"))
    assert Basket.of({"fruit": "pear", "number": 3, "place": "shelf"}) == basket
    assert Basket.of(basket) is basket
    assert Kitchen(basket=basket).basket is basket
    with pytest.raises(UserError, match="must be a mapping of keys to values, got 5"):
        Basket.of(5)


def test_a_changed_copy_keeps_the_rest():
    basket = Basket(fruit="pear", number=3)
    changed = basket.changed(number=4)
    assert (changed.fruit, changed.number, basket.number) == ("pear", 4, 3)
    assert len({basket, changed, basket.changed(), Basket(fruit="pear", number=3)}) == 2
    kitchen = Kitchen(basket=basket).changed(light="off")
    assert kitchen.basket is basket


def test_choices_are_looked_up_when_they_are_checked_and_not_imported():
    assert Basket(fruit="apple").fruit == "apple"  # its module does not exist


def test_keys_of_sections_within_sections():
    assert list(all_keys(Kitchen))[:4] == ["basket", "basket.fruit", "basket.number", "basket.place"]
    assert "spare.number" in all_keys(Kitchen)
    assert section_of(Kitchen, "spare") is Basket
    assert section_of(Kitchen, "light") is None
    with pytest.raises(UserError, match=r"^unknown key number; did you mean basket.number or spare.number\?$"):
        Kitchen(number=2)
