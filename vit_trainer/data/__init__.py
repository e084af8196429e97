"""Data: which data sets there are, and how their images become batches of pixels.

datasets        DATASETS: sizes and recipe of each, before any of it is read
load            load_dataset(): its images as train, validation and test
families/       a file per family of data sets: found or downloaded, checked and read
class_folders   a listing of a folder of classes, and how many images are held out of each
shards/         a folder of classes packed into few big files, read from a bucket
earlier_ids     a folder of classes under the id that a storage knows it by
samples         what files' contents are known by, without reading all of them
image_files     images in files: decoded and cut by worker processes
shared_memory   where those processes put them, and how much of it they need
decoding        an image file as pixels
class_names     what classes are called
splits          Splits, what all families give; images that are held in memory; which are held out
crops           the random crop, the flip and the resize, in batches on the device
randomness      order of images, crops and dropout as functions of (seed, step, position)
"""
