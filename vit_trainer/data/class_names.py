"""What the classes of a data set are called, in the order of their labels. ImageNet's need timm."""

import re
from collections import Counter
from functools import lru_cache

from vit_trainer.data.class_folders import VERSION, find_class_folders
from vit_trainer.data.datasets import DATASETS, dataset_info, folder_of, id_and_path, is_folder, version_of
from vit_trainer.errors import InputError

_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""
_PETS = """
Abyssinian american_bulldog american_pit_bull_terrier basset_hound beagle Bengal Birman Bombay boxer British_Shorthair
chihuahua Egyptian_Mau english_cocker_spaniel english_setter german_shorthaired great_pyrenees havanese japanese_chin
keeshond leonberger Maine_Coon miniature_pinscher newfoundland Persian pomeranian pug Ragdoll Russian_Blue
saint_bernard samoyed scottish_terrier shiba_inu Siamese Sphynx staffordshire_bull_terrier wheaten_terrier
yorkshire_terrier
"""
_FLOWERS = """
pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, english marigold, tiger lily, moon orchid, bird
of paradise, monkshood, globe thistle, snapdragon, colt's foot, king protea, spear thistle, yellow iris, globe-flower,
purple coneflower, peruvian lily, balloon flower, giant white arum lily, fire lily, pincushion flower, fritillary, red
ginger, grape hyacinth, corn poppy, prince of wales feathers, stemless gentian, artichoke, sweet william, carnation,
garden phlox, love in the mist, mexican aster, alpine sea holly, ruby-lipped cattleya, cape flower, great masterwort,
siam tulip, lenten rose, barbeton daisy, daffodil, sword lily, poinsettia, bolero deep blue, wallflower, marigold,
buttercup, oxeye daisy, common dandelion, petunia, wild pansy, primula, sunflower, pelargonium, bishop of llandaff,
gaura, geranium, orange dahlia, pink-yellow dahlia?, cautleya spicata, japanese anemone, black-eyed susan, silverbush,
californian poppy, osteospermum, spring crocus, bearded iris, windflower, tree poppy, gazania, azalea, water lily,
rose, thorn apple, morning glory, passion flower, lotus, toad lily, anthurium, frangipani, clematis, hibiscus,
columbine, desert-rose, tree mallow, magnolia, cyclamen, watercress, canna lily, hippeastrum, bee balm, ball moss,
foxglove, bougainvillea, camellia, mallow, mexican petunia, bromelia, blanket flower, trumpet creeper, blackberry lily
"""
NAMES = {
    "cifar10": tuple(_CIFAR10.split()),
    "cifar100": tuple(_CIFAR100.split()),
    "oxford_pets": tuple(_PETS.split()),
    "oxford_flowers102": tuple(" ".join(_FLOWERS.split()).split(", ")),
    "digits-even": tuple("02468"),
    "digits-odd": tuple("13579"),
    "digits-pretrain": tuple("0123456789"),
}
"""Names of the classes of what comes without folders; CIFAR's as in its batches.meta and meta, the pets' as
in the names of their files, the flowers' as on their page (https://www.robots.ox.ac.uk/~vgg/data/flowers/102/categories.html)."""


def class_names(dataset: str) -> tuple[str, ...]:
    """A name per class: a word where that is known, which it is of ImageNet's wnids too; the class folder's otherwise.

    Raises:
        InputError: the data set is unknown, or its folder can't be listed.
    """
    if is_folder(dataset):
        return _in_words(folder_of(dataset).classes)
    dataset_info(dataset)  # raises unless it is known
    return tuple(_imagenet().values()) if dataset == "imagenet2012" else NAMES[dataset]


@lru_cache(maxsize=1)
def _imagenet() -> dict[str, str]:
    """Wnid -> word in the order of the labels, as timm has them; the two cranes and maillots with their wnids."""
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo()
    words = {wnid: info.label_name_to_description(wnid).split(", ")[0] for wnid in info.label_names()}
    counts = Counter(words.values())
    return {wnid: word if counts[word] == 1 else f"{word} ({wnid})" for wnid, word in words.items()}


def names_as_trained(trained_on: str | None, dataset: str) -> tuple[str, ...]:
    """As `class_names`; of a folder in the order in which one of that id was read, which version 1 put as text."""
    if trained_on is None or trained_on in DATASETS or not is_folder(dataset) or version_of(trained_on) == VERSION:
        return class_names(dataset)
    return _in_words(find_class_folders(id_and_path(dataset)[1], version=version_of(trained_on)).classes)


def _in_words(folders: tuple[str, ...]) -> tuple[str, ...]:
    are_wnids = all(re.fullmatch(r"n\d{8}", name) for name in folders)
    return tuple(_imagenet().get(name, name) for name in folders) if are_wnids else folders


def class_order(own: tuple[str, ...], others: tuple[str, ...], source: str, dataset: str) -> tuple[list[int], str]:
    """Which of a head's outputs each class of a data set is, by its name, and what to say of that if anything.

    A data set whose classes are called 0, 1, 2 … has them by the numbers of the outputs, as ImageNet-V2 has.

    >>> class_order(("cat", "dog"), ("dog", "cat"), "a.safetensors", "./b")
    ([1, 0], "./b has the head's classes in another order: matched by their names")

    Args:
        own: names of the head's classes.
        others: as many, those of the data set.
        source, dataset: what to call them in errors.

    Raises:
        InputError: the names are other ones.
    """
    if own == others:
        return list(range(len(own))), ""
    if set(own) == set(others):
        order = [own.index(name) for name in others]
        return order, f"{dataset} has the head's classes in another order: matched by their names"
    if all(map(str.isdecimal, others)) and {int(name) for name in others} == set(range(len(own))):
        shown = ", ".join(f"{number} for {name}" for number, name in enumerate(own[:3]))
        return [int(name) for name in others], f"{dataset} has numbers for classes, taken for the head's: {shown} …"
    unknown = next(name for name in others if name not in own)
    raise InputError(
        f"the classes of {source} are {', '.join(own[:3])} …, and none is called {unknown}, which {dataset} has: "
        "give its folders the names of these classes, or their numbers from 0"
    )


def numbered(num_classes: int) -> tuple[str, ...]:
    """Names for classes that have none.

    >>> numbered(2)
    ('class 0', 'class 1')
    """
    return tuple(f"class {number}" for number in range(num_classes))
