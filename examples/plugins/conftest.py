"""These projects are tested in an environment with them installed, by tests/discovery/test_authors.py."""

collect_ignore_glob = ["*"]
