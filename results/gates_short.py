"""Print results/gates_short.csv from the cards of the runs that it is about.

python results/gates_short.py FOLDER, where FOLDER/KIND is what this left, for every kind:
cgate train --recipe balanced --gate KIND --epochs 3 --out FOLDER/KIND
"""

import csv
import json
import sys
from pathlib import Path


def row(card: dict, kind: str) -> dict[str, object]:
    """What one card says; accuracies of the 10,000 test images, float32."""
    gate, majority = card["gate"], card["controls"].get("majority", {})
    cir = card.get("cir", {})
    return {
        "kind": kind,
        "seed": card["seed"],
        "epochs": card["epochs"],
        "top1": f"{card['accuracy']['test']:.4f}",
        "executed_share": f"{card['executed_macs'] / card['dense_macs']:.4f}",
        "top1_majority": f"{majority['accuracy']:.4f}" if majority else "",
        "top1_shuffled": f"{card['controls']['shuffled']['accuracy']:.4f}" if majority else "",
        "open_rates": " ".join(f"{rate['all']:.3f}" for rate in card["open_rates"].values()),
        "exports": "yes" if gate is None or gate["exportable"] else f"no: {gate['refusal']}",
        "cir_correlation": " ".join(f"{each['correlation']:.3f}" for each in cir.values()),
        "cir_agreement": " ".join(f"{each['agreement']:.3f}" for each in cir.values()),
        "n": card["accuracy"]["images"]["test"],
        "commit": card["commit"][:12],
    }


def main(folder: Path) -> None:
    """Write the table to stdout, dearest first."""
    rows = [
        row(json.loads(path.read_text(encoding="utf-8")), path.parent.name)
        for path in folder.glob("*/card.json")
    ]
    rows.sort(key=lambda each: (str(each["executed_share"]), each["kind"]), reverse=True)
    writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
