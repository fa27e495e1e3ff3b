"""Class folders: names, WordNet ids and numbers become the model's class indices; all else is sorted, and said."""

import pytest

from pipeline.data.class_folders import FolderNaming, classes_of_folders
from pipeline.errors import UserError
from pipeline.models.labels import known_names


@pytest.fixture(scope="module")
def imagenet():
    return known_names("imagenet1k")


def labels(folders, **naming):
    return dict(classes_of_folders(folders, FolderNaming(**naming)).labels)


def test_folders_are_called_by_wordnet_ids_names_or_synonyms(imagenet):
    naming = {"names": imagenet, "source": "imagenet1k"}
    assert labels(["n01443537", "n01440764", "n02504458"], **naming) == {
        "n01440764": 0, "n01443537": 1, "n02504458": 386,
    }  # fmt: skip
    assert labels(["Great_White-Shark", "GOLDFISH", "Carassius auratus"], **naming) == {
        "Carassius auratus": 1, "GOLDFISH": 1, "Great_White-Shark": 2,
    }  # fmt: skip
    found = classes_of_folders(["goldfish", "Goldfish"], FolderNaming(**naming))
    assert "'Goldfish' and 'goldfish' are one class, 1" in str(found)
    # The class's own name goes before the same word among other names of another class ("projectile, missile").
    assert labels(["missile"], **naming) == {"missile": 657}


def test_every_name_and_id_of_imagenet_is_its_own_class(imagenet):
    synsets = {names[1]: index for index, names in enumerate(imagenet)}
    names = {names[0].replace(" ", "_"): index for index, names in enumerate(imagenet)}
    assert labels(synsets, names=imagenet) == synsets
    assert labels(names, names=imagenet) == names


def test_numbers_are_class_indices():
    found = classes_of_folders([str(n) for n in range(12)], FolderNaming())
    assert dict(found.labels) == {str(n): n for n in range(12)}
    assert not found.is_order
    assert found.warnings == ()
    assert labels(["007", "282"]) == {"007": 7, "282": 282}
    ones = classes_of_folders([str(n) for n in range(1, 13)], FolderNaming())
    assert "--first-number 1" in ones.warnings[0]
    assert labels(["1", "10", "2"], first_number=1) == {"1": 0, "2": 1, "10": 9}
    with pytest.raises(UserError, match="folder '0' is no class index: expected whole numbers from 1"):
        labels(["0", "1"], first_number=1)
    with pytest.raises(UserError, match="folder '2' is no class index: expected whole numbers from 0 to 1"):
        labels(["0", "2"], names=[["a"], ["b"]], required=True)
    # Names go before numbers: a list of digits in its own order.
    assert labels(["0", "1", "9"], names=[["9"], ["0"], ["1"]]) == {"9": 0, "0": 1, "1": 2}


def test_sorted_order_is_the_last_resort_and_says_why(imagenet):
    naming = FolderNaming(names=imagenet, source="imagenet1k")
    found = classes_of_folders(["tabby", "sofa bed", "my cat"], naming, ["zzz"])
    assert dict(found.labels) == {"my cat": 0, "sofa bed": 1, "tabby": 2, "zzz": 3}
    assert found.is_order
    said = str(found)
    assert "2 of 3 folders are no class of imagenet1k and no class index ('my cat', 'sofa bed')" in said
    assert "--labels FILE" in said
    assert "'zzz' holds no images; it keeps its index 3" in said
    found = classes_of_folders([f"class_{n}" for n in range(11)], FolderNaming())
    assert found.labels["class_10"] == 2
    assert "'class_10' comes before 'class_2' and is class 2" in found.warnings[0]
    assert "look like parts of a data set" in classes_of_folders(["train", "val"], FolderNaming()).warnings[0]
    assert labels(["5", "n01440764"], names=imagenet, in_order=True) == {"5": 0, "n01440764": 1}


def test_what_fits_no_class_or_two_is_refused_where_names_are_required(imagenet):
    with pytest.raises(UserError, match=r"'gold_fish1' is neither a class of x nor its index.*goldfish.*1 of 2"):
        labels(["gold_fish1", "tench"], names=imagenet, source="x", required=True)
    with pytest.raises(UserError, match="'crane' names the classes 0 and 2 of x"):
        labels(["crane", "tench"], names=[["crane"], ["tench"], ["crane"]], source="x")
    alone = classes_of_folders(["crane", "tench"], FolderNaming(names=imagenet))
    assert alone.labels["crane"] == 517
    assert alone.warnings == ("'crane' is taken for class 517; it is also another name of class 134 ('crane bird')",)
    assert classes_of_folders(["crane", "crane bird"], FolderNaming(names=imagenet)).warnings == ()
    assert labels(["C#", "C++"], names=[["C++"], ["C#"]], required=True) == {"C++": 0, "C#": 1}
