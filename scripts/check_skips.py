"""Print the skipped tests of a JUnit report; fail on reasons not in tests/allowed_skips.txt."""

import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

ALLOWED = Path(__file__).resolve().parent.parent / "tests" / "allowed_skips.txt"


def main(report: str) -> int:
    lines = (line.strip() for line in ALLOWED.read_text().splitlines())
    allowed = [re.compile(line) for line in lines if line and not line.startswith("#")]
    cases = ET.parse(report).getroot().findall(".//testcase")
    if not cases:
        print(f"{report} holds no test")
        return 1
    unexpected = 0
    for case in cases:
        for skip in case.findall("skipped"):
            if skip.get("type") == "pytest.xfail":
                continue
            reason = skip.get("message", "")
            known = any(pattern.fullmatch(reason) for pattern in allowed)
            unexpected += not known
            name = f"{case.get('classname')}::{case.get('name')}"
            print(f"{'skipped' if known else 'NOT ALLOWED'}: {name}: {reason}")
    print(f"{len(cases)} tests, {unexpected} skipped for a reason not in {ALLOWED.name}")
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
