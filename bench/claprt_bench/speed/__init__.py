"""`claprt bench`: how fast a bundle is on this machine, each stage and whole paths, with what makes figures comparable.

| module | what it is |
|---|---|
| options | what to measure |
| inputs | clips, files and texts that it is measured on, in a folder that workers read |
| steps | the stages and paths as functions |
| worker | a process that times some of them: a job on stdin, its result on stdout |
| jobs | what a worker is told, and how it is started |
| plan | what is measured: calls and curves, with their ids |
| checks | values, before any time |
| statistics | figures of many calls |
| noise | whether the machine was quiet |
| open_loop, scaling | parts of their own |
| measure | all of it, into one document |
| table | the document as text |
"""
