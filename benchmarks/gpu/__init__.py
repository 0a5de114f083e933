"""What is run on a GPU that is at hand for a quarter of an hour.

Steps: `python -m benchmarks.gpu.card --out FOLDER`, `.precision`, `.speed`. Each writes
`FOLDER/<step>.json` after every measurement, so that a call that is cut keeps what it had; a second
call goes on where the first one stopped. `--seconds` bounds a call, `--tiny` rehearses it on a CPU.
"""
