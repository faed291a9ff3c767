"""``python -m benchmarks.step_time``."""

from benchmarks.step_time.command import main

if __name__ == "__main__":
    main()
