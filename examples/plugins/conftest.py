"""These projects are tested where they are installed, by tests/discovery/test_authors.py."""

collect_ignore_glob = ["*"]
