"""`ringlet bench programs` and `ringlet bench io`: programs of Debian, natively and in guests.

`rows` lists the programs and the packages that they need, `image` makes a Debian tree and an
initial RAM disk for each group of rows, `rounds` runs them and compares, `results` parses what the
driver prints, and `report` and `io_report` show the comparison.  `places` makes what rows run in,
with the disk, the network and the shared directory that some use.  The driver (`programs/driver`)
runs a row the same way natively, in the tree, and as the init of a guest: each row is a shell
script in `rows/`.
"""
