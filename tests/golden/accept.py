"""Accept what the translator makes now: `python -m tests.golden.accept`, then read the diff."""

from tests.golden import cases


def main() -> None:
    for topic in cases.topics():
        golden = cases.golden_of(topic)
        before = golden.read_text() if golden.exists() else ""
        after = cases.listings(topic)
        golden.write_text(after)
        print(f"{golden.name}: {'unchanged' if before == after else 'accepted'}")
    for golden in cases.CASES.glob("*.golden"):
        if not golden.with_suffix(".s").exists():
            golden.unlink()
            print(f"{golden.name}: removed, its source is gone")


if __name__ == "__main__":
    main()
