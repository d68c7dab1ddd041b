"""Reader study: can doctors distinguish synthetic from real radiographs, and read both as well?

A study is a folder: `build` creates it, `server` shows it to readers, `analysis` scores it.
"""
