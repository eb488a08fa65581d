"""These projects are tested in an environment with them installed, by tests/test_authors.py."""

collect_ignore_glob = ["*"]
