"""What the classes of a data set are called, in the order of their labels. Standard library only."""

import os

from vit_trainer.data.datasets import data_folder, dataset_info, folder_of, is_folder

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
    """A name per class: the folder's where there are folders of classes, `class 7` where nothing has one.

    ImageNet's classes are named by their wnid, if its folder is here.

    Raises:
        InputError: the data set is unknown.
    """
    if is_folder(dataset):
        return folder_of(dataset).classes
    num_classes = dataset_info(dataset).num_classes
    if dataset in NAMES:
        return NAMES[dataset]
    train = data_folder() / dataset / "train"
    wnids = sorted(name for name in os.listdir(train) if not name.startswith(".")) if train.is_dir() else []
    return tuple(wnids) if len(wnids) == num_classes else numbered(num_classes)


def numbered(num_classes: int) -> tuple[str, ...]:
    """Names for classes that have none.

    >>> numbered(2)
    ('class 0', 'class 1')
    """
    return tuple(f"class {number}" for number in range(num_classes))
