"""`claprt bench`: how fast a bundle is on this machine, each stage and whole paths, with what makes figures comparable.

options  what to measure
inputs   clips, files and texts that it is measured on, in a folder that workers read
steps    the stages and paths as functions
worker   a process that times some of them: `python -m claprt_bench.speed.worker`, a job on stdin, times on stdout
jobs     what a worker is told, and how it is started
checks   values, before any time
figures of many calls: statistics
parts    what `measure` consists of: calls, first calls, cold starts, open loop, scaling
measure  all of it, into one document
table    the document as text
"""
