"""What the paper claims, in our words, by number; and what to run where data are lacking."""

STATEMENTS = {
    1: "Training errors of all tasks converge to rough equality; test errors differ by task.",
    2: "MP: the Poisson ratio has a higher test error than log G and log K, "
    "although it is a function of G and K.",
    3: "QM8: f1 has the lowest and f2 the highest test error.",
    4: "Traces differ between tasks and epochs by orders of magnitude and flip sign.",
    5: "Most density sits near 0; it is more symmetric about 0 than in image classification.",
    6: "Outliers of either sign, of very large magnitude, come and go; they differ between "
    "tasks and drive the trace.",
    7: "Densities start alike and concentrated near 0 and spread as training goes on.",
    8: "A single multi-task model does worse than a set of single-task models.",
    9: "About 500 samples suffice for the trace.",
    10: "100 Lanczos steps give the extreme eigenvalues, and an approximate density between them.",
    11: "The true dimension of the latent space is far below the number of parameters P.",
    12: "Training error falls relatively smoothly, with occasional regressions for MP.",
}

MEASURE = "python -m hessspec_mtl.reproduce --preset small"
