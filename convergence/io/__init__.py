"""Files that are complete or absent, and caches.

files.py        atomic writes, confined names, private folders, full disks, checksums of files
csv_files.py    tables whose cells no spreadsheet executes
hdf5.py         HDF5 with schema versions, a checksum per dataset and labelled axes
caches.py       caches of libraries on machines without a writable home
file_errors.py  the reason why a file cannot be read, with the remedy
"""
