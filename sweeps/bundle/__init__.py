"""Bundle: a sweep's evidence as one file that a stranger can check without this project.

pack            everything that was begun, with hashes of all of it
snapshot        what of a storage that is, as of one moment
private         what in its texts is nobody's business
facts           what the run folders don't say: deviations from the protocol, hashes of data and weights, the code
crate           the same described as a research object (RO-Crate)
data_hashes     what is known of the files of data sets
merge           bundles from elsewhere, laid into one storage
check_evidence  what checks a bundle; lies inside it, and imports nothing of this project
"""
