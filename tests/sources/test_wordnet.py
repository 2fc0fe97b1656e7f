"""Names are ImageNet's where they can be no other class's."""

import pytest

from ddps_ray.errors import UserError
from ddps_ray.sources import wordnet


def test_a_list_of_synonyms_or_a_first_name_is_a_class() -> None:
    names = {
        "bonnet, poke bonnet": "n02869837",
        "maillot": "n03710637",
        "maillot, tank suit": "n03710721",
        "TENCH": "n01440764",
        "english_springer,_English_springer_spaniel": "n02102040",
        "Cardigan, Cardigan Welsh corgi": "n02113186",
        "goldfish, spelt otherwise": "n01443537",
        "n01484850": "n01484850",
    }
    assert wordnet.matched(names) == names


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["tench", "crane"], "'crane' is that of several of its classes, n02012849 and n03126707"),
        (["bonnet, poke bonnet", "crane"], "'crane' is that of several"),
        (["tench", "maillot"], "'maillot' is that of several of its classes, n03710637 and n03710721"),
        (["tench", "cardigan"], "'cardigan' is that of several"),
        (["tench", "aeroplane"], "'aeroplane' is none of its names"),
        (["tench", "tench, Tinca tinca"], "'tench' and 'tench, Tinca tinca' are both n01440764"),
    ],
)
def test_a_name_that_could_be_several_or_is_none_is_said(names: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        wordnet.matched(names)
