"""Runs one module of tests for ctest: python3 run_tests.py MODULE. Exit code 77 (ctest's "Skipped") where every test of
it was skipped. What was skipped, and why, also goes to the file that JUPITER_SKIPPED names: jobs/test.sh prints it."""
import os
import sys
import unittest

ALL_SKIPPED = 77


def main():
    suite = unittest.defaultTestLoader.loadTestsFromName(sys.argv[1])
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    if result.skipped and "JUPITER_SKIPPED" in os.environ:
        with open(os.environ["JUPITER_SKIPPED"], "a", encoding="utf-8") as log:
            for test, reason in result.skipped:
                log.write(f"{test.id()}: {reason}\n")
    if not result.wasSuccessful() or result.testsRun + len(result.skipped) == 0:
        return 1
    # A class whose set-up skips it counts as one skipped test and none run.
    return ALL_SKIPPED if len(result.skipped) >= result.testsRun else 0


if __name__ == "__main__":
    sys.exit(main())
