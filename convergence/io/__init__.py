"""Files that are complete or absent, and caches.

files.py        atomic writes, confined names, private folders, full disks, checksums of files
csv_files.py    tables whose cells no spreadsheet executes
hdf5.py         HDF5 with schema versions, checksums of everything and labelled axes
seal.py         a checksum over the bytes of an HDF5 file, verified before HDF5 reads it
plain_hdf5.py   refusal of links, foreign storage and odd types
full_disk.py    writing HDF5 on disks that become full
caches.py       caches of libraries on machines without a writable home
file_errors.py  the reason why a file cannot be read, with the remedy
"""
