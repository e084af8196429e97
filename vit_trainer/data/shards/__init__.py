"""Shards: a folder of classes packed into tar files of about 1 GB, from which images are read one by one.

    LOCATION/shards.json       what it holds; written last, so that half a packed folder is none
    LOCATION/index.parquet     a row per image: where it lies, and what it is known by
    LOCATION/train-00000.tar   the images as they were, one after the other, uncompressed: any `tar` lists them

A location is a folder of this machine or of a bucket. Of the libraries for data sets in buckets, MosaicML's streaming
and litdata fetch a shard before they read from it, WebDataset reads in the order of its shards; here the order is a
global shuffle, so that the first steps touch nearly all of them.

packed    a packed folder: its header and index, found and copied
packing   pack(): a folder of classes into shards
cache     the shards of a bucket on this node's fastest disk, fetched once for all its processes
reading   contents of images: from files, from shards that are here, or by range from the bucket
remote    folders in buckets, with short timeouts
preloaded what the process imports that forks those who read from a bucket
"""
