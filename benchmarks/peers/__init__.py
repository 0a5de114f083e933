"""Other libraries on the same network, data and number of products, in the same run.

    install            makes their environments: `python -m benchmarks.peers.install`
    fleet              one process a library, asked in turn over pipes: A, B, C, A, B, C, ...
    worker             the other end of the pipe; `worker_*` do the work, each by its library
    reference          the same numbers in float64, by none of them
    bench_peers_*      one claim each
    accuracy           errors for equal products, on networks small enough to know the truth of
    accuracy_chemprop  another graph network on the molecules that ours is trained and tested on

The libraries are installed and called by their documented interfaces; none of their code is here.
"""
