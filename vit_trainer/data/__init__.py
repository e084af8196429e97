"""Data: which data sets there are, and how their images become batches of pixels.

datasets        DATASETS: sizes and recipe of each, before any of it is read
load            load_dataset(): its images as train, validation and test
digits          the miniature data sets, which come with scikit-learn
cifar           CIFAR-10 and CIFAR-100: downloaded, checked and read
class_folders   a listing of a folder of classes, and how many images are held out of each
image_files     images in files, ImageNet's too: decoded and cut by worker processes
shared_memory   where those processes put them, and how much of it they need
decoding        an image file as pixels
class_names     what classes are called
splits          Splits, what all of these give; images that are held in memory; which are held out
crops           the random crop, the flip and the resize, in batches on the device
randomness      order of images, crops and dropout as functions of (seed, step, position)
"""
