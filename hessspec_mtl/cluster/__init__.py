"""A study done by many processes, on one machine or many: what is sent, what comes back, and who.

The work is a list of units (`hessspec_mtl.study.units`), and Dask has them done. The process of the
command alone reads data, and it alone writes results:

    data sets, configurations  ->  every worker, once (a plugin of Dask, which new workers get too)
    a unit and the files that it builds on  ->  a worker, which works in a folder of its own
    the files that it made  ->  back, where they appear in the run's folder, whole

So no disk need be shared. A unit is sent once what it builds on lies on this process's disk: a
worker that dies takes nothing finished with it, and Dask has its unit done by another. What two
workers made by mistake of the network would be equal, and the first to come is kept. A scheduler
that is gone, or a stop by hand, loses the units that were being done and no others.

A unit is done by one thread (`hessspec_mtl.files.threads`), in a process that does one at a time:
results are the same bytes whoever does it, and however many there are.
"""
