"""Measures speed, memory and size beside what one would otherwise use, in one run.

    python -m fracture.bench            # everything, under ten minutes on two quiet cores
    python -m fracture.bench --quick    # the same with few repetitions, to try it out
    python -m fracture.bench --readme   # the plot and README's table from the JSON, no measuring

What is compared is measured in turns, one call of each a round, so that a machine that gets slower
meanwhile slows all alike; figures are medians after warm-up rounds. Films are simulated. A part
that cannot be measured (no Chromium, a library that is not installed) is left out with a reason.
Needs `requirements-dev.txt` and the repository around it.
"""
