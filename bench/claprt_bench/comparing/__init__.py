"""`claprt bench compare`: what changed between two results beyond noise.

| module | what it is |
|---|---|
| fields | reads a result, every field checked |
| quantities | each figure of a result, and how its noise is known |
| circumstances | what else differs between the two: machine, versions, method, checks |
| noise | the statistics |
| compare | all of it |
"""
