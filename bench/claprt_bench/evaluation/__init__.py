"""How useful a bundle is on labelled or captioned sounds, how sure that is, and whether its variants differ.

`dataset` lists sounds with labels or captions, `files` looks which are there. `zero_shot`, `retrieval` and `probe` are
the tasks, `bootstrap` says how sure a figure is, `evaluate` makes a document of all that. `fsdd` and `made_sounds` are
programs that write tables of two datasets.
"""
