"""What hessspec costs, one claim a file; `python -m benchmarks --help` runs them.

    timing      interleaved repeats, medians and quartiles
    machine     what the numbers were measured on: device, versions, matrix-multiplication peak
    claims      a claim, its bars, and the JSON file it ends in
    problems    the networks and data that are measured
    bench_*     one claim each: numbers are checked first, then timed
    peers       other libraries on the same network, data and number of products
    render      the page and the plots in docs/, from the JSON files alone

`accuracy_*.py` are studies of errors and not of time.
"""
