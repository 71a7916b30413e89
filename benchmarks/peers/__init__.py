"""
Other packages from PyPI, each as its own documentation shows it: `pip install -e '.[bench]'`.

Each module says what the package guarantees and has an `open_…` for each workload that it can do. Packages are imported in
the child that needs them, as pipebus is.
"""
