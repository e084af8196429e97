"""Families of data sets, a file each: `require` looks whether the files are here, `load` reads them; see `data.load`.

digits    the miniature data sets, which come with scikit-learn
cifar     CIFAR-10 and CIFAR-100: downloaded, checked and read
oxford    Oxford-IIIT Pets and Oxford Flowers-102: downloaded, checked, unpacked and listed
imagenet  ImageNet-2012, unpacked by whoever has it
folder    any folder of classes
"""
