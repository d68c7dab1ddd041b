"""Do readers tell synthetic radiographs from real ones, and read both equally well?

A study is a folder: `build` makes it, `server` shows it to readers, `analysis` scores it.
"""
