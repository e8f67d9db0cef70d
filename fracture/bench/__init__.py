"""Measures speed, memory and size beside what one would otherwise use, in one run.

    python -m fracture.bench                # all but the next two: under ten minutes
    python -m fracture.bench --only many    # memory over 10,000 films: a quarter of an hour
    python -m fracture.bench --only starts  # 30 starts instead of 5: three minutes
    python -m fracture.bench --quick        # few repetitions, to try it out
    python -m fracture.bench --readme       # the plot and README's table from the JSONs

What is compared is measured in turns, one call of each a round, so that a machine that gets slower
meanwhile slows all alike; figures are medians after warm-up rounds. Films are simulated. A part
that cannot be measured (no Chromium, a library that is not installed) is left out with a reason.
Needs `requirements-dev.txt` and the repository around it, and for the table of other ways to run
the networks `pip install onnx onnxruntime openvino`. How latency grows with clients is measured by
`python tests/load.py`, and shown with the rest.
"""
